"""COCO's precision and recall of boxes, on flat arrays; to the last digit pycocotools' own.

pycocotools takes images, sizes, thresholds and detections one by one. Here all images of a class
are matched at once: which boxes overlap enough is seen in one step, and the few that do go by
rounds, in each of which every image has one more detection matched. Numbers are equal because what
decides them is: the order of equal scores, the choice between equal overlaps, and the rounding of
each operation.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
# Least and most area in pixels; boxes of other areas do not count, whether found or not.
SIZES = {
    "all": (0, 1e5**2),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e5**2),
}
COUNTS = (1, 10, 100)  # detections of a class in an image, the best

_ENOUGH = np.minimum(IOUS, 1 - 1e-10)
_LEAST, _MOST = np.array([*SIZES.values()], dtype=np.float64).T
# pycocotools adds it to what it divides by, which shows where that is 1: a first detection that is
# right, before one that is not, has a precision of not quite 1.
_SPACING = np.spacing(1)
_PAIRS = 2**18  # compared at a time


@dataclass(frozen=True)
class Boxes:
    """Boxes of many images; between equal ones of an image their order decides.

    Attributes:
        images: (n,) numbers, in order of image ids.
        classes: (n,) numbers.
        xywh: (n, 4) float64, pixels.
        areas: (n,) float64, pixels, of what they are around.
        scores: (n,) float64, of detections.
        crowd: (n,) bool, of ground truth.
    """

    images: np.ndarray
    classes: np.ndarray
    xywh: np.ndarray
    areas: np.ndarray
    scores: np.ndarray | None = None
    crowd: np.ndarray | None = None

    def __getitem__(self, rows: np.ndarray | slice) -> "Boxes":
        return Boxes(**{k: None if v is None else v[rows] for k, v in vars(self).items()})

    @property
    def group(self) -> np.ndarray:
        """(n,) int64, a number for class and image; only boxes of one group can match."""
        return self.classes << 32 | self.images

    @property
    def outside(self) -> np.ndarray:
        """(n, SIZES) bool, of which sizes each is not."""
        return (self.areas[:, None] < _LEAST) | (self.areas[:, None] > _MOST)


def overlap(found: np.ndarray, true: np.ndarray, crowd: np.ndarray | bool = False) -> np.ndarray:
    """IoU of boxes (..., 4) xywh; where the true one is a crowd, the share of the other in it."""
    x, y, w, h = np.moveaxis(found, -1, 0)
    left, top, width, height = np.moveaxis(true, -1, 0)
    across = np.minimum(w + x, width + left) - np.maximum(x, left)
    down = np.minimum(h + y, height + top) - np.maximum(y, top)
    common = np.where((across > 0) & (down > 0), across * down, 0.0)
    area = w * h
    whole = np.where(crowd, area, area + width * height - common)
    return np.divide(common, whole, out=np.zeros_like(common), where=common > 0)


def precision_and_recall(
    true: Boxes, found: Boxes, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Precision at each recall, and the recall reached; -1 where there is nothing to find.

    Returns:
        Precision (IOUS, RECALLS, classes, SIZES), of the best 100 of a class in an image; recall
        (IOUS, classes, SIZES, COUNTS).
    """
    true, found = _in_order(true, found)
    rank = _place(found.group)
    found, rank = found[rank < COUNTS[-1]], rank[rank < COUNTS[-1]]
    ignored = true.crowd[:, None] | true.outside
    rows, hit, right = _match(true, found, ignored)
    inside = ~found.outside
    precision = np.full((len(IOUS), len(RECALLS), num_classes, len(SIZES)), -1.0)
    recall = np.full((len(IOUS), num_classes, len(SIZES), len(COUNTS)), -1.0)
    ends = (
        pairwise(np.searchsorted(classes, np.arange(num_classes + 1)).tolist())
        for classes in (true.classes, found.classes, found.classes[rows])
    )
    for k, (of_true, of_found, of_rows) in enumerate(zip(*ends, strict=True)):
        wanted = (~ignored[slice(*of_true)]).sum(axis=0)
        these, those = slice(*of_found), slice(*of_rows)
        # The class's detections in all images are one list now, the best first.
        order = np.argsort(-found.scores[these], kind="stable")
        listed = np.argsort(order)[rows[those] - these.start]
        best_first = np.argsort(listed)
        matched, good, at = (x[those][best_first] for x in (hit, right, rows))
        counted = inside[these][order].cumsum(axis=0)[listed[best_first]]
        wrong = counted[..., None] - (matched & inside[at, :, None]).cumsum(axis=0)
        for size in np.flatnonzero(wanted):
            curve = _curve(good[:, size].cumsum(axis=0), wrong[:, size], wanted[size])
            precision[:, :, k, size] = curve
            for c, most in enumerate(COUNTS):
                recall[:, k, size, c] = good[rank[at] < most, size].sum(axis=0) / wanted[size]
    return precision, recall


def right_and_wrong(true: Boxes, found: Boxes) -> tuple[Boxes, np.ndarray]:
    """The detections that count, at an IoU of 0.5 and of any size, and (n,) bool which are right.

    Those on crowds do not count. Unlike above, all of a class in an image are taken.
    """
    true, found = _in_order(true, found)
    rows, hit, right = _match(true, found, true.crowd[:, None] | true.outside)
    counts, good = np.ones(len(found.scores), dtype=bool), np.zeros(len(found.scores), dtype=bool)
    good[rows] = right[:, 0, 0]  # SIZES["all"], IOUS[0]
    counts[rows] = right[:, 0, 0] | ~hit[:, 0, 0]
    return found[counts], good[counts]


def _in_order(true: Boxes, found: Boxes) -> tuple[Boxes, Boxes]:
    """Both by their groups, in each of which the best detection is first."""
    return (
        true[np.argsort(true.group, kind="stable")],
        found[np.lexsort((-found.scores, found.group))],
    )


def _match(
    true: Boxes, found: Boxes, ignored: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match each detection, the best of a group first, to what it overlaps most of what is left.

    Args:
        true: in order of their groups.
        found: in order of their groups, the best of each first.
        ignored: (n, SIZES) bool, the true boxes that are matched only where no other can be, by
            detections that then count neither; crowds among them are never used up.

    Returns:
        Rows (m,) of the detections that overlap enough of anything; (m, SIZES, IOUS) bool, whether
        they are matched, and whether to a box that counts.
    """
    detection, truth, iou = _candidates(true, found)
    rows, which = np.unique(detection, return_inverse=True)
    turn = _place(found.group[rows])[which]
    # Of the boxes that a detection can have, the last is the best.
    order = np.lexsort((truth, iou, which, turn))
    which, truth, iou, turn = (x[order] for x in (which, truth, iou, turn))
    hit, right = np.zeros((2, len(rows), len(SIZES), len(IOUS)), dtype=bool)
    taken = np.zeros((len(ignored), len(SIZES), len(IOUS)), dtype=bool)
    for begin, end in pairwise(np.searchsorted(turn, np.arange(turn.max(initial=-1) + 2))):
        each, of, n = which[begin:end], truth[begin:end], end - begin
        free = ~taken[of] | true.crowd[of, None, None]
        free &= (iou[begin:end, None] >= _ENOUGH)[:, None]
        preference = np.arange(1, n + 1)[:, None] + n * ~ignored[of]
        first = np.flatnonzero(np.diff(each, prepend=-1))
        best = np.maximum.reduceat(free * preference[..., None], first)
        d, size, t = best.nonzero()
        chosen, row = of[(best[d, size, t] - 1) % n], each[first][d]
        taken[chosen, size, t] = hit[row, size, t] = True
        right[row, size, t] = ~ignored[chosen, size]
    return rows, hit, right


def _candidates(true: Boxes, found: Boxes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of a group that overlap enough: rows of detection and truth (n,), IoU (n,)."""
    first = np.searchsorted(true.group, found.group)
    number = np.searchsorted(true.group, found.group, side="right") - first
    pairs = []
    ends = number.cumsum()
    cuts = np.searchsorted(ends, np.arange(0, ends[-1:].sum(), _PAIRS)[1:])
    for part in np.split(np.arange(len(number)), cuts):
        detection = np.repeat(part, number[part])
        truth = first[detection] + _place(detection)
        iou = overlap(found.xywh[detection], true.xywh[truth], true.crowd[truth])
        enough = iou >= _ENOUGH[0]
        pairs.append((detection[enough], truth[enough], iou[enough]))
    return tuple(np.concatenate(columns) for columns in zip(*pairs, strict=True))


def _curve(right: np.ndarray, wrong: np.ndarray, wanted: int) -> np.ndarray:
    """Precision at each of RECALLS: the highest at that recall or more.

    Args:
        right, wrong: (n, IOUS) how many detections are up to each of those that may be right, the
            best first.
        wanted: how many there are to find.

    Returns:
        (IOUS, RECALLS).
    """
    highest = right / (wrong + right + _SPACING)
    highest = np.maximum.accumulate(highest[::-1], axis=0)[::-1]
    needed = np.searchsorted(np.arange(wanted + 1) / wanted, RECALLS)
    curve = np.zeros((len(IOUS), len(RECALLS)))
    for t, found in enumerate(right.T):
        at = np.searchsorted(found, needed)
        reached = at < len(found)
        curve[t, reached] = highest[at[reached], t]
    return curve


def _place(sorted_numbers: np.ndarray) -> np.ndarray:
    """Each one's place among its equals."""
    return np.arange(len(sorted_numbers)) - np.searchsorted(sorted_numbers, sorted_numbers)
