"""Deformable attention agrees with the authors' code, and padding tells it nothing."""

import numpy as np
import pytest
import reference
import torch
from features import features_and_mask
from torch import Tensor

from detrnb import Config, build_detr
from detrnb.look import record_attention
from detrnb.training.prepare import build_optimizer
from detrnb.variants.deformable import DeformableCrossAttention, DeformableEncoderAttention

GOLDEN = reference.read("deformable_attention.npz")
GRID = (6, 7)


def golden(name: str) -> Tensor:
    return torch.from_numpy(GOLDEN[name]).double()


def with_golden_weights(cls: type) -> torch.nn.Module:
    module = cls(256, 8, points=4).double()
    keys = reference.read("deformable_attention_keys.json")
    module.load_state_dict(
        {k: reference.weight(f"attention.{k}", tuple(s), torch.float64) for k, s in keys.items()}
    )
    module.record = True
    return module


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """memory, pos, query, padding mask."""
    random = np.random.RandomState(41)
    shapes = ((2, 42, 256), (2, 42, 256), (2, 5, 256))
    mask = torch.zeros(2, *GRID, dtype=torch.bool)
    mask[1, 4:], mask[1, :, 5:] = True, True
    arrays = [torch.from_numpy(random.standard_normal(shape)) for shape in shapes]
    return (*arrays, mask.flatten(1))


def assert_agrees(module: torch.nn.Module, output: Tensor, case: str, atol: float) -> None:
    torch.testing.assert_close(output, golden(f"{case}_output"), atol=atol, rtol=0)
    places = golden(f"{case}_locations").transpose(1, 2)
    torch.testing.assert_close(module.recorded["points"], places, atol=atol, rtol=0)
    weights = golden(f"{case}_weights").transpose(1, 2)
    torch.testing.assert_close(module.recorded["weights"], weights, atol=1e-12, rtol=0)


def test_encoder_agrees_with_golden():
    memory, pos, _, mask = inputs()
    module = with_golden_weights(DeformableEncoderAttention)
    around = golden("encoder_points")  # the authors' own, rounded to float32
    assert_agrees(module, module.sample(memory + pos, around, memory, mask, GRID), "encoder", 1e-12)
    assert_agrees(module, module(memory, pos, mask, GRID), "encoder", 1e-6)


@pytest.mark.parametrize(("case", "anchors"), [("decoder2", "points"), ("decoder4", "boxes")])
def test_decoder_agrees_with_golden(case, anchors):
    memory, pos, query, mask = inputs()
    module = with_golden_weights(DeformableCrossAttention)
    position = torch.randn(2, 5, 256, dtype=torch.float64)
    anchors = golden(anchors).logit()
    output = module(query - position, position, anchors, memory, pos, mask, GRID)
    assert_agrees(module, output, case, 1e-12)


def test_starts_as_the_authors_do():
    module = DeformableEncoderAttention(256, 8)
    bias = module.sampling_offsets.bias.view(8, 4, 2).double()
    torch.testing.assert_close(bias, golden("initial_offset_bias"), atol=1e-5, rtol=0)
    assert module.sampling_offsets.weight.abs().max() == 0
    assert module.attention_weights.weight.abs().max() == 0
    assert module.value_proj.weight.abs().max().item() == pytest.approx((6 / 512) ** 0.5, rel=1e-3)
    model = build_detr(Config.preset("smoke", variant="deformable").model)
    built = model.transformer.encoder.layers[0].self_attn
    expected = DeformableEncoderAttention(32, 4).sampling_offsets.bias
    assert torch.equal(built.sampling_offsets.bias, expected)  # not drawn anew by the model
    assert model.query_embed.reference_points.bias.abs().max() == 0
    last = model.bbox_embed.layers[-1]
    assert last.weight.abs().max() == 0 and last.bias.tolist() == [0, 0, -2, -2]


def test_offsets_and_points_learn_at_a_tenth_of_the_rate():
    config = Config.preset("smoke", variant="deformable")
    model = build_detr(config.model, train_backbone=False)
    slow = build_optimizer(model, config.train).param_groups[-1]
    names = {id(p): name for name, p in model.named_parameters()}
    kinds = {names[id(p)].split(".")[-2] for p in slow["params"]}
    assert kinds == {"sampling_offsets", "reference_points"}
    assert slow["lr"] == pytest.approx(config.train.lr / 10)


def test_boxes_start_at_the_points_and_what_is_sampled_can_be_seen():
    config = Config.preset("smoke", variant="deformable").model
    model, (features, mask) = build_detr(config).eval(), features_and_mask()
    with torch.no_grad(), record_attention(model) as recording:
        boxes = model(None, mask, features=features)["pred_boxes"]
        points = model.query_embed.reference_points(model.query_embed.weight).sigmoid()
    torch.testing.assert_close(boxes[0, :, :2], points)
    torch.testing.assert_close(boxes[..., 2:], torch.full((2, 16, 2), -2.0).sigmoid())
    assert recording.missing == ()
    assert recording.maps("encoder.1.self", 1).shape == (4, 4, 6, 4, 6)
    cross = recording.maps("decoder.2.cross", 1)
    assert cross.shape == (4, 16, 4, 6)
    # What falls outside the image is lost, the rest near the query's point.
    assert 0.2 < cross.sum((-2, -1)).mean() < 1
    columns = (cross.sum((0, 2)) * torch.arange(0.5, 6)).sum(-1) / cross.sum((0, 2, 3))
    assert (columns / 6 - points[:, 0]).abs().mean() < 0.2


def test_anchors_are_asked_for():
    module = DeformableCrossAttention(8, 2)
    x = torch.zeros(1, 6, 8)
    with pytest.raises(ValueError, match="needs queries with anchors"):
        module(x, x, None, x, x, None, (2, 3))


class OnMap(torch.nn.Module):
    """Self-attention of a feature map's cells (B, D, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = DeformableEncoderAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        cells, mask = x.flatten(2).transpose(1, 2), x[:, 0].flatten(1) > 1
        return self.attention(cells, cells, mask, tuple(x.shape[-2:]))


def test_can_be_exported_for_any_batch_and_size():
    dims = {i: torch.export.Dim(f"d{i}", min=2) for i in (0, 2, 3)}
    module = OnMap().eval()
    torch.nn.init.normal_(module.attention.sampling_offsets.weight)
    exported = torch.export.export(module, (torch.randn(2, 8, 3, 5),), dynamic_shapes=(dims,))
    x = torch.randn(3, 8, 6, 4)
    torch.testing.assert_close(exported.module()(x), module(x))


@pytest.mark.parametrize("anchor_size", [2, 4])
def test_padding_and_what_it_holds_tell_nothing(anchor_size):
    torch.manual_seed(0)
    module = DeformableCrossAttention(8, 2)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    query, anchors = torch.randn(1, 5, 8), torch.randn(1, 5, anchor_size)
    alone = torch.randn(1, 3, 4, 8)
    padded = torch.full((1, 5, 7, 8), torch.inf)
    padded[:, :3, :4] = alone
    mask = torch.ones(1, 5, 7, dtype=torch.bool)
    mask[:, :3, :4] = False
    small, large = (
        module(query, None, anchors, x.flatten(1, 2), None, m, tuple(x.shape[1:3]))
        for x, m in ((alone, None), (padded, mask.flatten(1)))
    )
    torch.testing.assert_close(small, large)
