"""Groups of queries do not see each other, are matched and judged each by itself, as published."""

from functools import partial

import numpy as np
import pytest
import reference
import torch
from features import features_and_mask
from torch import Tensor

from detrnb import Config, build_criterion, build_detr
from detrnb.loss import Layout, SetCriterion
from detrnb.model.positions import embed_points
from detrnb.variants.focal import FocalCriterion
from detrnb.variants.group import GroupedQueries

GOLDEN = reference.read("group.npz")
Q, K = 6, 2


def criterion(cls: type[SetCriterion] = FocalCriterion) -> SetCriterion:
    costs = {"class": 1.0, "bbox": 5.0, "giou": 2.0}
    weights = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    return cls(7, Q, 1, costs, weights, 0.1)


def targets(case: str) -> list[dict[str, Tensor]]:
    return [
        {
            kind: torch.from_numpy(GOLDEN[f"{case}_image{i}_target_{kind}"])
            for kind in ("labels", "boxes")
        }
        for i in range(2)
    ]


def outputs(queries: slice = slice(None)) -> dict[str, Tensor]:
    return {
        f"pred_{kind}": torch.from_numpy(GOLDEN[kind])[:, queries] for kind in ("logits", "boxes")
    }


def test_who_is_blocked_agrees_with_golden():
    queries = GroupedQueries(Q, 8, groups=K)
    layout = queries.layout(None)
    assert layout == Layout(Q, K)
    blocked = queries(2, layout, None).blocked
    assert blocked.shape == (1, K * Q, K * Q)
    assert torch.equal(blocked[0], torch.from_numpy(GOLDEN["blocked"]))


@torch.no_grad()
def test_conditional_decoder_on_groups_agrees_with_golden():
    from detrnb.variants import conditional

    embed = partial(embed_points, d_model=256, temperature=10000)
    sizes = {"d_model": 256, "num_heads": 8, "dropout": 0.0, "dim_feedforward": 64}
    decoder = conditional.ConditionalDecoder(**sizes, num_layers=2, anchor_size=0, embed=embed)
    keys = reference.read("conditional_decoder_keys.json").items()
    decoder.double().load_state_dict(
        {k: reference.weight(f"decoder.{k}", tuple(s), torch.float64) for k, s in keys}
    )
    random = np.random.RandomState(61)
    shapes = ((2, 42, 256), (2, 42, 256), (K * Q, 256))
    memory, pos, table = (torch.from_numpy(random.standard_normal(shape)) for shape in shapes)
    mask = torch.zeros(2, 6, 7, dtype=torch.bool)
    mask[1, 4:], mask[1, :, 5:] = True, True
    ours = GroupedQueries(Q, 256, groups=K).double()
    ours.load_state_dict({"weight": table[:Q], "others.weight": table[Q:]})  # theirs is one table
    queries = ours(2, ours.layout(None), None)
    hidden, _ = decoder(queries, memory, pos, mask.flatten(1), (6, 7), None)
    golden = torch.from_numpy(GOLDEN["hidden"])
    torch.testing.assert_close(hidden, golden, atol=1e-6, rtol=0)


@pytest.mark.parametrize("case", ["case0", "case1", "case2"])
def test_matches_and_losses_agree_with_golden(case):
    ours, wanted, layout = criterion(), targets(case), Layout(Q, K)
    predictions = (x[None] for x in outputs().values())
    for i, (query, target) in enumerate(ours.matcher(*predictions, wanted, K)[0]):
        assert query.tolist() == GOLDEN[f"{case}_image{i}_queries"].tolist()
        assert target.tolist() == GOLDEN[f"{case}_image{i}_targets"].tolist()
    both, first = ours(outputs(), wanted, layout), ours(outputs(slice(Q)), wanted)
    for kind in ("loss_ce", "loss_bbox", "loss_giou"):
        assert both[kind].item() == pytest.approx(GOLDEN[f"{case}_{kind}"].item(), abs=1e-9)
        golden = GOLDEN[f"{case}_group0_{kind}"].item()
        assert first[kind].item() == pytest.approx(golden, abs=1e-9)


@pytest.mark.parametrize("cls", [SetCriterion, FocalCriterion])
def test_loss_is_the_mean_of_the_groups_losses(cls):
    ours, wanted = criterion(cls), targets("case0")
    predictions = outputs()
    if cls is SetCriterion:
        predictions["pred_logits"] = torch.randn(2, K * Q, 8, dtype=torch.float64)
    both = ours(predictions, wanted, Layout(Q, K))
    halves = [
        ours({name: x[:, k * Q : (k + 1) * Q] for name, x in predictions.items()}, wanted)
        for k in range(K)
    ]
    for kind in ("loss_ce", "loss_bbox", "loss_giou"):
        torch.testing.assert_close(both[kind], (halves[0][kind] + halves[1][kind]) / 2)


@torch.no_grad()
def test_each_group_predicts_what_it_would_alone_and_evaluation_takes_the_first():
    config = Config.preset("smoke", variant="group", overrides={"model.options.group.groups": 3})
    model = build_detr(config.model).double()
    features, mask = features_and_mask()
    features, queries = features.double(), model.query_embed
    together = model(None, mask, features=features)["pred_boxes"]
    assert together.shape[1] == 3 * config.model.num_queries
    model.eval()
    groups = torch.cat([queries.weight, queries.others.weight]).chunk(3)
    for k, group in enumerate(groups):
        queries.weight.copy_(group)
        alone = model(None, mask, features=features)["pred_boxes"]
        torch.testing.assert_close(alone, together.chunk(3, 1)[k], atol=1e-9, rtol=0)


def test_first_group_starts_as_detrs_queries_and_all_groups_learn():
    torch.manual_seed(3)
    detr = build_detr(Config.preset("smoke").model)
    torch.manual_seed(3)
    config = Config.preset("smoke", variant="group").model
    model = build_detr(config)
    assert torch.equal(model.query_embed.weight, detr.query_embed.weight)
    assert model.query_embed.others.weight.shape == (10 * 16, 32)
    assert model.query_embed.others.weight.std().item() == pytest.approx(1, abs=0.05)
    wanted = [{"labels": torch.tensor([1]), "boxes": torch.full((1, 4), 0.4)}] * 2
    features, mask = features_and_mask()
    ours = build_criterion(config)
    found = model(None, mask, features=features, targets=wanted)
    ours.total(ours(found, wanted, model.layout(wanted))).backward()
    assert (model.query_embed.others.weight.grad.abs().sum(1) > 0).all()
    with pytest.raises(ValueError, match="give the criterion the pass's layout"):
        ours(found, wanted)


def test_one_group_is_no_variant():
    with pytest.raises(ValueError, match="options.group.groups"):
        Config.preset("smoke", variant="group", overrides={"model.options.group.groups": 1})
