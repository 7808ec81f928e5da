"""COCO metrics, and a count of what kinds of errors there are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from detrnb.datasets import Annotations, CocoDataset, sound_records
from detrnb.training.average_precision import (
    COUNTS,
    IOUS,
    SIZES,
    Boxes,
    overlap,
    precision_and_recall,
)

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
    """COCO's numbers, to the last digit pycocotools'; -1 where there is nothing to measure by.

    Attributes:
        stats: the 12 numbers named by `logs.COCO_METRICS`.
        per_class: class name -> AP.
        per_class_50: class name -> AP50.
    """

    stats: list[float]
    per_class: dict[str, float]
    per_class_50: dict[str, float]


def load_ground_truth(annotated: CocoDataset | Path) -> Annotations:
    """What is on record of a data set, or in an annotation file, for `evaluate_coco`.

    All of it as the file has it, unlike what is trained on: crowds, boxes of no area, and those
    that reach out of their image. A data set has it from when it was opened.

    Raises:
        ValueError: the file has errors, for which `CocoDataset` would refuse it too.
    """
    if isinstance(annotated, CocoDataset):
        return annotated.ground_truth
    return sound_records(Path(annotated)).annotations


def evaluate_coco(ground_truth: Annotations, detections: Detections) -> CocoMetrics:
    """COCO's metrics for boxes.

    Args:
        ground_truth: as `load_ground_truth` gives it.
        detections: image id -> `scores` (n,), `category_ids` (n,), `boxes` (n, 4) xyxy in
            pixels. Only the images named are evaluated; one without detections has n = 0.

    Returns:
        The 12 numbers and each class's AP and AP50.

    Raises:
        ValueError: for an image id that the ground truth does not have; for detections that are
            not finite, or of which there are not as many scores, categories and boxes.
    """
    true, found, categories = as_boxes(ground_truth, detections)
    precision, recall = precision_and_recall(true, found, len(categories))
    every, small, medium, large = range(len(SIZES))
    one, ten, hundred = range(len(COUNTS))
    numbers = (
        precision[..., every],
        precision[IOUS == 0.5, ..., every],
        precision[IOUS == 0.75, ..., every],
        *(precision[..., size] for size in (small, medium, large)),
        *(recall[..., every, count] for count in (one, ten, hundred)),
        *(recall[..., size, hundred] for size in (small, medium, large)),
    )
    per_class = dict(
        zip(_class_names(categories), np.moveaxis(precision[..., every], 2, 0), strict=True)
    )
    return CocoMetrics(
        stats=[_mean(values) for values in numbers],
        per_class={name: _mean(values) for name, values in per_class.items()},
        per_class_50={name: _mean(values[IOUS == 0.5]) for name, values in per_class.items()},
    )


def as_boxes(
    ground_truth: Annotations, detections: Detections
) -> tuple[Boxes, Boxes, dict[int, str]]:
    """True boxes and detections of the same images, and the categories that number their classes.

    Raises:
        ValueError: as `evaluate_coco`.
    """
    image_ids = np.array(sorted(detections), dtype=np.int64)
    unknown = np.setdiff1d(image_ids, ground_truth.image_ids).tolist()
    if unknown:
        raise ValueError(f"detections for unknown image ids {unknown[:5]} ({len(unknown)} in all)")
    categories = dict(sorted(ground_truth.categories))
    true = _true_boxes(ground_truth, image_ids, [*categories])
    found = _found_boxes(detections, image_ids, [*categories])
    return true, found, categories


def _true_boxes(ground_truth: Annotations, image_ids: np.ndarray, category_ids: list[int]) -> Boxes:
    """The ground truth of some images, in the file's order."""
    rows = np.isin(ground_truth.of_image, image_ids)
    return Boxes(
        images=np.searchsorted(image_ids, ground_truth.of_image[rows]),
        classes=np.searchsorted(category_ids, ground_truth.of_category[rows]),
        xywh=ground_truth.boxes_xywh[rows],
        areas=ground_truth.object_areas[rows],
        crowd=ground_truth.crowd[rows],
    )


def _found_boxes(detections: Detections, image_ids: np.ndarray, category_ids: list[int]) -> Boxes:
    """Detections of known categories, images in order of their ids."""
    columns = [_columns(image_id, detections[image_id]) for image_id in image_ids.tolist()]
    numbers = np.repeat(np.arange(len(columns)), [len(scores) for scores, *_ in columns])
    nothing = (np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros((0, 4)))
    scores, ids, xywh = (np.concatenate(c) for c in zip(nothing, *columns, strict=True))
    found = Boxes(numbers, np.searchsorted(category_ids, ids), xywh, xywh[:, 2:].prod(1), scores)
    return found[np.isin(ids, category_ids)]


def _columns(image_id: int, found: Mapping) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (n,), category ids (n,) and boxes (n, 4) xywh of an image, float64."""
    scores = np.asarray(found["scores"], dtype=np.float64)
    category_ids = np.asarray(found["category_ids"], dtype=np.int64)
    boxes = np.asarray(found["boxes"], dtype=np.float64).reshape(-1, 4).copy()
    counts = {"scores": len(scores), "category_ids": len(category_ids), "boxes": len(boxes)}
    if len(set(counts.values())) > 1:
        raise ValueError(f"detections of image {image_id} have {counts}; expected as many of each")
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
        raise ValueError(f"scores or boxes of image {image_id} are not finite")
    boxes[:, 2:] -= boxes[:, :2]
    return scores, category_ids, boxes


def box_spread(ground_truth: Annotations, detections: Detections) -> dict[str, float]:
    """How far a detector's boxes differ: between queries, and of a query between images.

    Both are near 0 where a model has not learned to look at its image and so gives the same boxes
    to each (facebookresearch/detr#202, #375): some thousandths before training.

    Args:
        ground_truth: as `load_ground_truth` gives it.
        detections: as for `evaluate_coco`, with the `queries` (n,) that they come from.

    Returns:
        Standard deviations of the boxes' sides as shares of the image's, averaged: `queries` over
        those of an image, `images` over those of a query.

    Raises:
        ValueError: an image's record has no size.
    """
    sizes = dict(
        zip(ground_truth.image_ids.tolist(), ground_truth.image_sizes.tolist(), strict=True)
    )
    unsized = [i for i in detections if np.isnan(sizes[i]).any()]
    if unsized:
        raise ValueError(
            f"{len(unsized)} images have no width and height on record, such as {unsized[0]}, which"
            " the spread of boxes is measured by; write them into the annotation file"
        )
    rows = []  # a query's detections in an image all have its box: one counts
    for image_id, found in detections.items():
        shares = np.asarray(found["boxes"]) / (sizes[image_id] * 2)
        table = pd.DataFrame(shares).assign(image=image_id, query=np.asarray(found["queries"]))
        rows.append(table.drop_duplicates("query"))
    sides = pd.concat(rows)
    spread = {"queries": ("image", "query"), "images": ("query", "image")}
    return {
        name: float(sides.drop(columns=other).groupby(by).std(ddof=0).to_numpy().mean())
        for name, (by, other) in spread.items()
    }


def _class_names(categories: Mapping[int, str]) -> list[str]:
    """Names of categories; with the id where several have one name."""
    names = [*categories.values()]
    return [f"{name} ({i})" if names.count(name) > 1 else name for i, name in categories.items()]


def _mean(precision: np.ndarray) -> float:
    """Mean over the entries that exist (the others are -1), or -1."""
    existing = precision[precision > -1]
    return float(existing.mean()) if existing.size else -1.0


def error_kinds(
    ground_truth: Annotations, detections: Detections, *, score_threshold: float = 0.5
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
    rows = np.flatnonzero(~ground_truth.crowd)
    rows = rows[np.argsort(ground_truth.of_image[rows], kind="stable")]
    of_image = ground_truth.of_image[rows]
    for image_id, found in detections.items():
        scores, category_ids, xywh = _columns(image_id, found)
        true = rows[slice(*np.searchsorted(of_image, [image_id, image_id + 1]))]
        taken = np.zeros(len(true), dtype=bool)
        for i in np.argsort(-scores, kind="stable").tolist():
            if scores[i] < score_threshold:
                break
            iou = overlap(xywh[i], ground_truth.boxes_xywh[true])
            same_class = ground_truth.of_category[true] == category_ids[i]
            kind, match = _kind(iou, same_class, taken)
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
