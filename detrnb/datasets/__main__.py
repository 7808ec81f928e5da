"""Check a data set before training on it: `python -m detrnb.datasets PATH`.

Prints what each split holds and every fault, grouped and counted, with the first few by id and file
and what to do. Errors stop training, warnings do not; with an error the exit code is 1. Boxes are
counted against DETR's 100 queries; `fit` does the same with its model's.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from detrnb.config import Config
from detrnb.datasets.checking import check


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m detrnb.datasets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a folder laid out as COCO; or the folder of images and the annotation file of each"
        " split in turn, training first",
    )
    parser.add_argument("--images", action="store_true", help="open every image")
    arguments = parser.parse_args(argv)
    paths = arguments.paths
    if len(paths) > 1 and len(paths) % 2:
        parser.error(f"{len(paths)} paths: expected one folder, or pairs of images and annotations")
    pairs = zip(paths[::2], paths[1::2], strict=False)
    splits = {file: (Path(images), Path(file)) for images, file in pairs}
    num_queries = Config.preset("coco").model.num_queries
    try:
        report = check(splits or paths[0], images=arguments.images, num_queries=num_queries)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print(report)
    if not arguments.images:
        print("images were not opened; --images does so")
    return 1 if report.errors else 0


if __name__ == "__main__":
    sys.exit(main())
