"""Boxes are relative to each query's learned point."""

import torch

from detrnb import Config, build_detr
from detrnb.variants.reference_points import PointQueries


def outputs(model: torch.nn.Module) -> dict:
    features = torch.randn(1, 112, 4, 6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model.eval()(None, torch.zeros(1, 64, 96, dtype=torch.bool), features=features)


def test_a_point_moves_the_centre_of_its_querys_box_and_nothing_else():
    torch.manual_seed(0)
    detr = build_detr(Config.preset("smoke").model)
    torch.manual_seed(0)
    model = build_detr(Config.preset("smoke", variant="reference_points").model)
    plain, moved = outputs(detr), outputs(model)
    points = model.query_embed.points.weight
    assert torch.equal(plain["pred_logits"], moved["pred_logits"])
    boxes = [layer["pred_boxes"].logit() for layer in (plain, *plain["aux_outputs"])]
    relative = [layer["pred_boxes"].logit() for layer in (moved, *moved["aux_outputs"])]
    for before, after in zip(boxes, relative, strict=True):
        torch.testing.assert_close(after[..., :2], before[..., :2] + points, atol=1e-4, rtol=1e-4)
        assert torch.equal(after[..., 2:], before[..., 2:])


def test_points_start_spread_and_with_detrs_weights_in_the_middle():
    model = build_detr(Config.preset("smoke", variant="reference_points").model)
    assert 0.5 < model.query_embed.points.weight.std() < 1.5
    queries, state = PointQueries(5, 6), {}
    queries.start_as_detr(state, "query_embed.")
    assert list(state) == ["query_embed.points.weight"]
    assert not state["query_embed.points.weight"].any()
