"""From which score on a detection is to be believed: where F1 is best, with the curve it is of.

F1 is the harmonic mean of precision (which detections are right) and recall (which objects are
found). A detection is right where it is of an object's class and overlaps it by an IoU of 0.5 or
more; of several, in order of their scores, the first is. Those on crowds do not count. The
threshold is chosen on the split that chose the weights too: both look better there than elsewhere.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from detrnb.datasets import CocoDataset
from detrnb.training.average_precision import IOUS, right_and_wrong
from detrnb.training.metrics import as_boxes

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
    true, found, categories = as_boxes(dataset.ground_truth, detections)
    counted, right = right_and_wrong(true, found)
    scores, ids = counted.scores, np.array([*categories], dtype=np.int64)
    objects = Counter(ids[true.classes[~true.crowd]].tolist())
    names = dict(dataset.classes.values())
    of = {kind: ids[counted.classes] == kind for kind in names}
    precision, recall, f1 = _at(GRID, scores, right, sum(objects.values()))
    return {
        "epoch": epoch,
        "iou": float(IOUS[0]),
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
