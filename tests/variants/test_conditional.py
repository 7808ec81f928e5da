"""The conditional decoder agrees with its authors' code."""

import re
from functools import partial

import numpy as np
import pytest
import reference
import torch

from detrnb import Config, build_detr, load_weights
from detrnb.model import Queries
from detrnb.model.positions import embed_points
from detrnb.variants.conditional import ConditionalDecoder

SIZES = {"d_model": 256, "num_heads": 8, "dropout": 0.0, "dim_feedforward": 64, "num_layers": 2}
embed = partial(embed_points, d_model=256, temperature=10000)


def golden_decoder() -> ConditionalDecoder:
    """With the golden weights, in float64, under the authors' own names."""
    decoder = ConditionalDecoder(**SIZES, anchor_size=0, embed=embed).double().eval()
    keys = reference.read("conditional_decoder_keys.json")
    decoder.load_state_dict(
        {k: reference.weight(f"decoder.{k}", s, torch.float64) for k, s in keys.items()}
    )
    return decoder


def golden_inputs() -> tuple[Queries, tuple]:
    """Queries, then memory, pos, padding mask and grid."""
    random = np.random.RandomState(21)
    memory, pos, position = (
        torch.tensor(random.standard_normal(shape))
        for shape in ((2, 42, 256), (2, 42, 256), (5, 256))
    )
    position = position.expand(2, -1, -1)
    return Queries(torch.zeros_like(position), position), (
        memory,
        pos,
        reference.mask_6x7(),
        (6, 7),
    )


def no_box_head(content: torch.Tensor) -> torch.Tensor:
    """This decoder asks for no boxes."""
    raise AssertionError


def test_agrees_with_golden():
    golden, (queries, surroundings) = reference.read("conditional_decoder.npz"), golden_inputs()
    with torch.no_grad():
        hidden, anchors = golden_decoder()(queries, *surroundings, no_box_head)
    np.testing.assert_allclose(hidden, golden["hidden"], atol=1e-6, rtol=0)
    assert len(anchors) == 2
    for point in anchors:
        np.testing.assert_allclose(point.sigmoid(), golden["reference"], atol=1e-6, rtol=0)
        np.testing.assert_allclose(embed(point.sigmoid()), golden["sine"], atol=1e-6, rtol=0)


def test_takes_the_points_that_queries_bring_and_then_has_no_parameters_for_them():
    theirs, (queries, surroundings) = golden_decoder(), golden_inputs()
    ours = ConditionalDecoder(**SIZES, anchor_size=2, embed=embed).double().eval()
    state = {k: x for k, x in theirs.state_dict().items() if "ref_point_head" not in k}
    ours.load_state_dict(state)
    with torch.no_grad():
        hidden, anchors = theirs(queries, *surroundings, no_box_head)
        given = Queries(queries.content, queries.position, anchors[0])
        again, taken = ours(given, *surroundings, no_box_head)
    torch.testing.assert_close(again, hidden)
    assert torch.equal(taken[0], anchors[0])


def authors_state() -> dict[str, torch.Tensor]:
    """A state dict as the authors' code saves it: all its keys and shapes, random numbers.

    Beside the decoder it has the reference's names.
    """
    shapes = {k: s for k, s in reference.read("state_keys.json").items() if ".decoder." not in k}
    shapes |= {"class_embed.weight": (91, 256), "class_embed.bias": (91,)}
    shapes |= {"query_embed.weight": (300, 256)}
    for key, shape in reference.read("conditional_decoder_keys.json").items():
        shape = [2048 if size == 64 else size for size in shape]  # made with less
        # The golden decoder has two layers; all that follow are as the second.
        for i in range(1, 6) if key.startswith("layers.1.") else "0":
            shapes["transformer.decoder." + re.sub(r"^layers\.1\.", f"layers.{i}.", key)] = shape
    generator = torch.Generator().manual_seed(0)
    return {k: torch.randn(tuple(shape), generator=generator) for k, shape in shapes.items()}


def test_the_authors_checkpoint_loads_whole_into_the_join_with_focal(tmp_path):
    state = authors_state()
    assert len(state) == 564  # as of the authors' model, built once beside this
    torch.save({"model": state, "optimizer": {}, "epoch": 49}, tmp_path / "checkpoint.pth")
    overrides = {"model.num_queries": 300}
    config = Config.preset("coco", variant="conditional+focal", overrides=overrides)
    model = build_detr(config.model)
    loaded = load_weights(model, tmp_path / "checkpoint.pth")
    assert set(loaded.loaded) == state.keys() == model.state_dict().keys()
    assert loaded.changes == () and loaded.classes == (91, 91) and loaded.queries == (300, 300)
    assert all(torch.equal(x, state[key]) for key, x in model.state_dict().items())


def test_queries_without_a_position_are_refused():
    queries, surroundings = golden_inputs()
    bare = Queries(queries.content)
    with pytest.raises(ValueError, match="ConditionalDecoder needs queries with a position"):
        golden_decoder()(bare, *surroundings, no_box_head)


def test_boxes_start_at_the_points():
    model = build_detr(Config.preset("smoke", variant="conditional+reference_points").model).eval()
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    with torch.no_grad():
        boxes = model(None, mask, features=torch.randn(1, 112, 4, 6))["pred_boxes"][0]
    torch.testing.assert_close(boxes[:, :2], model.query_embed.points.weight.sigmoid())
    assert (boxes[:, 2:] == 0.5).all()


def test_does_not_go_with_pre_norm():
    with pytest.raises(ValueError, match="'conditional' does not go with pre_norm"):
        Config.preset("smoke", variant="conditional", overrides={"model.pre_norm": True})
