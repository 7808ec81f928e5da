"""COCO metrics of an epoch: what they take, beside pycocotools and faster-coco-eval.

    python bench/evaluation.py

Two made sets: COCO-like, a hundred detections an image of 80 classes, and like the toy set. Every
contestant has the annotation file read, as a run has, and gets the same detections as tensors.
First it is seen that numbers are equal, to the last digit; faster-coco-eval's need not be, and how
far they are off is said. The first edition went through pycocotools, with records made anew.
"""

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tables import Row
from timing import OURS, Findings, Options, beside, in_turns, main

from detrnb.datasets import Annotations
from detrnb.training import evaluate_coco, load_ground_truth

SETS = {
    "COCO-like": {"images": 500, "classes": 80, "found": 100, "side": 640, "boxes": 7.3},
    "toy-like": {"images": 300, "classes": 4, "found": 16, "side": 128, "boxes": 2.5},
}
FIRST, PYCOCOTOOLS, FASTER = "first edition", "pycocotools", "faster-coco-eval"
SECONDS = 15.0  # of each set, after which no further round begins
Detections = dict[int, dict[str, torch.Tensor]]
Contestant = Callable[[Detections], list[float]]


def make(
    file: Path, *, images: int, classes: int, found: int, side: int, boxes: float
) -> Detections:
    """Write annotations; gives what a detector that has learned something might find."""
    random = np.random.default_rng(0)
    annotations, detections = [], {}
    for image_id in range(1, images + 1):
        n = min(random.poisson(boxes), 60)
        sides = side * random.uniform(0.03, 0.6, (n, 2))
        xywh = np.concatenate([random.uniform(size=(n, 2)) * (side - sides), sides], axis=1)
        labels = random.choice(random.integers(1, classes + 1, 3), n)
        annotations += [
            {
                "id": len(annotations) + k,
                "image_id": image_id,
                "category_id": int(labels[k - 1]),
                "bbox": xywh[k - 1].tolist(),
                "area": float(sides[k - 1].prod()),
                "iscrowd": int(random.uniform() < 0.015),
            }
            for k in range(1, n + 1)
        ]
        near = random.integers(0, n, found) if n else np.zeros(found, dtype=np.int64)
        true = xywh[near] if n else np.tile([0.0, 0.0, side / 4, side / 4], (found, 1))
        shift = random.normal(0, 0.15, (found, 4))
        moved = true + shift * np.tile(true[:, 2:], 2)
        right = random.uniform(size=found) < (0.6 if n else 0)
        others = random.integers(1, classes + 1, found)
        scores = np.exp(-4 * np.abs(shift).max(1)) * random.uniform(0.3, 1, found)
        corners = np.concatenate([moved[:, :2], moved[:, :2] + moved[:, 2:]], axis=1)
        detections[image_id] = {
            "scores": torch.tensor(scores, dtype=torch.float32),
            "category_ids": torch.tensor(np.where(right, labels[near] if n else 0, others)),
            "boxes": torch.tensor(corners, dtype=torch.float32),
        }
    content = {
        "info": {},
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": side, "height": side} for i in detections
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, classes + 1)],
    }
    file.write_text(json.dumps(content))
    return detections


def as_records(detections: Detections) -> list[dict]:
    """Detections as the records that a file of results has, with what an index asks for."""
    records = []
    for image_id, found in detections.items():
        boxes = np.asarray(found["boxes"], dtype=np.float64)
        sides = boxes[:, 2:] - boxes[:, :2]
        columns = (
            np.concatenate([boxes[:, :2], sides], axis=1).tolist(),
            sides.prod(axis=1).tolist(),
            found["category_ids"].tolist(),
            np.asarray(found["scores"], dtype=np.float64).tolist(),
        )
        for bbox, area, category_id, score in zip(*columns, strict=True):
            record = {"id": len(records) + 1, "image_id": image_id, "category_id": category_id}
            records.append(record | {"bbox": bbox, "area": area, "score": score, "iscrowd": 0})
    return records


def as_content(truth: Annotations) -> dict:
    """Annotations as the content of a file; the detrnb of before built it anew each epoch."""
    columns = {
        "id": np.arange(1, len(truth.ids) + 1),
        "image_id": truth.of_image,
        "category_id": truth.of_category,
        "bbox": truth.boxes_xywh,
        "area": truth.object_areas,
        "iscrowd": truth.crowd.astype(int),
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return {
        "images": [{"id": i} for i in truth.image_ids.tolist()],
        "annotations": [dict(zip(columns, row, strict=True)) for row in rows],
        "categories": [{"id": i, "name": name} for i, name in truth.categories],
    }


def measured(evaluation: object) -> list[float]:
    """The 12 numbers, and each class's AP and AP50, by an evaluation with pycocotools' methods."""
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    kept = [precision[t, :, k] for t in (slice(None), 0) for k in range(precision.shape[2])]
    kept = [values[values > -1] for values in kept]
    return [*map(float, evaluation.stats), *(float(v.mean()) if v.size else -1.0 for v in kept)]


def contestants(file: Path, found: Findings) -> dict[str, Contestant]:
    """Each takes detections and gives all numbers; the file is read once, here."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = load_ground_truth(file)
    with contextlib.redirect_stdout(io.StringIO()):
        read = COCO(str(file))

    def pycocotools(detections: Detections) -> list[float]:
        """Through JSON, as a file of results would be."""
        with contextlib.redirect_stdout(io.StringIO()):
            results = json.loads(json.dumps(as_records(detections)))
            return measured(COCOeval(read, read.loadRes(results), "bbox"))

    def before(detections: Detections) -> list[float]:
        """Records of everything each epoch, and pycocotools."""
        indexed = []
        with contextlib.redirect_stdout(io.StringIO()):
            for content in (
                as_content(truth),
                as_content(truth) | {"annotations": as_records(detections)},
            ):
                coco = COCO()
                coco.dataset = content
                coco.createIndex()
                indexed.append(coco)
            return measured(COCOeval(*indexed, "bbox"))

    def ours(detections: Detections) -> list[float]:
        metrics = evaluate_coco(truth, detections)
        return [*metrics.stats, *metrics.per_class.values(), *metrics.per_class_50.values()]

    entered = {OURS: ours, PYCOCOTOOLS: pycocotools, FIRST: before}
    with found.leaving_out(FASTER):
        from faster_coco_eval import COCO as FasterCOCO
        from faster_coco_eval import COCOeval_faster

        held = FasterCOCO(json.loads(file.read_text()))

        def faster(detections: Detections) -> list[float]:
            records = held.dataset | {"annotations": as_records(detections)}
            return measured(COCOeval_faster(held, FasterCOCO(records), "bbox"))

        entered[FASTER] = faster
    return entered


def results(options: Options) -> Findings:
    """For each set: seconds of each contestant, ours in shares of theirs, and how numbers differ.

    Raises:
        ValueError: ours are not pycocotools' numbers.
    """
    found = Findings()
    for name in SETS:
        found.tables[f"{name}: {_words(SETS[name])}"] = _one_set(name, options, found)
    return found


def _words(settings: dict[str, float]) -> str:
    return (
        f"{settings['images']} images, {settings['classes']} classes,"
        f" {settings['found']} detections an image"
    )


def _one_set(name: str, options: Options, found: Findings) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "instances.json")
        detections = make(file, **SETS[name])
        entered = contestants(file, found)
        numbers = {who: np.array(entered[who](detections)) for who in (OURS, PYCOCOTOOLS, FIRST)}
        if FASTER in entered:
            with found.leaving_out(FASTER):
                numbers[FASTER] = np.array(entered[FASTER](detections))
        off = {who: float(np.abs(n - numbers[PYCOCOTOOLS]).max()) for who, n in numbers.items()}
        for who in (FIRST, OURS):
            if off[who]:
                raise ValueError(f"{name}: {who} differs from pycocotools by {off[who]}")
        sides = {who: lambda who=who: entered[who](detections) for who in numbers}
        times = in_turns(sides, options, SECONDS)
    rows = beside("12 numbers and each class's AP", times)
    return [row | {"its numbers off by": off[row["beside"]]} for row in rows]


if __name__ == "__main__":
    main(__doc__, results)
