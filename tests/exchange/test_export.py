"""Models for use elsewhere: they compute the same there, and nobody needs to guess what goes in."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open

from detrnb import Config, build_detr, fit, load_weights
from detrnb.commands import main
from detrnb.exchange import export
from detrnb.exchange.onnx import Detector, check_onnx
from detrnb.training.run import Run

SMALL = {
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 1,
    "data.toy.num_images": (8, 4, 4),
    "train.batch_size": 4,
    "train.epochs": 1,
}


@pytest.fixture(scope="module", autouse=True)
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        yield fit(Config.preset("smoke", overrides=SMALL), name="small")


def untrained(seed: int) -> Run:
    """A run with a ResNet that was never trained; exporting needs no more."""
    settings = {**SMALL, "model.backbone": "resnet18", "model.stride": 32}
    config = Config.preset("smoke", overrides=settings)
    torch.manual_seed(seed)
    return Run(Path("runs/untrained"), config, build_detr(config.model).eval())


def test_safetensors_hold_every_weight_and_what_they_are_of(run):
    assert main(["export", "runs/small", "--to", "out/model.safetensors"]) == 0
    model = build_detr(run.config.model)
    assert load_weights(model, "out/model.safetensors").changes == ()
    expected = run.model.state_dict()
    assert all(torch.equal(x, expected[key].cpu()) for key, x in model.state_dict().items())
    with safe_open("out/model.safetensors", "pt") as file:
        about = file.metadata()
    assert json.loads(about["classes"]) == ["0", "3", "4", "7"]
    assert json.loads(about["mean"]) == list(model.backbone[0].body.mean)
    assert "RGB: (0..255 / 255 - mean) / std" in about["input"]
    settings = json.loads(about["model"])
    assert Config.from_dict({"model": settings}).model == run.config.model


def test_onnx_of_a_resnet_agrees_with_torch_for_any_batch_and_size():
    run = untrained(seed=0)
    path = export(run, "resnet.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for B, H, W in ((1, 64, 64), (2, 100, 167)):
        images = torch.randint(0, 256, (B, 3, H, W), dtype=torch.uint8)
        mask = torch.zeros(B, H, W, dtype=torch.bool)
        mask[-1, 50:] = mask[-1, :, 40:] = True
        found = session.run(None, {"images": images.numpy(), "padding_mask": mask.numpy()})
        with torch.no_grad():
            expected = run.model(run.model.normalize(images, mask), mask)
        for name, value in zip(("pred_logits", "pred_boxes"), found, strict=True):
            np.testing.assert_allclose(value, expected[name], atol=1e-4, rtol=0)
    about = {prop.key: prop.value for prop in onnx.load(path).metadata_props}
    assert json.loads(about["classes"]) == ["0", "3", "4", "7"]
    assert "uint8 (B, 3, H, W), RGB, 0..255, normalised inside" in about["input"]
    # What does not compute the same is not written for anybody to use.
    with pytest.raises(ValueError, match=r"nothing was written: .* differs from torch's by"):
        check_onnx(Detector(untrained(seed=1).model), path.read_bytes(), None)


def test_onnx_with_a_timm_backbone_is_of_the_images_size(run):
    path = export(run, "toy.onnx")
    images, mask = onnx.load(path).graph.input
    sides = [axis.dim_value for axis in images.type.tensor_type.shape.dim]
    assert sides == [0, 3, 128, 128]


def test_what_cannot_be_exported_is_told(run, monkeypatch, capsys):
    with pytest.raises(ValueError, match=r"ends in '.pt'; expected .safetensors or .onnx"):
        export(run, "model.pt")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", "runs/small", "--to", "model.onnx"]) == 1
    assert "pip install 'detrnb[export]'" in capsys.readouterr().err
