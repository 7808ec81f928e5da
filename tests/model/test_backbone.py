"""Backbones: positions as the reference's, folding changes nothing, weights arrive."""

import copy

import numpy as np
import pytest
import reference
import skimage.data
import timm
import torch
import torch.nn.functional as F
import torchvision

from detrnb.model.backbone import Backbone, ResNetBody
from detrnb.model.positions import PositionEmbeddingSine, embed_points
from detrnb.model.pretrained import _packaged_state, load_backbone_weights


def test_position_embedding_agrees_with_golden():
    mask = torch.zeros(2, 5, 7, dtype=torch.bool)
    mask[1, 3:] = True
    mask[1, :, 4:] = True
    golden = reference.read("forward.npz")["position_embedding"]
    np.testing.assert_allclose(PositionEmbeddingSine(256)(mask), golden, atol=1e-5)


def _random_norms(body: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for name, buffer in body.named_buffers():
        buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5 * ("var" in name))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_folded_norms_give_torchvisions_features_and_gradients(name):
    torch.manual_seed(0)
    backbone = Backbone(name, 32, dilation=False, trainable=True)
    _random_norms(backbone.body)
    plain = torchvision.models.get_model(name, norm_layer=torchvision.ops.FrozenBatchNorm2d)
    plain.load_state_dict(backbone.body.state_dict(), strict=False)
    layers = [getattr(plain, f"layer{i}") for i in (1, 2, 3, 4)]
    stem = (plain.conv1, plain.bn1, F.relu, plain.maxpool)
    images = torch.randn(1, 3, 48, 64)
    expected = images
    for layer in (*stem, *layers):
        expected = layer(expected)
    features = backbone(images)
    largest = expected.detach().abs().max().item()
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4 * largest)
    for result in (features, expected):
        (result / largest).square().mean().backward()
    ours = backbone.body.layer2[0].conv1.weight.grad
    theirs = plain.layer2[0].conv1.weight.grad
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3 * ours.abs().max().item())
    frozen = {n.split(".")[0] for n, p in backbone.body.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}


def _changed_in_place(body: ResNetBody) -> None:
    body.layer2[0].conv1.weight.mul_(2)


def _loaded(body: ResNetBody) -> None:
    body.load_state_dict({name: 2 * tensor for name, tensor in body.state_dict().items()})


def _replaced(body: ResNetBody) -> None:
    body.layer2[0].conv1.weight = torch.nn.Parameter(2 * body.layer2[0].conv1.weight)


def _stepped(body: ResNetBody) -> None:
    """Torch does not count what fused optimizers change."""
    with torch.enable_grad():
        body(torch.ones(1, 3, 32, 32)).sum().backward()
    weights = [p for p in body.parameters() if p.requires_grad]
    torch.optim.AdamW(weights, lr=0.1, fused=True).step()


def _unfrozen_norm(body: ResNetBody) -> None:
    body.layer3[0].bn1.running_var.add_(1)


@pytest.mark.parametrize(
    "change",
    [
        *(_changed_in_place, _loaded, _replaced, _stepped, _unfrozen_norm),
        *(torch.nn.Module.double, lambda body: body.half().float()),
    ],
)
@torch.no_grad()
def test_folded_convolutions_are_kept_until_something_changes(change):
    torch.manual_seed(0)
    body = ResNetBody("resnet18", dilation=False)
    images = torch.randn(1, 3, 32, 48)
    before = body(images)
    kept = {module: entry[2] for module, entry in body._folded._kept.items()}
    body(images)
    assert len(kept) == 40 and all(kept[m] is e[2] for m, e in body._folded._kept.items())
    change(body)
    images = images.to(body.conv1.weight.dtype)
    fresh = copy.deepcopy(body)
    assert not fresh._folded._kept
    assert torch.equal(body(images), fresh(images))
    assert not torch.equal(body(images).float(), before)


def test_what_was_folded_in_inference_mode_is_not_trained_on():
    body = ResNetBody("resnet18", dilation=False)
    with torch.inference_mode():
        body(torch.ones(1, 3, 32, 32))
    body(torch.ones(1, 3, 32, 32)).sum().backward()
    trained = {n for n, p in body.named_parameters() if p.grad is not None}
    assert trained == {n for n, p in body.named_parameters() if p.requires_grad}


def test_dilation_halves_the_stride_and_keeps_the_parameters():
    plain = Backbone("resnet50", 32, dilation=False, trainable=True)
    dilated = Backbone("resnet50", 16, dilation=True, trainable=True)
    assert plain.state_dict().keys() == dilated.state_dict().keys()
    images = torch.randn(1, 3, 64, 96)
    assert plain(images).shape == (1, 2048, 2, 3)
    assert dilated(images).shape == (1, 2048, 4, 6)


@pytest.mark.parametrize("stride", [8, 16])
def test_timm_backbone_has_the_stride_asked_for_and_frozen_norms(stride):
    backbone = Backbone("tf_efficientnet_lite0", stride, dilation=False, trainable=True).train()
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    features = backbone(torch.randn(2, 3, 64, 96))
    assert features.shape[-2:] == (64 // stride, 96 // stride)
    features.sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())  # nothing unused is carried
    assert all(torch.equal(before[name], buffer) for name, buffer in backbone.named_buffers())


def test_packaged_weights_call_the_cat_a_cat():
    image = torch.from_numpy(skimage.data.chelsea()[:, 75:375].copy()).permute(2, 0, 1)[None] / 255
    image = (F.interpolate(image, size=(224, 224), mode="bilinear", antialias=True) - 0.5) / 0.5
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    classifier.load_state_dict(_packaged_state())
    with torch.no_grad():
        assert classifier(image).argmax().item() in (281, 282, 285)  # tabby, tiger or Egyptian cat
        backbone = Backbone("tf_efficientnet_lite0", 16, dilation=False, trainable=False)
        load_backbone_weights(backbone, "tf_efficientnet_lite0", "imagenet")
        features = classifier.conv_stem(image)
        features = classifier.blocks[:5](classifier.bn1(features))
        torch.testing.assert_close(backbone(image), features, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "stride", "message"),
    [
        ("resnet99", 32, "unknown backbone 'resnet99'"),
        ("resnet50", 16, "set model.stride=32"),
        ("tf_efficientnet_lite0", 5, "feature maps of stride"),
    ],
)
def test_impossible_backbones_are_refused(name, stride, message):
    with pytest.raises(ValueError, match=message):
        Backbone(name, stride, dilation=False, trainable=True)


def test_dilation_of_a_timm_backbone_is_refused():
    with pytest.raises(ValueError, match="dilation is for ResNets"):
        Backbone("tf_efficientnet_lite0", 16, dilation=True, trainable=True)


def test_any_timm_model_takes_its_own_weights(tmp_path):
    """ConvNeXt's layers have other names where features are cut out than in the classifier."""
    source = timm.create_model("convnext_atto", features_only=True)
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    backbone = Backbone("convnext_atto", 16, dilation=False, trainable=True)
    load_backbone_weights(backbone, "convnext_atto", str(tmp_path / "weights.pt"))
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(backbone(images), source.eval()(images)[2])


def test_weights_from_a_file_load_or_say_what_is_missing(tmp_path):
    torch.manual_seed(0)
    source = Backbone("resnet18", 32, dilation=False, trainable=True)
    torch.save(source.body.state_dict(), tmp_path / "weights.pt")
    target = Backbone("resnet18", 32, dilation=False, trainable=True)
    load_backbone_weights(target, "resnet18", str(tmp_path / "weights.pt"))
    assert torch.equal(target.body.layer4[0].conv1.weight, source.body.layer4[0].conv1.weight)
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "part.pt")
    with pytest.raises(ValueError, match="lack .* of the backbone's tensors"):
        load_backbone_weights(target, "resnet18", str(tmp_path / "part.pt"))
    with pytest.raises(ValueError, match="no such file"):
        load_backbone_weights(target, "resnet18", str(tmp_path / "absent.pt"))
    other = {**source.body.state_dict(), "conv1.weight": torch.zeros(64, 3, 3, 3)}
    torch.save(other, tmp_path / "other.pt")
    with pytest.raises(
        ValueError, match=r"1 of .* other shapes, first 'conv1.weight', \(64, 3, 3, 3"
    ):
        load_backbone_weights(target, "resnet18", str(tmp_path / "other.pt"))
    (tmp_path / "half.pt").write_bytes((tmp_path / "weights.pt").read_bytes()[:99])
    with pytest.raises(ValueError, match=r"half\.pt is cut off"):
        load_backbone_weights(target, "resnet18", str(tmp_path / "half.pt"))


def test_how_backbone_weights_were_found_in_a_file_is_told(tmp_path):
    source = Backbone("resnet18", 32, dilation=False, trainable=True)
    state = {f"module.{name}": tensor for name, tensor in source.body.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "weights.pt")
    target = Backbone("resnet18", 32, dilation=False, trainable=True)
    notes = load_backbone_weights(target, "resnet18", str(tmp_path / "weights.pt"))
    assert notes == ("taken from 'state_dict'", "names without 'module.', which all began with")
    assert torch.equal(target.body.conv1.weight, source.body.conv1.weight)


def test_imagenet_weights_that_torch_hub_has_only_in_part_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "resnet18-f37072fd.pth").write_bytes(b"PK\x03\x04 half of it")
    backbone = Backbone("resnet18", 32, dilation=False, trainable=True)
    with pytest.raises(ValueError, match=r"resnet18-f37072fd\.pth is not .*: its SHA-256 begins"):
        load_backbone_weights(backbone, "resnet18", "imagenet")


def test_points_are_embedded_as_cells_are():
    mask = torch.zeros(1, 3, 5, dtype=torch.bool)
    cells = PositionEmbeddingSine(16, 20.0)(mask)[0].permute(1, 2, 0)
    row, column = torch.meshgrid(torch.arange(1, 4) / 3, torch.arange(1, 6) / 5, indexing="ij")
    points = torch.stack([column, row], -1)  # x then y
    torch.testing.assert_close(embed_points(points, 16, 20.0), cells, atol=1e-5, rtol=0)
    assert embed_points(points.double(), 16, 20.0).dtype == torch.float64
