"""`train.compile`: the model as torch's compiler traces and differentiates it.

Code is not generated here, which takes minutes: the graphs run on torch's own kernels. So this
holds that DETR can be traced, in training and in evaluation, not what generated code gives. A step
of variants, compiled, is in `tests/test_cuda.py`, of each of them on a CUDA device.
"""

from functools import partial

import numpy as np
import pytest
import torch
from interrupting import interrupted
from torch._dynamo.utils import counters

from detrnb import Config, fit
from detrnb.runs import read_log

TINY = {
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 2,
    "data.toy.num_images": (12, 4, 4),
    "train.batch_size": 4,
    "train.epochs": 2,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return tmp_path_factory.mktemp("project")


@pytest.fixture(autouse=True)
def _inside(project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    counters.clear()


def numbers(name: str) -> np.ndarray:
    """A run's losses, epoch by epoch."""
    keys = [key for key in read_log(f"runs/{name}")[0] if "loss" in key]
    return np.array([[line[key] for key in keys] for line in read_log(f"runs/{name}")])


def test_compiled_model_trains_as_itself_and_keeps_its_names():
    found = {}
    for compiled in (False, True):
        config = Config.preset("smoke", overrides=TINY | {"train.compile": compiled})
        found[compiled] = fit(config, name=f"detr-{compiled}")
        assert (counters["frames"]["ok"] > 0) == compiled
    plain, traced = (numbers(f"detr-{compiled}") for compiled in (False, True))
    np.testing.assert_allclose(traced, plain, rtol=1e-4)
    states = [found[compiled].model.state_dict().keys() for compiled in (False, True)]
    assert states[0] == states[1]
    kept = torch.load(found[True].path / "last.pt", weights_only=True)["model"]
    assert kept.keys() == states[0]


def test_compiled_run_goes_on_where_it_was_stopped(capsys):
    config = Config.preset("smoke", overrides=TINY | {"train.compile": True})

    fit(config, name="detr-True")
    with interrupted("train_epoch"):
        fit(config, name="stopped")
    fit(config, name="stopped")
    assert "train.compile: the first steps wait" in capsys.readouterr().out
    # Not to the bit: what is compiled depends on the shapes that were met before.
    np.testing.assert_allclose(numbers("stopped"), numbers("detr-True"), rtol=1e-5)
