"""COCO metrics through pycocotools, quietly, and a count of what kinds of errors there are."""

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from detrnb.datasets import CocoDataset, sound_records

ERROR_KINDS = (
    "correct",
    "duplicate",
    "wrong class",
    "poor localisation",
    "wrong class and place",
    "background",
    "missed",
)
FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1  # TIDE's t_f and t_b

Detections = Mapping[int, Mapping[str, np.ndarray | Tensor]]


@dataclass(frozen=True)
class CocoMetrics:
    """What pycocotools measures; -1 where there is no ground truth to measure by.

    Attributes:
        stats: the 12 numbers named by `logs.COCO_METRICS`.
        per_class: class name -> AP.
        per_class_50: class name -> AP50.
    """

    stats: list[float]
    per_class: dict[str, float]
    per_class_50: dict[str, float]


def load_ground_truth(annotated: CocoDataset | Path) -> COCO:
    """What is on record of a data set, or in an annotation file, for `evaluate_coco`.

    All of it as the file has it, unlike what is trained on: crowds, boxes of no area, and those
    that reach out of their image.

    Raises:
        ValueError: the file has errors, for which `CocoDataset` would refuse it too.
    """
    if isinstance(annotated, CocoDataset):
        return _indexed(annotated.ground_truth())
    return _indexed(sound_records(Path(annotated)).annotations.as_coco())


def evaluate_coco(ground_truth: COCO, detections: Detections) -> CocoMetrics:
    """COCO's metrics for boxes.

    Args:
        ground_truth: as `load_ground_truth` gives it.
        detections: image id -> `scores` (n,), `category_ids` (n,), `boxes` (n, 4) xyxy in
            pixels. Only the images named are evaluated; one without detections has n = 0.

    Returns:
        The 12 numbers and each class's AP and AP50.

    Raises:
        ValueError: for an image id that the ground truth does not have.
    """
    unknown = sorted(set(detections) - set(ground_truth.imgs))
    if unknown:
        raise ValueError(f"detections for unknown image ids {unknown[:5]} ({len(unknown)} in all)")
    results = _indexed(
        {
            "images": [ground_truth.imgs[i] for i in detections],
            "categories": ground_truth.dataset["categories"],
            "annotations": _records(detections),
        }
    )
    with contextlib.redirect_stdout(io.StringIO()):
        measured = COCOeval(ground_truth, results, "bbox")
        measured.params.imgIds = sorted(detections)
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
    # IoU thresholds x recalls x classes; all areas, 100 detections an image.
    precision = measured.eval["precision"][:, :, :, 0, 2]
    names = _class_names(ground_truth, measured.params.catIds)
    return CocoMetrics(
        stats=[float(value) for value in measured.stats],
        per_class={name: _mean(precision[:, :, k]) for k, name in enumerate(names)},
        per_class_50={name: _mean(precision[0, :, k]) for k, name in enumerate(names)},
    )


def box_spread(ground_truth: COCO, detections: Detections) -> dict[str, float]:
    """How far a detector's boxes differ: between queries, and of a query between images.

    Both are near 0 where a model has not learned to look at its image and so gives the same boxes
    to each (facebookresearch/detr#202, #375): some thousandths before training.

    Args:
        ground_truth: as `load_ground_truth` gives it.
        detections: as for `evaluate_coco`, each image's in the order of the queries.

    Returns:
        Standard deviations of the boxes' sides as shares of the image's, averaged: `queries` over
        those of an image, `images` over those of a query.

    Raises:
        ValueError: an image's record has no size.
    """
    images = [ground_truth.imgs[i] for i in detections]
    unsized = [image["id"] for image in images if "width" not in image]
    if unsized:
        raise ValueError(
            f"{len(unsized)} images have no width and height on record, such as {unsized[0]}, which"
            " the spread of boxes is measured by; write them into the annotation file"
        )
    sides = np.array([(image["width"], image["height"]) * 2 for image in images])
    boxes = np.stack([np.asarray(found["boxes"]) for found in detections.values()])
    shares = boxes / sides[:, None]
    return {"queries": float(shares.std(1).mean()), "images": float(shares.std(0).mean())}


def _indexed(content: dict) -> COCO:
    """A COCO object of what a file would hold, made without printing."""
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _class_names(ground_truth: COCO, category_ids: list[int]) -> list[str]:
    """Names of categories; with the id where several have one name."""
    names = [ground_truth.cats[i]["name"] for i in category_ids]
    return [
        f"{name} ({i})" if names.count(name) > 1 else name
        for i, name in zip(category_ids, names, strict=True)
    ]


def _records(detections: Detections) -> list[dict]:
    """Detections as the annotation records that pycocotools matches."""
    records = []
    for image_id, found in detections.items():
        boxes = np.asarray(found["boxes"], dtype=np.float64).reshape(-1, 4)
        sides = boxes[:, 2:] - boxes[:, :2]
        columns = (
            np.concatenate([boxes[:, :2], sides], axis=1).tolist(),
            sides.prod(axis=1).tolist(),
            np.asarray(found["category_ids"]).tolist(),
            np.asarray(found["scores"], dtype=np.float64).tolist(),
        )
        for bbox, area, category_id, score in zip(*columns, strict=True):
            records.append(
                {
                    "id": len(records) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": bbox,
                    "area": area,
                    "score": score,
                    "iscrowd": 0,
                }
            )
    return records


def _mean(precision: np.ndarray) -> float:
    """Mean over the entries that exist (pycocotools marks others by -1), or -1."""
    existing = precision[precision > -1]
    return float(existing.mean()) if existing.size else -1.0


def error_kinds(
    ground_truth: COCO, detections: Detections, *, score_threshold: float = 0.5
) -> dict[str, int]:
    """Count what kinds of errors a detector makes.

    A simplification of TIDE (Bolya et al., "TIDE: A General Toolbox for Identifying Object
    Detection Errors", ECCV 2020), after Hoiem et al. (ECCV 2012). In each image, detections of
    at least `score_threshold` go by descending score; each is the first of these that holds:

    - correct: IoU >= 0.5 with a ground truth of its class that is not yet taken; takes it
    - duplicate: IoU >= 0.5 with a ground truth of its class, taken already
    - wrong class: IoU >= 0.5 with a ground truth of another class
    - poor localisation: IoU >= 0.1 with a ground truth of its class
    - wrong class and place: IoU >= 0.1 with a ground truth of another class
    - background: none of these

    Unlike TIDE, kinds are counted, not weighed by the AP they cost, and every ground truth
    without a correct detection is `missed`. Crowd regions are no ground truth here.

    Args:
        ground_truth: as `load_ground_truth` gives it.
        detections: as for `evaluate_coco`.
        score_threshold: detections that score less are not counted.

    Returns:
        Kind -> count, for each of ERROR_KINDS.
    """
    counts = dict.fromkeys(ERROR_KINDS, 0)
    for image_id, found in detections.items():
        records = [r for r in ground_truth.imgToAnns[image_id] if not r.get("iscrowd", 0)]
        true_classes = np.array([r["category_id"] for r in records], dtype=np.int64)
        taken = np.zeros(len(records), dtype=bool)
        for record in sorted(_records({image_id: found}), key=lambda r: -r["score"]):
            if record["score"] < score_threshold:
                break
            iou = np.zeros(0)
            if records:
                boxes = [r["bbox"] for r in records]
                iou = coco_mask.iou([record["bbox"]], boxes, [0] * len(records))[0]
            kind, match = _kind(iou, true_classes == record["category_id"], taken)
            counts[kind] += 1
            if match is not None:
                taken[match] = True
        counts["missed"] += int((~taken).sum())
    return counts


def _kind(iou: np.ndarray, same_class: np.ndarray, taken: np.ndarray) -> tuple[str, int | None]:
    """The kind of one detection, and for a correct one the ground truth it takes."""
    over, near = iou >= FOREGROUND_IOU, iou >= BACKGROUND_IOU
    free = over & same_class & ~taken
    if free.any():
        return "correct", int(np.where(free, iou, -1).argmax())
    if (over & same_class).any():
        return "duplicate", None
    if over.any():
        return "wrong class", None
    if (near & same_class).any():
        return "poor localisation", None
    return ("wrong class and place" if near.any() else "background"), None
