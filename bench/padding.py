"""How many pixels of training's batches are padding, with and without batches by aspect ratio.

    python bench/padding.py [--annotations INSTANCES.json]

Sizes are drawn, with replacement, from those of the 38 COCO photographs in super-gradients'
tests/data/tinycoco (commit e0ccacf), a small sample but not one chosen by size; or taken from an
annotation file. They go through the training transform. Nothing is timed.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from detrnb.datasets import TrainBatches, TrainTransform
from detrnb.settings import Config

SIZES = {  # (width, height): how many of the 38 have it
    **{(640, 480): 11, (640, 427): 4, (427, 640): 3, (640, 428): 2, (375, 500): 2, (640, 426): 2},
    **{(480, 640): 2, (500, 375): 2, (352, 230): 1, (640, 388): 1, (640, 511): 1, (351, 500): 1},
    **{(500, 423): 1, (640, 500): 1, (640, 462): 1, (640, 425): 1, (461, 500): 1, (634, 640): 1},
}
BATCH_SIZES = (2, 4, 8)  # of one process


def read_sizes(annotations: Path | None, count: int = 20_000) -> np.ndarray:
    """Width and height of each image (n, 2)."""
    if annotations is not None:
        records = json.loads(annotations.read_bytes())["images"]
        return np.array([(record["width"], record["height"]) for record in records])
    sizes, weights = np.array(list(SIZES)), np.array(list(SIZES.values()))
    return np.random.default_rng(0).choice(sizes, count, p=weights / weights.sum())


def padding(batches: list[list[int]], shapes: np.ndarray) -> str:
    """Share of padding in batches of images of sizes (n, 2), and the largest padded image."""
    padded = shapes[np.array(batches)].max(axis=1).prod(axis=1)
    images = shapes.prod(axis=1)[np.array(batches)].sum()
    return f"{1 - images / (padded.sum() * len(batches[0])):6.1%} {padded.max() / 1e6:5.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", type=Path)
    sizes = read_sizes(parser.parse_args().annotations)
    data = Config.preset("coco").data
    whole = TrainTransform(data.train_sizes, data.max_size, crop=None)
    print(f"{len(sizes)} images. Padding among all pixels, and the largest image with its padding")
    print(f"in megapixels: {'shuffled':>28}    by aspect ratio")
    for name, transform in (("coco", TrainTransform()), ("coco, data.crop=false", whole)):
        rng = np.random.default_rng(1)
        shapes = np.array([transform(size, rng).size for size in map(tuple, sizes.tolist())])
        for batch_size in BATCH_SIZES:
            found = [
                padding(list(TrainBatches(len(sizes), batch_size, 0, aspects=aspects)), shapes)
                for aspects in (None, sizes[:, 0] / sizes[:, 1])
            ]
            print(f"{name:22} batch {batch_size}: {'   '.join(found)}")


if __name__ == "__main__":
    main()
