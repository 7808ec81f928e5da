"""Anchor boxes and their decoder agree with the authors' code."""

from functools import partial

import numpy as np
import pytest
import reference
import torch
from torch import nn

from detrnb import Config, build_detr
from detrnb.model import Queries
from detrnb.model.detr import MLP
from detrnb.model.positions import embed_points
from detrnb.variants.dab import AnchorDecoder, inverse_sigmoid

SIZES = {"d_model": 256, "num_heads": 8, "dropout": 0.0, "dim_feedforward": 64, "num_layers": 2}
embed = partial(embed_points, d_model=256, temperature=10000)


def close(ours: torch.Tensor, golden: np.ndarray) -> None:
    np.testing.assert_allclose(ours.detach(), golden, atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def passed() -> dict[str, torch.Tensor]:
    """What the golden file holds, by ours."""
    decoder, box_head = AnchorDecoder(**SIZES, embed=embed), MLP(256, 4)
    for layer in decoder.layers:  # theirs; ours is ReLU
        layer.activation = nn.PReLU()
    for prefix, module in (("decoder.", decoder), ("bbox_embed.", box_head)):
        keys = reference.read("dab_decoder_keys.json").items()
        state = {k: reference.weight(k, s, torch.float64) for k, s in keys if k.startswith(prefix)}
        module.double().load_state_dict({k.removeprefix(prefix): x for k, x in state.items()})
    random = np.random.RandomState(31)
    shapes = ((2, 42, 256), (2, 42, 256), (5, 4), (2, 2, 5, 4))
    memory, pos, anchors, c = (torch.tensor(random.standard_normal(shape)) for shape in shapes)
    anchors[0, 0] = 8
    anchors.requires_grad_()
    queries = Queries(torch.zeros(2, 5, 256).double(), anchors=anchors.expand(2, -1, -1))
    hidden, relative = decoder(queries, memory, pos, reference.mask_6x7(), (6, 7), box_head)
    boxes = (box_head(hidden) + torch.stack(relative)).sigmoid()
    (boxes * c).sum().backward()
    return {
        "hidden": hidden,
        "relative": torch.stack(relative),
        "sine": torch.cat(
            [embed(x) for x in (anchors[:, :2].sigmoid(), anchors.sigmoid()[:, [3, 2]])], -1
        ),
        "boxes": boxes,
        "grad_refpoint_embed": anchors.grad,
        "grad_bbox_bias": box_head.layers[-1].bias.grad,
    }


@pytest.mark.parametrize(
    "name", ["hidden", "sine", "boxes", "grad_refpoint_embed", "grad_bbox_bias"]
)
def test_agrees_with_golden(passed, name):
    close(passed[name], reference.read("dab_decoder.npz")[name])


def test_boxes_are_relative_to_the_golden_anchors_cut_off_as_theirs(passed):
    anchors = torch.tensor(reference.read("dab_decoder.npz")["reference"])
    close(passed["relative"], inverse_sigmoid(anchors))
    assert anchors[0, 0, 0, 0] > 0.999  # beyond the bound, which DETR's 1e-5 would not be


def test_first_boxes_are_the_anchors_and_nothing_else_is_learned_of_queries():
    model = build_detr(Config.preset("smoke", variant="dab").model).eval()
    assert [name for name, _ in model.query_embed.named_parameters()] == ["refpoint_embed.weight"]
    features, mask = torch.randn(1, 112, 4, 6), torch.zeros(1, 64, 96, dtype=torch.bool)
    with torch.no_grad():
        found = model(None, mask, features=features)
    for layer in (found, *found["aux_outputs"]):  # the box head starts at 0
        anchors = model.query_embed.refpoint_embed.weight.sigmoid()
        torch.testing.assert_close(layer["pred_boxes"][0], anchors)
