"""COCO metrics by pycocotools, of a file and of detections as a file of results has them."""

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detrnb.training import CocoMetrics


def by_pycocotools(annotations: Path, detections: Mapping[int, Mapping]) -> CocoMetrics:
    """What `evaluate_coco` should give, to the last digit."""
    results = [
        {"image_id": image_id, "category_id": category, "bbox": [x, y, u - x, v - y], "score": s}
        for image_id, found in detections.items()
        for s, category, (x, y, u, v) in zip(
            *(np.asarray(found[k]).tolist() for k in ("scores", "category_ids", "boxes")),
            strict=True,
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        found = truth.loadRes(results) if results else COCO()
        if not results:
            found.dataset = truth.dataset | {"annotations": []}
            found.createIndex()
        measured = COCOeval(truth, found, "bbox")
        measured.params.imgIds = list(detections)
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
    every = measured.eval["precision"][:, :, :, 0, 2]
    names = [truth.cats[i]["name"] for i in measured.params.catIds]
    return CocoMetrics(
        measured.stats.tolist(),
        {name: mean(every[:, :, k]) for k, name in enumerate(names)},
        {name: mean(every[:1, :, k]) for k, name in enumerate(names)},
    )


def mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else -1.0
