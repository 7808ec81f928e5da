"""Denoising agrees with the authors' code, but for what an image would see of its neighbours."""

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from features import features_and_mask
from torch import Tensor

from detrnb import Config, build_criterion, build_detr
from detrnb.boxes import box_iou
from detrnb.loss import SetCriterion
from detrnb.variants.dn_dab import DenoisingQueries, Noise

GOLDEN = reference.read("dn.npz")
D, Q, C, GROUPS, MOST = 16, 4, 7, 5, 3
TARGETS = [
    {k: torch.tensor(GOLDEN[f"image{i}_target_{k}"]) for k in ("labels", "boxes")} for i in (0, 1)
]
# Theirs are the noised queries first, then the matched ones.
THEIR_ORDER = [*range(Q, Q + GROUPS * MOST), *range(Q)]


class GoldenQueries(DenoisingQueries):
    """Draws what the authors' code drew."""

    def draw(self, targets: list, most: int) -> Noise:
        image, slot = GOLDEN["image"], GOLDEN["slot"]
        labels = np.zeros(20, dtype=np.int64)
        labels[GOLDEN["label_random"] < 0.2] = GOLDEN["new_labels"]
        placed = []
        for drawn in (GOLDEN["label_random"], labels, GOLDEN["box_random"]):
            slots = torch.zeros(2, GROUPS * most, *drawn.shape[1:], dtype=torch.tensor(drawn).dtype)
            slots[image, slot] = torch.tensor(drawn)
            placed.append(slots.unflatten(1, (GROUPS, most)))
        return Noise(*placed)


def golden_queries() -> GoldenQueries:
    queries = GoldenQueries(Q, D, C).double().train()
    label_enc = reference.weight("label_enc.weight", (C + 1, D - 1), torch.float64)
    state = {
        "label_enc.weight": label_enc,
        "refpoint_embed.weight": torch.tensor(GOLDEN["anchors"]),
    }
    queries.load_state_dict(state)
    return queries


@torch.no_grad()
def test_queries_agree_with_golden():
    model = golden_queries()
    queries = model(2, model.layout(TARGETS), TARGETS)
    for ours, name in ((queries.content, "query_content"), (queries.anchors, "query_anchors")):
        np.testing.assert_allclose(ours[:, THEIR_ORDER], GOLDEN[name], atol=1e-6, rtol=0)
    assert queries.position is None


@torch.no_grad()
def test_evaluation_has_the_golden_matched_queries_alone():
    model = golden_queries().eval()
    queries = model(2, model.layout(None), None)
    np.testing.assert_allclose(queries.content, GOLDEN["query_content"][:, -Q:], atol=1e-6, rtol=0)
    np.testing.assert_allclose(queries.anchors, GOLDEN["query_anchors"][:, -Q:], atol=1e-6, rtol=0)
    assert queries.blocked is None and model.layout(TARGETS) == model.layout(None)


@torch.no_grad()
def test_blocked_is_golden_but_empty_slots_are_seen_by_themselves_alone():
    model = golden_queries()
    blocked = model(2, model.layout(TARGETS), TARGETS).blocked[:, THEIR_ORDER][:, :, THEIR_ORDER]
    assert torch.equal(blocked[0], torch.tensor(GOLDEN["blocked"]))  # three boxes, no slot is empty
    empty = torch.tensor([slot % MOST > 0 for slot in range(GROUPS * MOST)] + Q * [False])
    expected = torch.tensor(GOLDEN["blocked"]) | empty
    assert torch.equal(blocked[1], expected & ~torch.eye(len(empty), dtype=torch.bool))


class Focal(SetCriterion):
    """The authors' classification, which the golden losses are of."""

    def class_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        wanted = F.one_hot(labels, C + 1)[..., :-1].to(logits.dtype)
        p = torch.where(wanted == 1, logits.sigmoid(), 1 - logits.sigmoid())
        return (torch.where(wanted == 1, 0.25, 0.75) * (1 - p) ** 2 * -p.log()).sum(-1)


def _giou_with_epsilon(a: Tensor, b: Tensor) -> Tensor:
    """The authors', with 1e-6 in both denominators."""
    iou, union = box_iou(a, b)
    around = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(
        -1
    )
    return iou * union / (union + 1e-6) - (around - union) / (around + 1e-6)


def test_losses_of_given_matches_agree_with_golden(monkeypatch):
    monkeypatch.setattr("detrnb.loss.criterion.generalized_box_iou", _giou_with_epsilon)
    logits, boxes = (torch.tensor(GOLDEN[name]) for name in ("logits", "boxes"))
    ours = np.argsort(THEIR_ORDER)
    layers = [
        {"pred_logits": x[:, ours], "pred_boxes": y[:, ours]}
        for x, y in zip(logits, boxes, strict=True)
    ]
    weights = {"loss_ce": 1, "loss_bbox": 5, "loss_giou": 2}
    criterion = Focal(C, Q, 2, {"class": 1, "bbox": 5, "giou": 2}, weights, 0.1)
    layout = golden_queries().layout(TARGETS)
    losses = criterion({**layers[1], "aux_outputs": layers[:1]}, TARGETS, layout)
    for suffix in ("", "_0"):
        for kind in ("ce", "bbox", "giou"):
            found = losses[f"given_loss_{kind}{suffix}"].item()
            assert found == pytest.approx(float(GOLDEN[f"tgt_loss_{kind}{suffix}"]), abs=1e-6)
    assert layout.num_given == 20


def smoke(**options: float) -> Config:
    overrides = {f"model.options.dn_dab.{key}": value for key, value in options.items()}
    return Config.preset("smoke", variant="dn_dab", overrides=overrides)


def target(count: int, draws: int) -> dict:
    generator = torch.Generator().manual_seed(count)
    boxes = 0.3 + 0.3 * torch.rand(count, 4, generator=generator)
    labels = torch.randint(0, 4, (count,), generator=generator)
    return {"labels": labels, "boxes": boxes, "draws": draws}


@torch.no_grad()
def test_an_images_outputs_and_draws_hang_on_no_other_image_of_its_batch():
    model = build_detr(smoke().model).train()
    features, mask = features_and_mask()
    features = features[:1].expand(2, -1, -1, -1)
    mask = torch.zeros_like(mask)
    outputs = []
    for other in (1, 5):
        targets = [target(2, draws=8), target(other, draws=9)]
        layout = model.layout(targets)
        found = model(None, mask, features=features, targets=targets)
        mine = [*range(layout.queries), *layout.given[0][0]]
        outputs.append([found[name][0, mine] for name in ("pred_logits", "pred_boxes")])
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_noise_follows_from_the_targets_draws_alone():
    queries = build_detr(smoke(label_noise=0.9).model).train().query_embed

    def anchors(draws):
        targets = [target(3, draws)]
        return queries(1, queries.layout(targets), targets).anchors

    torch.manual_seed(0)
    first = anchors(5)
    torch.manual_seed(1)
    assert torch.equal(first, anchors(5))
    assert not torch.equal(first, anchors(6))
    with pytest.raises(ValueError, match="no 'draws', the integer"):
        targets = [{k: x for k, x in target(3, 5).items() if k != "draws"}]
        queries(1, queries.layout(targets), targets)


@torch.no_grad()
def test_without_noise_the_given_anchors_are_the_true_boxes_group_by_group():
    queries = build_detr(smoke(label_noise=0, box_noise=0, groups=2).model).train().query_embed
    targets = [target(1, 1), target(3, 2)]
    layout = queries.layout(targets)
    assert (layout.extra, layout.groups) == (6, 1)
    made = queries(2, layout, targets)
    for image, (query, box) in enumerate(layout.given):
        assert len(query) == 2 * len(targets[image]["labels"])
        torch.testing.assert_close(
            made.anchors[image, query].sigmoid(), targets[image]["boxes"][box]
        )
        labels = queries.label_enc(targets[image]["labels"][box])
        assert torch.equal(made.content[image, query], F.pad(labels, (0, 1), value=1.0))


def test_a_batch_without_boxes_has_no_noised_queries_and_no_loss_of_them():
    config = smoke()
    model, criterion = build_detr(config.model).train(), build_criterion(config.model)
    features, mask = features_and_mask()
    targets = [target(0, 1), target(0, 2)]
    layout = model.layout(targets)
    assert layout.extra == 0
    losses = criterion(model(None, mask, features=features, targets=targets), targets, layout)
    given = {name: loss for name, loss in losses.items() if name.startswith("given_")}
    assert len(given) == 9 and not any(given.values())
    criterion.total(losses).backward()
    assert all(p.grad is not None for p in model.query_embed.parameters())


@torch.no_grad()
def test_losses_of_two_parts_of_a_batch_add_up_to_its_own():
    config = smoke()
    model, criterion = build_detr(config.model).train(), build_criterion(config.model)
    features, mask = features_and_mask()
    targets = [target(4, 1), target(1, 2)]

    def losses(rows: slice, normalizers: Tensor | None = None) -> tuple[dict, Tensor]:
        mine = targets[rows]
        layout = model.layout(mine)
        outputs = model(None, mask[rows], features=features[rows], targets=mine)
        own = criterion.normalizers(mine, layout)
        return criterion(outputs, mine, layout, normalizers), own

    parts = [slice(0, 1), slice(1, 2)]
    summed = sum(losses(rows)[1] for rows in parts)
    whole, shares = losses(slice(0, 2))[0], [losses(rows, summed)[0] for rows in parts]
    for name, loss in whole.items():
        torch.testing.assert_close(sum(share[name] for share in shares), loss, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("option", "value"), [("groups", 0), ("label_noise", 1.0), ("box_noise", -0.1)]
)
def test_impossible_options_are_refused(option, value):
    with pytest.raises(ValueError, match=f"options.dn_dab.{option}"):
        smoke(**{option: value})
