"""A device that is not the processor, pretended, for machines without one.

Its tensors are torch's to the outside, on a device named `elsewhere`, and the processor's inside.
As on a CUDA device, whatever meets one from the processor is refused, unless it copies, indexes, or
has no dimension; and a tensor must come back before NumPy sees it.

As a script, what `test_elsewhere.py` reads: each of DEEDS by itself, in the folder given, on the
processor, for comparison, and on that device.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from interrupting import interrupted
from test_cuda import NAMES, step_of
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

from detrnb import Config, fit, load_run
from detrnb.exchange import export
from detrnb.look import Subject, keep_part
from detrnb.runs import read_log
from detrnb.training import Run, default_device, first_epoch, probing, seconds_per_step

NAME = "elsewhere"
aten = torch.ops.aten
COPYING = (aten.copy_.default, aten._to_copy.default)
# Of these the places, second, may lie on the processor.
INDEXING = (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default)
LIBRARY = torch.library.Library("aten", "IMPL")


class Elsewhere(Tensor):
    """A tensor on the device: the processor's, `inner`, in a wrapper."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Elsewhere":
        wrapper = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),  # as CUDA's, with its number
        )
        wrapper.inner = inner
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        target = kwargs.get("device")
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        meeting = [args[0], *args[2:]] if operation in INDEXING else (args, kwargs)
        tensors = [x for x in tree_leaves(meeting) if isinstance(x, Tensor)]
        apart = [x for x in tensors if x.dim() and not isinstance(x, cls)]
        if apart and operation not in COPYING:
            raise RuntimeError(f"{operation}: one of its tensors is on the processor")
        found = operation(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        if operation is aten.copy_.default:
            return args[0]
        if target is not None and torch.device(target).type == "cpu":
            return found
        known = {id(x.inner): x for x in tensors if isinstance(x, cls)}  # what changes in place

        def outside(x: object) -> object:
            return known.get(id(x), cls(x)) if isinstance(x, Tensor) else x

        return tree_map(outside, found)

    def tolist(self) -> list:
        return self.cpu().tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    def __format__(self, spec: str) -> str:
        return format(self.cpu(), spec)

    def __reduce_ex__(self, protocol: int) -> tuple:
        return self.detach().cpu().__reduce_ex__(protocol)  # files are read on the processor


def _inner(x: object) -> object:
    return x.inner if isinstance(x, Elsewhere) else x


class _Module(_DummyBackendModule):
    """What torch asks of a device's module."""

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def _empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    memory_format = memory_format or torch.contiguous_format
    return Elsewhere(torch.empty(size, dtype=dtype, memory_format=memory_format))


def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
    return Elsewhere(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    target.inner.copy_(_inner(source))
    return target


def pretend() -> None:
    """Make the device, for as long as the process lasts."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")
    LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
    LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")


def run_on(device: str) -> None:
    """Have runs from now on be on a device, in a folder of its name."""
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState.default_device = property(lambda state: torch.device(device))
    os.makedirs(device)
    os.chdir(device)


TINY = {
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 2,
    "data.toy.num_images": (8, 4, 3),
    "train.batch_size": 4,
    "train.epochs": 2,
}
IMAGES = {  # the backbone too, in two passes a step, and averaged weights
    "train.cache_features": False,
    "train.lr_backbone": 1e-5,
    "train.batch_size": 2,
    "train.accumulate": 2,
    "train.ema_decay": 0.9,
    "train.epochs": 1,
}


def losses_of(run: Run) -> list[float]:
    return [line[key] for line in read_log(run.path) for key in ("train_loss", "test_loss")]


def training() -> list[float]:
    """On features, its time told first; broken off, and going on."""
    config = Config.preset("smoke", overrides=TINY)
    with interrupted("evaluate_epoch"):
        fit(config, name="features")
    return losses_of(fit(config, name="features"))


def training_on_images() -> list[float]:
    return losses_of(fit(Config.preset("smoke", overrides=TINY | IMAGES), name="images"))


def a_step_of_every_variant() -> list[float]:
    return np.concatenate([step_of(name, default_device().type) for name in NAMES]).tolist()


def evaluating() -> list[float]:
    run = load_run("runs/features")
    assert next(run.model.parameters()).device.type == default_device().type
    return [run.evaluate("test2017").log["test_loss"]]


def predicting() -> list[float]:
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    predictions = load_run("runs/features").predict(picture, threshold=0.0)
    return [found["score"] for found in predictions.to_coco()]


def timing() -> list[float]:
    """Of a step, as `judge` and a study take it; and an epoch that is no run's."""
    config = Config.preset("smoke", overrides=TINY)
    assert seconds_per_step(config, 1) > 0
    return [first_epoch(config)["train_loss"]]


def looking() -> list[float]:
    """At every attention, and at what is left without a part of one."""
    subject = Subject.from_run(load_run("runs/features"))
    view = subject.look(0)
    maps = [view.recording.maps(name) for name in view.recording.names]
    with keep_part(subject.model, [0], "context"):
        without = subject.evaluate("test2017", limit=2)
    return [*(x.double().std().item() for x in maps), without.log["test_loss"]]


def handing_out() -> list[float]:
    run = load_run("runs/features")
    return [export(run, run.path / "weights.safetensors").stat().st_size]


DEEDS = (
    *(training, training_on_images, a_step_of_every_variant, evaluating, predicting, timing),
    *(looking, handing_out),
)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    pretend()
    probing.PROBED_SHARE = 1.0  # these trainings are too short for it else
    told = {"cpu": {}, NAME: {}}
    for device, found in told.items():
        os.chdir(folder)
        run_on(device)
        for does in DEEDS:
            try:
                found[does.__name__] = does()
            except Exception:
                found[does.__name__] = traceback.format_exc()
    (folder / "told.json").write_text(json.dumps(told))
