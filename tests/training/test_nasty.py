"""Invariants of training and evaluation, on the nasty model and data set (tests/nasty.py)."""

import json
from pathlib import Path

import nasty
import numpy as np
import pytest
import torch
from by_pycocotools import by_pycocotools
from interrupting import interrupted

from detrnb import fit, load_run, open_split
from detrnb.boxes import cxcywh_to_xyxy, generalized_box_iou
from detrnb.datasets import collate, make_loader, with_classes
from detrnb.loss import Layout
from detrnb.model import build_criterion, build_detr
from detrnb.runs import RunFolder
from detrnb.training import epochs, evaluate, make_accelerator
from detrnb.training.loop import train_one_epoch
from detrnb.training.prepare import build_optimizer, open_data, prepare


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with the data and one finished run."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        nasty.write(folder)
        fit(nasty.config(), name="whole")
    return folder


@pytest.fixture(autouse=True)
def _inside(project, monkeypatch):
    monkeypatch.chdir(project)


def log_of(name: str) -> list[dict]:
    """A run's log, times aside."""
    log = RunFolder(f"runs/{name}").read_log()
    return [{k: v for k, v in line.items() if not k.endswith("_time_s")} for line in log]


def state_of(name: str, checkpoint: str = "last") -> dict:
    return torch.load(f"runs/{name}/{checkpoint}.pt", weights_only=True)


def flat(tree: object, path: str = "") -> dict[str, object]:
    """Leaves of dicts and lists, by path."""
    if isinstance(tree, dict):
        tree = tree.items()
    elif isinstance(tree, list | tuple):
        tree = enumerate(tree)
    else:
        return {path: tree}
    return {k: v for key, value in tree for k, v in flat(value, f"{path}/{key}").items()}


def assert_equal_states(first: dict, second: dict) -> None:
    """Checkpoints equal to the bit: weights, optimizer, log line; times, and their sum, aside."""
    first, second = flat(first), flat(second)
    assert first.keys() == second.keys()
    for key, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[key]), key
        elif "time" not in key and key != "/log_before":
            assert value == second[key], key


def padded_batch(split: str = "train2017") -> tuple:
    """All images of a split in one batch, as in evaluation."""
    dataset = open_split(nasty.config().data, split)
    return collate([dataset[i] for i in range(len(dataset))])


def cut(batch: tuple, at: slice) -> tuple:
    return tuple(part[at] for part in batch)


def train_on(batches: list[tuple], **settings: object) -> tuple:
    """The log's part, gradient norms and weights after these batches; without dropout."""
    config = with_classes(nasty.config(model__dropout=0.0, **settings))
    torch.manual_seed(0)
    model, criterion = build_detr(config.model), build_criterion(config.model)
    accelerator, norms = make_accelerator("fp32"), []
    clip = accelerator.clip_grad_norm_
    accelerator.clip_grad_norm_ = lambda *args: (norms.append(clip(*args)), norms[-1])[1]
    log = train_one_epoch(
        model,
        criterion,
        batches,
        build_optimizer(model, config.train),
        accelerator,
        epoch=0,
        accumulate=config.train.accumulate,
        clip_max_norm=config.train.clip_max_norm,
    )
    return log, [norm.item() for norm in norms], model


def test_boxes_and_labels_are_those_of_the_file():
    content = json.loads(Path("data/nasty/annotations/instances_train2017.json").read_text())
    images, _, targets = padded_batch()
    for image, target in zip(images, targets, strict=True):
        records = [
            a
            for a in content["annotations"]
            if a["image_id"] == target["image_id"] and not a["iscrowd"]
        ]
        width, height = next(
            (i["width"], i["height"]) for i in content["images"] if i["id"] == target["image_id"]
        )
        assert target["orig_size"] == (height, width)
        assert image.shape[1] >= target["size"][0] and image.shape[2] >= target["size"][1]
        labels = [list(nasty.CATEGORIES).index(a["category_id"]) for a in records]
        assert target["labels"].tolist() == labels
        for (cx, cy, w, h), record in zip(target["boxes"].tolist(), records, strict=True):
            x, y, wide, high = record["bbox"]
            right, bottom = min(x + wide, width), min(y + high, height)
            expected = [x / width, y / height, right / width, bottom / height]
            assert [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2] == pytest.approx(
                expected, abs=1e-5
            )


def test_losses_are_those_of_a_plain_count():
    """One image after another, one loop: what the reference does with more boxes than queries."""
    config = with_classes(nasty.config())
    criterion = build_criterion(config.model)
    *_, targets = padded_batch()
    counts = [len(target["labels"]) for target in targets]
    assert counts == nasty.NUM_BOXES
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, nasty.QUERIES, 4, generator=generator)
    boxes = torch.rand(8, nasty.QUERIES, 4, generator=generator) * 0.4 + 0.1
    one_layer = {"pred_logits": logits, "pred_boxes": boxes}
    losses = criterion({**one_layer, "aux_outputs": [one_layer]}, targets)
    weights, ce, l1, giou, off, wrong = 0.0, 0.0, 0.0, 0.0, 0, 0
    for i, (target, matched) in enumerate(
        zip(targets, criterion.matcher(logits[None], boxes[None], targets)[0], strict=True)
    ):
        labels = torch.full((nasty.QUERIES,), 3)
        for query, place in zip(*matched, strict=True):
            labels[query] = target["labels"][place]
            box = boxes[i, query], target["boxes"][place]
            l1 += (box[0] - box[1]).abs().sum()
            giou += 1 - generalized_box_iou(*(cxcywh_to_xyxy(b)[None] for b in box)).squeeze()
            wrong += int(logits[i, query].argmax() != labels[query])
        for query, label in enumerate(labels.tolist()):
            weight = 0.1 if label == 3 else 1.0
            weights += weight
            ce -= weight * logits[i, query].log_softmax(-1)[label]
        off += abs(int((logits[i].argmax(-1) != 3).sum()) - counts[i])
    num_boxes = sum(counts)  # all of them, those without a query too
    num_matched = sum(min(count, nasty.QUERIES) for count in counts)
    for suffix in ("", "_0"):
        assert losses["loss_ce" + suffix].item() == pytest.approx(float(ce / weights), rel=1e-5)
        assert losses["loss_bbox" + suffix].item() == pytest.approx(float(l1 / num_boxes), rel=1e-5)
        assert losses["loss_giou" + suffix].item() == pytest.approx(
            float(giou / num_boxes), rel=1e-5
        )
        assert losses["cardinality_error" + suffix].item() == pytest.approx(off / 8)
    assert losses["class_error"].item() == pytest.approx(100 * wrong / num_matched, rel=1e-5)
    assert criterion.normalizers(targets, Layout(nasty.QUERIES)).tolist() == pytest.approx(
        [num_boxes, weights, num_matched, 8, 0]
    )


def test_parts_train_at_their_own_rates_and_frozen_ones_not_at_all():
    """AdamW moves a weight by about the rate in its first step, whatever its gradient."""
    _, _, model = train_on([padded_batch()], train__lr=1e-3, train__weight_decay=0.0)
    torch.manual_seed(0)
    start = dict(build_detr(with_classes(nasty.config()).model).named_parameters())
    moved = {n: (p - start[n]).abs().max().item() for n, p in model.named_parameters()}
    for name, distance in moved.items():
        if name.startswith(("backbone.0.body.conv1", "backbone.0.body.layer1")):
            assert distance == 0, name
        elif name.startswith("backbone"):
            assert distance == pytest.approx(1e-5, rel=0.05), name
        else:
            assert distance == pytest.approx(1e-3, rel=0.05) or distance == 0, name
    assert np.median([d for n, d in moved.items() if "backbone" not in n]) > 9e-4
    groups = state_of("whole")["optimizer"]["param_groups"]
    assert [group["initial_lr"] for group in groups] == [1e-3, 1e-5]
    assert [group["lr"] for group in groups] == pytest.approx([1e-4, 1e-6])  # dropped once
    assert [line["train_lr"] for line in log_of("whole")] == pytest.approx([1e-3, 1e-3, 1e-4])


def test_evaluation_is_in_evaluation_mode_and_the_same_each_time():
    run = load_run("runs/whole")
    config, accelerator = run.config, make_accelerator("fp32")
    loader = make_loader(open_split(config.data, "val2017"), 3, num_workers=0)
    criterion = build_criterion(config.model)
    found = []
    for _ in range(2):
        run.model.train()  # as it is when an epoch was trained
        found.append(evaluate(run.model, criterion, loader, accelerator))
        assert not run.model.training
    assert found[0].log == found[1].log and found[0].metrics == found[1].metrics
    assert found[0].detections.keys() == set(nasty.IMAGE_IDS["val2017"])
    for image_id, one in found[0].detections.items():
        assert all(torch.equal(one[k], found[1].detections[image_id][k]) for k in one)
    logged = log_of("whole")[-1]
    assert found[0].log == {key: logged[key] for key in found[0].log}
    assert found[0].metrics.stats == logged["test_coco_eval_bbox"]


def test_predictions_do_not_depend_on_neighbours_from_features_on():
    model = load_run("runs/whole").model
    images, mask, _ = padded_batch()
    with torch.no_grad():
        features = model.backbone[0](model.normalize(images, mask))
        together = model(None, mask, features=features)
        for i in range(len(images)):
            height, width = (int((~mask[i]).any(1 - d).sum()) for d in (0, 1))
            small = torch.nn.functional.interpolate(
                mask[i][None, None].float(), size=features.shape[-2:]
            )[0, 0].bool()
            h, w = (int((~small).any(1 - d).sum()) for d in (0, 1))
            alone = model(
                None,
                torch.zeros(1, height, width, dtype=torch.bool),
                features=features[i : i + 1, :, :h, :w],
            )
            for name in ("pred_logits", "pred_boxes"):
                torch.testing.assert_close(
                    together[name][i], alone[name][0], atol=1e-4, rtol=1e-4, msg=f"{name} {i}"
                )


def test_ap_is_that_of_pycocotools_on_the_file():
    """Of the detections as a file of results, against the annotations as they are on disk."""
    run = load_run("runs/whole")
    found = run.evaluate()
    file = Path("data/nasty/annotations/instances_val2017.json")
    assert found.metrics == by_pycocotools(file, found.detections)
    detected = {i for one in found.detections.values() for i in one["category_ids"].tolist()}
    assert detected <= set(nasty.CATEGORIES)
    assert found.metrics.stats == log_of("whole")[-1]["test_coco_eval_bbox"]
    assert set(found.metrics.per_class) == set(nasty.CATEGORIES.values())


def test_best_checkpoint_is_of_the_epoch_with_the_best_ap():
    aps = [line["test_coco_eval_bbox"][0] for line in log_of("whole")]
    assert max(aps) > 0
    best = state_of("whole", "best")
    assert best["epoch"] == int(np.argmax(aps))
    found = load_run("runs/whole", "best").evaluate()
    assert found.metrics.stats[0] == max(aps)


def test_augmentation_and_order_change_with_the_epoch():
    accelerator = make_accelerator("fp32")
    config = with_classes(nasty.config())
    ready = prepare(config, accelerator, open_data(config, accelerator))
    seen = []
    for epoch in (0, 1, 0):
        ready.train_loader.batch_sampler.set_epoch(epoch)
        ready.train_set.set_epoch(epoch)
        batches = [*ready.train_loader]
        ids = [t["image_id"] for *_, targets in batches for t in targets]
        sizes = {t["image_id"]: (t["size"], t["boxes"].tolist()) for *_, ts in batches for t in ts}
        seen.append((ids, sizes))
    assert seen[0] == seen[2]
    assert seen[0][0] != seen[1][0]
    assert any(seen[0][1][i] != seen[1][1][i] for i in seen[0][1].keys() & seen[1][1].keys())


@pytest.mark.parametrize("size", [1, 2, 4])
def test_accumulated_batches_equal_one_large_batch(size):
    """Also where parts hold no box, or more than queries; the padding is the large batch's."""
    whole = padded_batch()
    parts = [cut(whole, slice(i, i + size)) for i in range(0, 8, size)]
    log, norms, model = train_on([whole], train__batch_size=8)
    ours, our_norms, other = train_on(parts, train__accumulate=len(parts))
    assert ours == pytest.approx(log, rel=1e-4)
    assert our_norms == pytest.approx(norms, rel=1e-3)
    torch.manual_seed(0)
    start = build_detr(with_classes(nasty.config()).model)
    theirs, mine, before = (
        torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (model, other, start)
    )
    assert (mine - theirs).norm() < 0.02 * (theirs - before).norm()


@pytest.mark.parametrize("limit", [0.0, 0.1])
def test_gradients_are_clipped_to_their_norm_or_left_as_they_are(limit):
    _, (norm,), model = train_on([padded_batch()], train__clip_max_norm=limit)
    assert norm > 1
    left = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert left.item() == pytest.approx(limit or norm, rel=1e-4)


def test_every_epoch_draws_its_own_dropout_and_each_run_the_same(monkeypatch):
    drawn = []

    def noting(*given, **settings):
        drawn.append(torch.get_rng_state())
        return train_one_epoch(*given, **settings)

    monkeypatch.setattr(epochs, "train_one_epoch", noting)
    for name, seed in (("drawn", 0), ("drawn-again", 0), ("drawn-other", 1)):
        fit(nasty.config(train__seed=seed, train__epochs=2), name=name)
    first, again, other = drawn[:2], drawn[2:4], drawn[4:]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    states = [state.numpy().tobytes() for state in [*first, *other]]
    assert len(set(states)) == 4


def test_seeds_differ_in_weights_order_and_dropout():
    fit(nasty.config(train__seed=1, train__epochs=1), name="seeded")
    assert log_of("seeded")[0]["train_loss"] != log_of("whole")[0]["train_loss"]


@pytest.mark.parametrize("where", ["train_epoch", "evaluate_epoch"])
def test_run_that_was_stopped_ends_as_the_unbroken_to_the_bit(where):
    with interrupted(where):
        fit(nasty.config(), name=f"stopped-{where}")
    assert len(log_of(f"stopped-{where}")) == 1
    fit(nasty.config(), name=f"stopped-{where}")
    assert log_of(f"stopped-{where}") == log_of("whole")
    for checkpoint in ("last", "best"):
        states = (state_of(name, checkpoint) for name in (f"stopped-{where}", "whole"))
        assert_equal_states(*states)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_equal_config_gives_equal_log_and_weights(precision):
    for name in ("one", "two"):
        fit(nasty.config(train__precision=precision), name=f"{precision}-{name}")
    one, two = f"{precision}-one", f"{precision}-two"
    assert log_of(one) == log_of(two)
    assert_equal_states(state_of(one), state_of(two))
    assert (log_of(one) == log_of("whole")) == (precision == "fp32")
