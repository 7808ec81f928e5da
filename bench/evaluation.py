"""COCO metrics of an epoch: what they take, beside pycocotools and faster-coco-eval.

    python bench/evaluation.py

Two made sets: COCO-like, a hundred detections an image of 80 classes, and like the toy set. Every
contestant has the annotation file read, as a run has, and gets the same detections as tensors.
First it is seen that numbers are equal, to the last digit; faster-coco-eval's need not be, and how
far they are off is said. It is left out, and that is said too, where it is not installed.
"""

import contextlib
import importlib.util
import io
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from timing import DEVICE, arguments

from detrnb.datasets import Annotations
from detrnb.training import evaluate_coco, load_ground_truth, seconds_of

SETS = {
    "COCO-like": {"images": 500, "classes": 80, "found": 100, "side": 640, "boxes": 7.3},
    "toy-like": {"images": 300, "classes": 4, "found": 16, "side": 128, "boxes": 2.5},
}
OURS = "ours"
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


def contestants(file: Path) -> dict[str, Contestant]:
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
        """As detrnb did until 0.2: records of everything each epoch, and pycocotools."""
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

    entered = {"pycocotools": pycocotools, "before": before}
    if importlib.util.find_spec("faster_coco_eval"):
        from faster_coco_eval import COCO as FasterCOCO
        from faster_coco_eval import COCOeval_faster

        held = FasterCOCO(json.loads(file.read_text()))

        def faster(detections: Detections) -> list[float]:
            found = held.dataset | {"annotations": as_records(detections)}
            return measured(COCOeval_faster(held, FasterCOCO(found), "bbox"))

        entered["faster-coco-eval"] = faster
    return entered | {OURS: ours}


def results(repeats: int = 3) -> dict[str, dict]:
    """For each set: seconds of each contestant, ours as shares of theirs, and how numbers differ.

    Raises:
        ValueError: ours are not pycocotools' numbers.
    """
    return {name: _one_set(name, repeats) for name in SETS}


def _one_set(name: str, repeats: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "instances.json")
        detections = make(file, **SETS[name])
        entered = contestants(file)
        numbers = {who: np.array(measure(detections)) for who, measure in entered.items()}
        off = {who: float(np.abs(n - numbers["pycocotools"]).max()) for who, n in numbers.items()}
        for who in ("before", OURS):
            if not np.array_equal(numbers[who], numbers["pycocotools"]):
                raise ValueError(f"{name}: {who} differs from pycocotools by {off[who]}")
        rounds = [
            [seconds_of(lambda m=m: m(detections), DEVICE) for m in entered.values()]
            for _ in range(repeats)
        ]
    seconds = dict(zip(entered, zip(*rounds, strict=True), strict=True))
    ours = seconds.pop(OURS)
    shares = {who: [o / t for o, t in zip(ours, s, strict=True)] for who, s in seconds.items()}
    return {
        "AP": float(numbers[OURS][0]),
        "seconds": {who: list(s) for who, s in (seconds | {OURS: ours}).items()},
        "ours / theirs": shares,
        "largest difference from pycocotools": off,
    }


if __name__ == "__main__":
    repeats = arguments(__doc__, repeats=3).repeats
    if not importlib.util.find_spec("faster_coco_eval"):
        print("faster-coco-eval is not installed and left out: pip install faster-coco-eval==1.8.0")
    for name, found in results(repeats).items():
        print(f"\n{name}: {SETS[name]}, AP {found['AP']:.3f}")
        print(f"{'':18}{'seconds (fastest, slowest)':>32}{'ours is':>9}{'differs by':>12}")
        for who, times in found["seconds"].items():
            share = statistics.median(found["ours / theirs"].get(who, [1.0]))
            taken = f"{statistics.median(times):.3f} ({min(times):.3f}, {max(times):.3f})"
            off = found["largest difference from pycocotools"][who]
            print(f"{who:18}{taken:>32}{share:9.3f}{off:12.1e}")
