"""How many pixels of training's batches are padding, with and without batches by aspect ratio.

    python bench/padding.py

Sizes are drawn, with replacement, from those of the 38 COCO photographs in super-gradients'
tests/data/tinycoco (commit e0ccacf), a small sample but not one chosen by size. They go through the
training transform. Nothing is timed.
"""

import numpy as np
from tables import Row
from timing import Findings, Options, main

from detrnb.datasets import TrainBatches, TrainTransform
from detrnb.settings import Config

SIZES = {  # (width, height): how many of the 38 have it
    **{(640, 480): 11, (640, 427): 4, (427, 640): 3, (640, 428): 2, (375, 500): 2, (640, 426): 2},
    **{(480, 640): 2, (500, 375): 2, (352, 230): 1, (640, 388): 1, (640, 511): 1, (351, 500): 1},
    **{(500, 423): 1, (640, 500): 1, (640, 462): 1, (640, 425): 1, (461, 500): 1, (634, 640): 1},
}
BATCH_SIZES = (2, 4, 8)  # of one process
COUNT = 20_000
WAYS = {"shuffled": False, "by aspect ratio": True}


def drawn_sizes(count: int) -> np.ndarray:
    """Width and height of each image (n, 2)."""
    sizes, weights = np.array(list(SIZES)), np.array(list(SIZES.values()))
    return np.random.default_rng(0).choice(sizes, count, p=weights / weights.sum())


def padding(batches: list[list[int]], shapes: np.ndarray) -> tuple[float, float]:
    """Share of padding in batches of images of sizes (n, 2), and the largest padded image."""
    padded = shapes[np.array(batches)].max(axis=1).prod(axis=1)
    images = shapes.prod(axis=1)[np.array(batches)].sum()
    return float(1 - images / (padded.sum() * len(batches[0]))), float(padded.max() / 1e6)


def results(options: Options) -> Findings:
    """The share of padding among all pixels, and the largest image with its padding."""
    data = Config.preset("coco").data
    whole = TrainTransform(data.train_sizes, data.max_size, crop=None)
    sizes = drawn_sizes(COUNT)
    rows: list[Row] = []
    for name, transform in (("coco", TrainTransform()), ("coco, data.crop=false", whole)):
        rng = np.random.default_rng(1)
        shapes = np.array([transform(size, rng).size for size in map(tuple, sizes.tolist())])
        for batch_size in BATCH_SIZES:
            row: Row = {"preset": name, "batch": batch_size}
            for way, aspects in WAYS.items():
                ordered = sizes[:, 0] / sizes[:, 1] if aspects else None
                batches = list(TrainBatches(len(sizes), batch_size, 0, aspects=ordered))
                share, largest = padding(batches, shapes)
                row |= {f"padding, {way}": share, f"largest, megapixels, {way}": largest}
            rows.append(row)
    return Findings({"Padding among all pixels": rows})


if __name__ == "__main__":
    main(__doc__, results)
