"""Wide: four processes train what one does, for every variant, whatever the last batch holds."""

import json
from collections.abc import Iterator
from pathlib import Path

import nasty

from detrnb.runs import RunFolder
from detrnb.settings import VARIANTS
from detrnb.training import load_run
from soak.drill import Drill, Try
from soak.forking import Child
from soak.runs import together, trained, typed

PROCESSES = 4
EXACT, NEAR = 1e-6, 2e-4


def project(folder: Path) -> None:
    """Eight images to train on, two without boxes; five to evaluate, of which four have a part."""
    nasty.write(folder)
    file = folder / "data" / "nasty" / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    empty = {content["images"][0]["id"], 5}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in empty]
    file.write_text(json.dumps(content))


def compared(folder: Path, variant: str) -> str:
    """Log of four processes with one image each, against one process with four passes a step."""
    common = {"train__epochs": 2, "model__dropout": 0.0, "data__train_sizes": [48]}
    common |= {"data__flip": False}
    passes = {"train__batch_size": 1, "train__accumulate": PROCESSES}
    alone = trained(folder, *typed(f"one-{variant}", variant, **passes, **common))
    if alone.code != 0:
        return f"one process: {alone.said[-300:]}"
    line = typed(f"four-{variant}", variant, train__batch_size=1, **common)
    children = together(folder, PROCESSES, line)
    codes = [child.wait() for child in children]
    if codes != [0] * PROCESSES:
        return f"ended with {codes}: {children[0].said[-300:]}"
    logs = [RunFolder(folder / "runs" / f"{n}-{variant}").read_log() for n in ("one", "four")]
    if [len(log) for log in logs] != [2, 2]:
        return f"{[len(log) for log in logs]} epochs are logged"
    for one, four in zip(*logs, strict=True):
        for key in one:
            # Evaluation's means are over batches, of which four processes have others.
            if key.startswith("train_loss") and not _near(one[key], four[key]):
                return f"epoch {one['epoch']}, {key}: {one[key]:.6g} by one, {four[key]:.6g}"
    # By the same weights: those of the two runs differ by rounding, which may order detections.
    told = folder / f"evaluated-{variant}.txt"

    def evaluate() -> int:
        run = load_run(folder / "runs" / f"four-{variant}")
        told.write_text(json.dumps(list(run.evaluate(run.config.data.val_split).metrics.stats)))
        return 0

    again = Child(evaluate, folder)
    if again.wait() != 0:
        return f"evaluation by one process: {again.said[-300:]}"
    by_one, by_four = json.loads(told.read_text()), logs[1][-1]["test_coco_eval_bbox"]
    if by_one != by_four:
        return f"the same weights: {by_four} by four, by one {by_one}"
    return ""


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= EXACT + NEAR * abs(a)


def tries(folder: Path) -> Iterator[Try]:
    project(folder)
    for variant in VARIANTS:
        why = compared(folder, variant)
        yield Try(f"{PROCESSES} processes as one", not why, why and f"{variant}: {why}")


WIDE = Drill("Wide", tries)
