"""Losses and matches agree with the reference implementation (tests/golden/README.md)."""

import numpy as np
import pytest
import reference
import torch

from detrnb.loss import Layout, NonFiniteError
from detrnb.model.detr import build_criterion
from detrnb.settings.config import Config


def golden_outputs() -> dict:
    golden = {k: torch.from_numpy(v) for k, v in reference.read("forward.npz").items()}
    names = ("pred_logits", "pred_boxes")
    aux = [{name: golden[f"aux{i}_{name}"] for name in names} for i in range(5)]
    return {**{name: golden[name] for name in names}, "aux_outputs": aux}


@pytest.fixture(scope="module")
def criterion():
    return build_criterion(Config.preset("coco").model)


@pytest.mark.parametrize("name", reference.TARGETS)
def test_losses_and_total_agree_with_golden(criterion, name):
    losses = criterion(golden_outputs(), reference.TARGETS[name])
    expected = reference.read("losses.json")[name]
    total = expected.pop("total_weighted")
    assert list(losses) == list(expected)
    for key, value in expected.items():
        assert losses[key].item() == pytest.approx(value, rel=1e-4), key
    assert criterion.total(losses).item() == pytest.approx(total, rel=1e-4)
    assert criterion.weight_dict == reference.read("losses.json")["weight_dict"]


@pytest.mark.parametrize("name", reference.TARGETS)
def test_matches_equal_golden(criterion, name):
    outputs = golden_outputs()
    (matches,) = criterion.matcher(
        outputs["pred_logits"][None], outputs["pred_boxes"][None], reference.TARGETS[name]
    )
    expected = reference.read("losses.json")[f"{name}_matches"]
    assert [[q.tolist(), t.tolist()] for q, t in matches] == expected


def test_losses_of_a_batch_without_boxes_are_finite(criterion):
    empty = [reference.TARGETS["four_and_none"][1]] * 2
    losses = criterion(golden_outputs(), empty)
    assert losses.pop("class_error").isnan()  # no box to err about; the reference logs 100
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_bbox"] == losses["loss_giou"] == 0


def test_more_boxes_than_queries_matches_every_query():
    criterion = build_criterion(
        Config.preset(
            "coco", overrides={"model.num_decoder_layers": 1, "model.num_queries": 3}
        ).model
    )
    generator = torch.Generator().manual_seed(0)
    outputs = {
        "pred_logits": torch.randn(1, 3, 92, generator=generator),
        "pred_boxes": torch.rand(1, 3, 4, generator=generator),
    }
    targets = [
        {
            "labels": torch.randint(0, 91, (5,), generator=generator),
            "boxes": torch.rand(5, 4, generator=generator),
        }
    ]
    layers = [outputs[k][None] for k in ("pred_logits", "pred_boxes")]
    ((queries, chosen),) = criterion.matcher(*layers, targets)[0]
    assert queries.tolist() == [0, 1, 2]
    assert len(set(chosen.tolist())) == 3
    assert criterion(outputs, targets)["loss_ce"].isfinite()


def test_two_half_batches_with_shared_normalizers_equal_the_whole(criterion):
    outputs, targets = golden_outputs(), reference.TARGETS["four_and_none"]
    whole = criterion(outputs, targets)
    layout = Layout(100)
    shared = criterion.normalizers(targets, layout)

    def part(i: int) -> dict:
        cut = {k: outputs[k][i : i + 1] for k in ("pred_logits", "pred_boxes")}
        aux = [{k: v[i : i + 1] for k, v in layer.items()} for layer in outputs["aux_outputs"]]
        return criterion({**cut, "aux_outputs": aux}, targets[i : i + 1], layout, shared)

    halves = [part(0), part(1)]
    assert criterion.names(layout) == list(whole) == list(halves[0])
    for key in whole:
        assert sum(h[key] for h in halves).item() == pytest.approx(whole[key].item(), rel=1e-5)


@pytest.mark.parametrize("tensor", ["pred_logits", "pred_boxes"])
@pytest.mark.parametrize("name", [*reference.TARGETS, "empty"])
def test_non_finite_predictions_are_named_with_layer_and_image(criterion, tensor, name):
    outputs = golden_outputs()
    outputs["aux_outputs"][2][tensor][1, 7, 0] = np.nan
    empty = [reference.TARGETS["four_and_none"][1]] * 2
    with pytest.raises(NonFiniteError, match=f"{tensor} of decoder layer 3 ") as error:
        criterion(outputs, reference.TARGETS.get(name, empty))
    assert error.value.images == [1]
