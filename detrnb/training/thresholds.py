"""From which score on a detection is to be believed: where F1 is best, with the curve it is of.

F1 is the harmonic mean of precision (which detections are right) and recall (which objects are
found). A detection is right where it is of an object's class and overlaps it by an IoU of 0.5 or
more; of several, in order of their scores, the first is. Those on crowds do not count. The
threshold is chosen on the split that chose the weights too: both look better there than elsewhere.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np
import torch

from detrnb.boxes import box_iou
from detrnb.datasets import Annotations, CocoDataset

IOU = 0.5
GRID = np.arange(100) / 100  # scores that the curves are kept at


def thresholds(
    dataset: CocoDataset, detections: Mapping[int, Mapping], epoch: int | None
) -> dict[str, object]:
    """The score of the best F1 over all classes and of each class.

    Args:
        dataset: what was detected in.
        detections: as `Evaluation.detections` of it.
        epoch: of the weights.

    Returns:
        `epoch`, `iou`, `annotations` (the file's name), `overall` and `classes` (by name), each
        with `threshold`, `f1`, `precision`, `recall` and `objects`; and `curve`, overall: `score`,
        `precision`, `recall`, `f1`. Of a class that has no objects there, and where nothing right
        was found, the threshold is None.
    """
    truth = dataset.ground_truth
    scores, right, kinds = _judged(truth, detections)
    names = dict(dataset.classes.values())
    sought = ~truth.crowd & np.isin(truth.of_image, [*detections])
    objects = Counter(truth.of_category[sought].tolist())
    of = {kind: kinds == kind for kind in names}
    precision, recall, f1 = _at(GRID, scores, right, sum(objects.values()))
    return {
        "epoch": epoch,
        "iou": IOU,
        "annotations": dataset.annotations.name,
        "overall": _best(scores, right, sum(objects.values())),
        "classes": {
            name: _best(scores[of[kind]], right[of[kind]], objects[kind])
            for kind, name in names.items()
        },
        "curve": {
            "score": GRID.tolist(),
            "precision": precision.tolist(),
            "recall": recall.tolist(),
            "f1": f1.tolist(),
        },
    }


def _judged(
    truth: Annotations, detections: Mapping[int, Mapping]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, whether right, and category id of every detection that counts."""
    objects, crowds = defaultdict(list), defaultdict(list)
    corners = truth.boxes_xywh + np.pad(truth.boxes_xywh[:, :2], ((0, 0), (2, 0)))
    columns = truth.of_image, truth.of_category, corners, truth.crowd
    for image_id, kind, box, crowd in zip(*(c.tolist() for c in columns), strict=True):
        (crowds if crowd else objects)[image_id, kind].append(box)
    rows = []
    for image_id, found in detections.items():
        kinds = np.asarray(found["category_ids"])
        for kind in np.unique(kinds).tolist():
            mine = torch.from_numpy(np.flatnonzero(kinds == kind))
            scores = torch.as_tensor(found["scores"])[mine]
            order = scores.argsort(descending=True, stable=True)
            boxes = torch.as_tensor(found["boxes"])[mine][order].double()
            key = image_id, kind
            right, counts = _match(boxes, objects[key], crowds[key])
            scores = scores[order].double().numpy()[counts]
            rows.append((scores, right[counts], np.full(len(scores), kind)))
    if not rows:
        return np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0, dtype=int)
    scores, right, kinds = (np.concatenate(column) for column in zip(*rows, strict=True))
    return scores, right, kinds


def _match(boxes: torch.Tensor, objects: list, crowds: list) -> tuple[np.ndarray, np.ndarray]:
    """Of boxes (n, 4) in order of their scores: whether each is right, and whether it counts."""
    right = np.zeros(len(boxes), dtype=bool)
    if objects:
        overlap = box_iou(boxes[:, None], torch.tensor(objects).double()[None])[0].numpy()
        free = np.ones(len(objects), dtype=bool)
        for place, row in enumerate(overlap):
            best = int(np.where(free, row, -1.0).argmax())
            if free[best] and row[best] >= IOU:
                right[place], free[best] = True, False
    counts = np.ones(len(boxes), dtype=bool)
    if crowds:  # as COCO has it: the share of the detection that lies in the crowd
        inside = torch.tensor(crowds).double()[None]
        low = boxes[:, None, :2].maximum(inside[..., :2])
        size = (boxes[:, None, 2:].minimum(inside[..., 2:]) - low).clamp(min=0)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp(min=1e-12)
        counts = right | ~(size.prod(-1) / area[:, None] >= IOU).any(1).numpy()
    return right, counts


def _best(scores: np.ndarray, right: np.ndarray, objects: int) -> dict[str, float | int | None]:
    """The score that gives the best F1, half way to the next one below, and what it gives."""
    if not objects or not right.any():
        nothing = dict.fromkeys(("threshold", "f1", "precision", "recall"))
        return nothing | {"objects": objects}
    known = np.unique(scores)
    precision, recall, f1 = _at(known, scores, right, objects)
    best = int(f1.argmax())
    below = known[best - 1] if best else known[best]
    return {
        "threshold": float((known[best] + below) / 2),
        "f1": float(f1[best]),
        "precision": float(precision[best]),
        "recall": float(recall[best]),
        "objects": objects,
    }


def _at(
    levels: np.ndarray, scores: np.ndarray, right: np.ndarray, objects: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of the detections with at least each of some scores.

    Precision is 1 where there are none.
    """
    order = np.argsort(scores, kind="stable")
    first = np.searchsorted(scores[order], levels)
    hits = np.concatenate([right[order][::-1].cumsum()[::-1], [0]])[first]
    taken = len(scores) - first
    precision = np.where(taken, hits / np.maximum(taken, 1), 1.0)
    recall = hits / max(objects, 1)
    f1 = 2 * hits / np.maximum(taken + objects, 1)
    return precision, recall, f1
