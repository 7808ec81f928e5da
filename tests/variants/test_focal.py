"""Sigmoid focal classification agrees with the authors' code, and its settings are its own."""

import math

import pytest
import reference
import torch
from torch import Tensor

from detrnb import Config, build_criterion, build_detr
from detrnb.settings import ModelConfig
from detrnb.variants.focal import FocalCriterion

GOLDEN = reference.read("focal.npz")
CASES = ("case0", "case1", "case2")


def criterion(num_queries: int = 20, num_layers: int = 1) -> FocalCriterion:
    costs = {"class": 1.0, "bbox": 5.0, "giou": 2.0}
    weights = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    return FocalCriterion(7, num_queries, num_layers, costs, weights, eos_coef=0.1)


def targets(case: str, golden: dict = GOLDEN) -> list[dict[str, Tensor]]:
    return [
        {
            kind: torch.from_numpy(golden[f"{case}_image{i}_target_{kind}"])
            for kind in ("labels", "boxes")
        }
        for i in range(2)
    ]


def outputs(golden: dict = GOLDEN) -> dict[str, Tensor]:
    return {f"pred_{kind}": torch.from_numpy(golden[kind]) for kind in ("logits", "boxes")}


@pytest.mark.parametrize("case", CASES)
def test_costs_and_matches_agree_with_golden(case):
    ours, logits, boxes = criterion(), *(x[None] for x in outputs().values())
    wanted = targets(case)
    cost = ours.matcher.cost(logits, boxes, wanted)
    pairs = ours.matcher(logits, boxes, wanted)[0]
    for i, target in enumerate(wanted):
        n, name = len(target["labels"]), f"{case}_image{i}"
        class_cost = ours.class_cost(logits[:, i : i + 1], target["labels"][None])[0, 0]
        for found, key in ((class_cost, "cost_class"), (cost[0, i, :, :n], "cost")):
            golden = torch.from_numpy(GOLDEN[f"{name}_{key}"])
            torch.testing.assert_close(found, golden, atol=1e-9, rtol=0)
        assert pairs[i][0].tolist() == GOLDEN[f"{name}_queries"].tolist()
        assert pairs[i][1].tolist() == GOLDEN[f"{name}_targets"].tolist()


@pytest.mark.parametrize("case", CASES)
def test_losses_agree_with_golden(case):
    losses = criterion()(outputs(), targets(case))
    for kind in ("loss_ce", "loss_bbox", "loss_giou"):
        assert losses[kind].item() == pytest.approx(GOLDEN[f"{case}_{kind}"].item(), abs=1e-9)


def test_detections_agree_with_golden():
    found = criterion().detections(outputs(), torch.from_numpy(GOLDEN["target_sizes"]))
    for i, image in enumerate(found):
        for kind in ("scores", "labels", "boxes"):
            golden = torch.from_numpy(GOLDEN[f"post{i}_{kind}"])
            torch.testing.assert_close(image[kind], golden, atol=1e-9, rtol=0)
        assert len(image["queries"].unique()) < len(image["queries"])  # several labels of a query


def test_few_queries_and_classes_give_all_pairs():
    few = {name: x[:, :3] for name, x in outputs().items()}
    found = criterion(3).detections(few, torch.ones(2, 2))
    assert [len(image["scores"]) for image in found] == [21, 21]


def test_parts_of_a_batch_sum_up_to_the_whole():
    whole = criterion()(outputs(), targets("case1"))
    ours, parts = criterion(), []
    alone = [targets("case1")[i : i + 1] for i in range(2)]
    total = sum(ours.normalizers(t, ours._layout(None, 20)) for t in alone)
    for i, target in enumerate(alone):
        one = {name: x[i : i + 1] for name, x in outputs().items()}
        parts.append(ours(one, target, normalizers=total))
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value)


def test_starts_at_a_score_of_one_in_a_hundred_with_a_logit_a_class():
    config = Config.preset("smoke", variant="focal").model
    model, ours = build_detr(config), build_criterion(config)
    assert model.class_embed.bias.shape == (config.num_classes,)
    torch.testing.assert_close(model.class_embed.bias.sigmoid(), torch.full((4,), 0.01))
    assert ours.matcher.costs == {"class": 2.0, "bbox": 5.0, "giou": 2.0}
    assert ours.weight_dict["loss_ce"] == ours.weight_dict["loss_ce_0"] == 2.0


def test_logits_far_out_have_finite_losses_and_gradients():
    logits = torch.tensor([[[-300.0, 300.0, 0.0]]], requires_grad=True)
    ours = FocalCriterion(3, 1, 1, {"class": 1, "bbox": 1, "giou": 1}, {"loss_ce": 1}, 0.1)
    for label in range(4):
        loss = ours.class_losses(logits, torch.tensor([[label]])).sum()
        assert math.isfinite(loss.item())
        assert torch.autograd.grad(loss, logits)[0].isfinite().all()


@pytest.mark.parametrize("setting", ["eos_coef", "cost_class", "weight_ce"])
def test_settings_that_would_do_nothing_are_refused(setting):
    with pytest.raises(ValueError, match=f"{setting}=0.7 would do nothing: 'focal'"):
        ModelConfig(variant="focal", **{setting: 0.7})
