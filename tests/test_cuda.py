"""On a CUDA device everything gives what the processor gives; `make gpu` runs what is marked so.

The bodies run on the processor too, so that they are known to work where there is no device; what
is marked `cuda` is skipped there. Two processes on two devices: tests/training/test_processes.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from detrnb import Config, fit
from detrnb.model import build_criterion, build_detr
from detrnb.runs import read_log
from detrnb.settings import BASELINE, VARIANTS

CUDA = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]
NAMES = [name for name, known in VARIANTS.items() if known is None or not known.is_own]
SETTINGS = {
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 2,
    "data.toy.num_images": (16, 8, 2),
    "train.batch_size": 4,
    "train.epochs": 2,
    "train.cache_features": False,
    "train.lr_backbone": 1e-5,
}
# How far losses may be from the processor's in float32, as a share: matrix products of a device
# round to float32, its convolutions to TF32; fp16 leaves out steps until its scale has settled.
OFF = {"fp32": 1e-2, "bf16": 5e-2, "fp16": 0.1}


@contextmanager
def running_on(device: str) -> Iterator[None]:
    """Inside, `default_device` is of this kind."""
    with pytest.MonkeyPatch.context() as patch:
        if device == "cpu":
            patch.setattr(torch.cuda, "is_available", lambda: False)
        AcceleratorState._reset_state(reset_partial_state=True)
        yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Where all runs here are, so that each is trained once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        yield


def losses_of_a_run(device: str, precision: str) -> np.ndarray:
    """Of training and validation, epoch by epoch."""
    config = Config.preset("smoke", overrides=SETTINGS | {"train.precision": precision})
    with running_on(device):
        run = fit(config, name=f"{device}-{precision}")
        assert next(run.model.parameters()).device.type == device
    return np.array([[line["train_loss"], line["test_loss"]] for line in read_log(run.path)])


@pytest.mark.parametrize(
    ("device", "precision"),
    [("cpu", "bf16"), *(pytest.param("cuda", precision, marks=CUDA) for precision in OFF)],
)
def test_training_has_the_losses_of_the_processor(device, precision, project):
    expected, found = losses_of_a_run("cpu", "fp32"), losses_of_a_run(device, precision)
    np.testing.assert_allclose(found, expected, rtol=OFF[precision])
    assert precision == "fp32" or not np.array_equal(found, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_backbone_lies_channels_last_and_predicts_the_same(device):
    config = Config.preset(
        "coco", overrides={"model.backbone": "resnet18", "model.backbone_weights": "none"}
    )
    model = build_detr(config.model).eval()
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        expected = model(model.normalize(images))
        model.place(torch.device(device))
        found = model(model.normalize(images.to(device)))
    kernels = [p for p in model.backbone[0].parameters() if p.dim() == 4 and p.shape[2] > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    for name in ("pred_logits", "pred_boxes"):
        torch.testing.assert_close(found[name].cpu(), expected[name], atol=1e-2, rtol=1e-2)


def step_of(variant: str, device: str, backend: str | None = None) -> np.ndarray:
    """A step's losses and its gradient's norm; the model compiled by a backend of torch's."""
    overrides = {"model.num_encoder_layers": 1, "model.num_decoder_layers": 2}
    settings = Config.preset("smoke", variant=variant, overrides=overrides).model
    torch.manual_seed(0)
    model = build_detr(settings, train_backbone=False).place(torch.device(device)).train()
    criterion = build_criterion(settings).to(device)
    if backend is not None:
        model.compile(backend=backend)
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(2, model.backbone[0].body.num_channels, 8, 8, generator=draw)
    targets = [
        {
            "labels": torch.randint(0, 4, (n,), generator=draw).to(device),
            "boxes": (0.2 + 0.4 * torch.rand(n, 4, generator=draw)).to(device),
            "draws": n,
        }
        for n in (3, 1)
    ]
    outputs = model(None, None, features=features.to(device), targets=targets)
    losses = criterion(outputs, targets, model.layout(targets))
    criterion.total(losses).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert {gradient.device.type for gradient in gradients} == {device}
    norm = torch.nn.utils.get_total_norm(gradients)
    return np.array([value.item() for value in (*losses.values(), norm)])


@pytest.mark.parametrize("variant", NAMES)
@pytest.mark.parametrize("device", DEVICES)
def test_a_step_of_every_variant_is_the_processors(device, variant):
    expected, found = step_of(variant, "cpu"), step_of(variant, device)
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-3)


COMPILED = [("cpu", "aot_eager", name) for name in (BASELINE, "adaptive_res+svd_split")]
COMPILED += [pytest.param("cuda", "inductor", name, marks=CUDA) for name in NAMES]


@pytest.mark.parametrize(("device", "backend", "variant"), COMPILED)
def test_a_compiled_step_is_the_same(device, backend, variant):
    expected, found = step_of(variant, device), step_of(variant, device, backend)
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-3)
