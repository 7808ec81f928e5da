"""Logs of other codes than DETR's relatives, as lines like theirs: one reader each.

mmdetection (mmengine's scalars.json, the *.log.json of before), detectron2 and detrex
(metrics.json), Hugging Face's Trainer (trainer_state.json), ultralytics (results.csv). No torch
here.
"""

import csv
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from detrnb.runs.log import COCO_METRICS

KNOWN = (
    "JSON lines of DETR and its relatives (log.txt), mmdetection's scalars.json or *.log.json,"
    " detectron2's metrics.json, Hugging Face's trainer_state.json, ultralytics' results.csv"
)
COCO = "COCO's"
_PLACES = (  # of a log in a run's folder, the first that is there; of several the last
    *("trainer_state.json", "checkpoint-*/trainer_state.json", "metrics.json", "results.csv"),
    *("vis_data/scalars.json", "*/vis_data/scalars.json", "scalars.json", "*.log.json"),
)
_LAYER = re.compile(r"^d(\d+)\.(.+)")  # mmdetection's, of the decoder's layers but the last
_MMDET = dict(zip(COCO_METRICS, ("", "_50", "_75", "_s", "_m", "_l"), strict=False))
_TRAINER = dict(
    zip(
        COCO_METRICS,
        (
            *("map", "map_50", "map_75", "map_small", "map_medium", "map_large"),
            *("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"),
        ),
        strict=True,
    )
)


class ForeignLog(NamedTuple):
    """Another code's log.

    Attributes:
        tool: whose it is.
        lines: as DETR's relatives write them.
        evaluator: who measured AP.
        told: where its AP comes from, and what such a log cannot tell.
    """

    tool: str
    lines: list[dict]
    evaluator: str
    told: tuple[str, ...]


class _Event(NamedTuple):
    """A line of a log: what it says of training or of an evaluation, in which epoch (from 0)."""

    train: Mapping[str, float]
    test: Mapping[str, object]
    epoch: int | None


def foreign_log(path: Path) -> Path | None:
    """The file of another code's log that a path is, or in whose folder it lies."""
    if path.is_dir():
        if (path / "log.txt").exists():
            return None
        return next((max(found, key=_age) for p in _PLACES if (found := [*path.glob(p)])), None)
    known = path.name in ("trainer_state.json", "metrics.json", "scalars.json")
    return path if known or path.suffix == ".csv" or path.name.endswith(".log.json") else None


def _age(path: Path) -> tuple[int, str]:
    """By which checkpoints are ordered as they were written, and time stamps."""
    number = path.parent.name.rpartition("-")[2]
    return (int(number) if number.isdigit() else -1), os.fspath(path)


def read_foreign_log(file: Path) -> ForeignLog:
    """Read it.

    Raises:
        ValueError: it is none of those known.
    """
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    try:
        if file.suffix == ".csv":
            return _ultralytics(text)
        if file.name == "trainer_state.json":
            return _trainer(json.loads(text))
        lines = _json_lines(text)
        if any("iteration" in line for line in lines):
            return _detectron2(lines)
        if any("mode" in line or "step" in line for line in lines):
            return _mmdetection(lines)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is no log that is known ({error}); known are {KNOWN}") from None
    raise ValueError(f"{file} is no log that is known; known are {KNOWN}")


def _json_lines(text: str) -> list[dict]:
    """The objects of a file; a last line that a crash cut short is left out."""
    rows = [row for row in text.split("\n") if row.strip()]
    lines = []
    for number, row in enumerate(rows):
        try:
            lines.append(json.loads(row))
        except ValueError:
            if number + 1 < len(rows):
                raise
    return lines


def _mmdetection(lines: list[dict]) -> ForeignLog:
    def key(line: Mapping) -> str | None:
        return next((k for k in ("coco/bbox_mAP", "bbox_mAP") if k in line), None)

    events = []
    for line in lines:
        epoch = line.get("epoch")
        epoch = None if epoch is None else epoch - 1
        if key(line) is not None:
            stats = _stats(line, {name: key(line) + end for name, end in _MMDET.items()}, 1)
            events.append(_Event({}, stats, None))
        elif line.get("mode") == "val":  # a pass over the validation split for its losses
            losses = {"test_loss": line["loss"]} if "loss" in line else {}
            events.append(_Event({}, losses, epoch))
        else:
            events.append(_Event(_losses(line, "loss"), {}, epoch))
    events = _as_counted(events)  # one that counts by steps says epoch 1 in each line
    used = next((k for k in map(key, lines) if k), "bbox_mAP")
    told = (
        f"AP is mmdetection's {used!r}, from 0 to 1, which it may round to three places",
        "such a log has no loss on the validation split, no AR, no number of parameters and no"
        " number of images",
    )
    return ForeignLog("mmdetection", _rows(events), COCO, (*told, *_by_evaluation(events)))


def _detectron2(lines: list[dict]) -> ForeignLog:
    names = {name: f"bbox/{name}" for name in COCO_METRICS[:6]}
    lines, again = _last_way(lines)
    events = []
    for line in lines:
        test = {}
        if "bbox/AP" in line:
            test = _stats(line, names, 100)
            classes = {k.removeprefix("bbox/AP-"): v for k, v in line.items() if "bbox/AP-" in k}
            test["test_coco_eval_bbox_per_class"] = {k: v / 100 for k, v in classes.items()}
            test["iteration"] = line["iteration"]
        events.append(_Event(_losses(line, "total_loss"), test, None))
    told = (
        "AP is detectron2's 'bbox/AP', which goes from 0 to 100: divided by 100 here",
        "such a log has no loss on the validation split, no AR, no number of parameters and no"
        " number of images",
    )
    told = (*told, *again, *_by_evaluation(events))
    return ForeignLog("detectron2", _rows(events), COCO, told)


def _last_way(lines: list[dict]) -> tuple[list[dict], list[str]]:
    """The lines of the last run in a file that each run goes on in, and what to say of others.

    Where iterations go back, a run was resumed further back, or begun anew in the same folder: what
    the earlier one has from there on is of no run that was finished.
    """
    kept, left = [], 0
    for line in lines:
        while kept and _goes_back(kept[-1], line):
            kept.pop()
            left += 1
        kept.append(line)
    said = (
        f"iterations go back in it, as by a run that was resumed further back or begun anew: {left}"
        " earlier lines are left out"
    )
    return kept, [said] * (left > 0)


def _goes_back(before: Mapping, line: Mapping) -> bool:
    """Whether a line is of an earlier iteration than one before it, or tells the same again."""
    number, last = line.get("iteration", math.inf), before.get("iteration", -1)
    again = any(key in line and key in before for key in ("total_loss", "bbox/AP"))
    return number < last or (number == last and again)


def _trainer(state: Mapping) -> ForeignLog:
    history = [entry for entry in state["log_history"] if "train_runtime" not in entry]
    measured = [entry for entry in history if any(key.startswith("eval_") for key in entry)]
    events = []
    for entry in history:
        test: dict[str, object] = {}
        if entry in measured:
            if "eval_map" in entry:
                test = _stats(entry, {k: f"eval_{name}" for k, name in _TRAINER.items()}, 1)
            if "eval_loss" in entry:
                test["test_loss"] = entry["eval_loss"]
        train = {"train_loss": entry.get("loss"), "train_lr": entry.get("learning_rate")}
        train = {key: value for key, value in train.items() if value is not None}
        events.append(_Event(train, test, math.ceil(entry["epoch"]) - 1))
    events = _as_counted(events)
    told = (
        "AP is 'eval_map', from 0 to 1, of the metrics that the run itself gave its Trainer: most"
        " likely torchmetrics', which measures as COCO does",
        "such a log does not say who measured, nor the number of parameters",
    )
    return ForeignLog("transformers", _rows(events), COCO, (*told, *_by_evaluation(events)))


def _ultralytics(text: str) -> ForeignLog:
    rows = [
        {key.strip(): value.strip() for key, value in row.items() if key}
        for row in csv.DictReader(text.splitlines())
    ]
    if not rows or "metrics/mAP50-95(B)" not in rows[0] or "epoch" not in rows[0]:
        raise ValueError("a table without ultralytics' columns epoch and metrics/mAP50-95(B)")
    first = min(int(float(row["epoch"])) for row in rows)
    lines = []
    for row in rows:
        numbers = {key: float(value) for key, value in row.items() if value}
        line: dict[str, object] = {}
        for theirs, ours in (("train", "train"), ("val", "test")):
            losses = {k: v for k, v in numbers.items() if k.startswith(f"{theirs}/")}
            if losses:
                line[f"{ours}_loss"] = sum(losses.values())
            line |= {f"{ours}_{key.partition('/')[2]}": value for key, value in losses.items()}
        if "lr/pg0" in numbers:
            line["train_lr"] = numbers["lr/pg0"]
        line["test_ultralytics_AP"] = numbers["metrics/mAP50-95(B)"]
        line["test_ultralytics_AP50"] = numbers["metrics/mAP50(B)"]
        lines.append({**line, "epoch": int(numbers["epoch"]) - first})
    told = (
        "AP is ultralytics' 'metrics/mAP50-95(B)', from 0 to 1, of an evaluator of its own, which"
        " is not COCO's: here it is called test_ultralytics_AP, and compared with no other's",
        "such a log has no AP of COCO's, no number of parameters and no number of images; have its"
        " predictions measured by COCO's tool for that",
    )
    return ForeignLog("ultralytics", lines, "ultralytics'", told)


def _losses(line: Mapping, total: str) -> dict[str, float]:
    """Losses and rate of a line of training, under our names: `d0.loss_cls` is layer 0's."""
    numbers = {key: value for key, value in line.items() if isinstance(value, int | float)}
    losses = {_LAYER.sub(r"\2_\1", key): value for key, value in numbers.items()}
    parts = {f"train_{k}": v for k, v in losses.items() if k.startswith("loss_")}
    named = {"train_loss": total, "train_lr": "lr"}
    return {ours: numbers[key] for ours, key in named.items() if key in numbers} | parts


def _stats(line: Mapping, names: Mapping[str, str], scale: float) -> dict[str, object]:
    """COCO's twelve numbers; NaN where the line has none, -1 where it has that."""

    def number(metric: str) -> float:
        value = line.get(names.get(metric, ""))
        if value is None:
            return math.nan
        return value if value == -1 else value / scale

    return {"test_coco_eval_bbox": [number(metric) for metric in COCO_METRICS]}


def _as_counted(events: Sequence[_Event]) -> list[_Event]:
    """Events without their epochs where the split was measured several times within one: a row is
    an evaluation then.
    """
    has_ap = any("test_coco_eval_bbox" in event.test for event in events)
    key = "test_coco_eval_bbox" if has_ap else "test_loss"
    measured: Counter[int | None] = Counter()
    epoch = None
    for event in events:
        epoch = epoch if event.epoch is None else event.epoch
        measured[epoch] += key in event.test
    within = any(times > 1 for place, times in measured.items() if place is not None)
    return [event._replace(epoch=None) for event in events] if within else [*events]


def _by_evaluation(events: Iterable[_Event]) -> list[str]:
    """What to say of a log that counts no epochs."""
    if any(event.epoch is not None for event in events):
        return []
    return ["it counts steps, no epochs: what is called an epoch here is the way to an evaluation"]


def _rows(events: list[_Event]) -> list[dict]:
    """One line an epoch, or where epochs are not counted one an evaluation; training averaged."""
    counted = any(event.epoch is not None for event in events)
    rows: list[dict] = []
    trained: list[Mapping[str, float]] = []
    test: dict[str, object] = {}
    epoch = None

    def close() -> None:
        if trained or test:
            keys = dict.fromkeys(key for numbers in trained for key in numbers)
            means = {key: _mean(n[key] for n in trained if key in n) for key in keys}
            rows.append({**means, **test, "epoch": len(rows) if epoch is None else epoch})
        trained.clear()
        test.clear()

    for event in events:
        if event.epoch is not None and event.epoch != epoch:
            close()
            epoch = event.epoch
        if event.train:
            trained.append(event.train)
        test |= event.test
        if event.test and not counted:
            close()
    close()
    return [row for row in rows if len(row) > 1]


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
