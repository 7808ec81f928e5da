"""What reading and checking a data set of COCO's size takes: seconds and peak memory.

    python bench/annotations.py

Each is done in a process of its own, on a generated file with 118,287 images and 860,001 polygons.
What two workers of a loader add is the proportional memory (PSS) of all three processes, less that
of the one before, for workers that are forked (as on Linux) and spawned; last, for a set of 1,000
images.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler

from detrnb.datasets import CocoDataset, EvalTransform, check, collate, read_annotations

IMAGES, BOXES = 118_287, 860_001  # of COCO's train2017
LINKS = 50_000  # to one file; file systems have a limit


def generate(root: Path, num_images: int, num_boxes: int) -> tuple[Path, Path]:
    """Write images (small, and the same few) and annotations; gives their paths."""
    folder, file = root / "train2017", root / "annotations" / "instances_train2017.json"
    folder.mkdir(parents=True)
    file.parent.mkdir()
    rng = np.random.default_rng(0)
    shapes = [str(rng.uniform(1, 400, 52).round(2).tolist()) for _ in range(1000)]
    with file.open("w") as out:
        out.write('{"info": {}, "images": [')
        for i in range(num_images):
            source = root / f"{i // LINKS}.jpg"
            if not source.exists():
                Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(source)
            os.link(source, folder / f"{i:012d}.jpg")
            image = {"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480}
            out.write(", " * (i > 0) + json.dumps(image | {"flickr_url": "http://" + "x" * 120}))
        out.write('], "annotations": [')
        for i in range(num_boxes):
            x, y = i % 400, i % 300
            out.write(
                ", " * (i > 0) + f'{{"segmentation": [{shapes[i % 1000]}], "area": 702.5, '
                f'"iscrowd": 0, "image_id": {i * 7919 % num_images}, '
                f'"bbox": [{x}.25, {y}.5, 73.02, 151.63], "category_id": {i % 80 + 1}, "id": {i}}}'
            )
        categories = [{"id": i, "name": f"class {i}"} for i in range(1, 81)]
        out.write(f'], "categories": {json.dumps(categories)}}}')
    return folder, file


def memory(pid: int | str, entry: str) -> float:
    """VmRSS or VmHWM (the peak), or Pss, of a process, MB."""
    lines = Path(f"/proc/{pid}/{'smaps_rollup' if entry == 'Pss' else 'status'}").read_text()
    return int(lines.split(f"{entry}:")[1].split()[0]) / 1024


def measure(function: Callable[..., str | None], *arguments: Path) -> str:
    """Seconds and peak memory of a call in this process."""
    before, begin, cpu = memory("self", "VmRSS"), time.perf_counter(), time.process_time()
    said = function(*arguments)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    peak = memory("self", "VmHWM")
    return (
        f"{seconds:6.1f} s, {cpu:.1f} s of them computing; peak {peak:5.0f} MB, {before:.0f} MB"
        f" before{said or ''}"
    )


def parse_as_a_whole(folder: Path, file: Path) -> None:
    """What `json.loads` takes."""
    json.loads(file.read_bytes())


def read(folder: Path, file: Path) -> None:
    """The annotation file as flat arrays."""
    read_annotations(file)


def check_all(folder: Path, file: Path) -> str:
    """Reading, checking, and seeing that each image file is there."""
    return f"; {len(check({'train2017': (folder, file)}).faults)} faults"


def load(folder: Path, file: Path) -> str:
    """The data set, and batches of it by two workers."""
    dataset = CocoDataset(folder, file, EvalTransform(size=None))
    held = sum(a.nbytes for a in vars(dataset).values() if isinstance(a, np.ndarray)) / 2**20
    added = {}
    for start in ("fork", "spawn"):
        alone = memory("self", "Pss")
        loader = DataLoader(
            dataset,
            64,
            sampler=RandomSampler(dataset, num_samples=6400),
            num_workers=2,
            collate_fn=collate,
            multiprocessing_context=start,
        )
        for number, _ in enumerate(loader):
            if number == 50:
                processes = ["self", *(child.pid for child in active_children())]
                added[start] = sum(memory(process, "Pss") for process in processes) - alone
    return "; arrays of {:.0f} MB; two workers add {:.0f} MB forked, {:.0f} spawned".format(
        held, *added.values()
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        large = generate(Path(temporary, "large"), IMAGES, BOXES)
        small = generate(Path(temporary, "small"), 1_000, 7_000)
        print(f"{large[1].stat().st_size / 2**20:.0f} MB, {IMAGES:,} images, {BOXES:,} boxes")
        for function, paths in (
            (parse_as_a_whole, large),
            (read, large),
            (check_all, large),
            (load, large),
            (load, small),
        ):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                measured = process.submit(measure, function, *paths).result()
            print(f"{function.__name__:18}{measured}", flush=True)
