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


def boxes_of(*sizes: int, generator: torch.Generator) -> torch.Tensor:
    centre, side = (torch.rand(*sizes, 2, generator=generator) for _ in range(2))
    return torch.cat([0.3 + 0.4 * centre, 0.05 + 0.4 * side], -1)


def groups_of(num_groups: int, dtype: torch.dtype = torch.float32) -> tuple[list[dict], dict]:
    """Predictions of groups of 6 queries of two decoder layers, apart and joined."""
    generator = torch.Generator().manual_seed(4)

    def layer() -> dict:
        logits = torch.randn(2, 6, 92, generator=generator).to(dtype)
        boxes = boxes_of(2, 6, generator=generator).to(dtype)
        return {"pred_logits": logits, "pred_boxes": boxes}

    groups = [{**layer(), "aux_outputs": [layer()]} for _ in range(num_groups)]
    names = ("pred_logits", "pred_boxes")
    layers = [[g["aux_outputs"][0] for g in groups], groups]
    aux, last = ({n: torch.cat([x[n] for x in parts], 1) for n in names} for parts in layers)
    return groups, {**last, "aux_outputs": [aux]}


@pytest.fixture
def six_queries():
    overrides = {"model.num_queries": 6, "model.num_decoder_layers": 2}
    return build_criterion(Config.preset("coco", overrides=overrides).model)


def test_each_group_is_matched_by_itself_and_losses_are_the_groups_means(six_queries):
    groups, joined = groups_of(3)
    targets, layout = reference.TARGETS["three_and_five"], Layout(6, groups=3)
    alone = [six_queries(outputs, targets) for outputs in groups]
    together = six_queries(joined, targets, layout)
    for name in ("loss_ce", "loss_bbox", "loss_giou", "loss_ce_0", "loss_bbox_0", "loss_giou_0"):
        mean = sum(losses[name] for losses in alone) / 3
        torch.testing.assert_close(together[name], mean)
    for name in ("class_error", "cardinality_error", "cardinality_error_0"):  # of the first
        torch.testing.assert_close(together[name], alone[0][name])
    layers = (joined["pred_logits"][None], joined["pred_boxes"][None])
    (matches,) = six_queries.matcher(*layers, targets, groups=3)
    for image, (queries, chosen) in enumerate(matches):
        count = len(targets[image]["labels"])
        assert (np.diff(queries) > 0).all() and len(queries) == 3 * count
        assert np.bincount(queries // 6).tolist() == [count] * 3
        assert sorted(chosen.tolist()) == sorted(list(range(count)) * 3)


def test_given_matches_are_judged_apart_and_never_as_no_object(six_queries):
    groups, outputs = groups_of(2)  # the second group stands for extra queries
    targets = reference.TARGETS["three_and_five"]
    given = tuple((6 + np.arange(n), np.arange(n)[::-1].copy()) for n in (3, 5))
    layout = Layout(6, extra=6, given=given)
    losses = six_queries(outputs, targets, layout)
    assert list(losses) == six_queries.names(layout)
    plain = six_queries(groups[0], targets)
    assert all(torch.equal(losses[name], value) for name, value in plain.items())
    rows = [(image, q, t) for image, pairs in enumerate(given) for q, t in zip(*pairs, strict=True)]
    expected = sum(
        -outputs["pred_logits"][i, q].log_softmax(-1)[targets[i]["labels"][t]] for i, q, t in rows
    )
    torch.testing.assert_close(losses["given_loss_ce"], expected / 8)
    expected = sum(
        (outputs["pred_boxes"][i, q] - targets[i]["boxes"][t]).abs().sum() for i, q, t in rows
    )
    torch.testing.assert_close(losses["given_loss_bbox"], expected / 8)
    total = six_queries.total(plain)
    for kind, weight in {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}.items():
        total = total + weight * (losses[f"given_{kind}"] + losses[f"given_{kind}_0"])
    torch.testing.assert_close(six_queries.total(losses), total)


def test_no_given_pair_in_the_batch_divides_by_one(six_queries):
    _, outputs = groups_of(2)
    none = (np.empty(0, int), np.empty(0, int))
    layout = Layout(6, extra=6, given=(none, none))
    losses = six_queries(outputs, [reference.TARGETS["four_and_none"][1]] * 2, layout)
    assert losses["given_loss_ce"] == losses["given_loss_giou_0"] == 0


def test_float64_stays_float64(six_queries):
    _, outputs = groups_of(1, torch.float64)
    losses = six_queries(outputs, reference.TARGETS["three_and_five"])
    assert {loss.dtype for loss in losses.values()} == {torch.float64}
    found = six_queries.detections(outputs, torch.tensor([[4, 5], [6, 7]]))
    assert found[0]["boxes"].dtype == torch.float64
