"""Reading an annotation file, beside pycocotools and plain JSON: time and peak memory.

    python bench/annotations.py

A generated file of a tenth of COCO's train2017, with polygons. Equal results: number of images and
of boxes, and the sum of all boxes. Memory is what reading adds to the peak of a process of its own.
What two workers of a loader add is the proportional memory (PSS) of all three processes less that
of the one before, for workers that are forked, as on Linux, and spawned.
"""

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path

import numpy as np
from PIL import Image
from tables import Row, spread
from timing import OURS, Findings, Options, beside, in_own_process, in_turns, main, process_memory
from torch.utils.data import DataLoader, RandomSampler

from detrnb.datasets import CocoDataset, EvalTransform, collate, read_annotations

IMAGES, BOXES = 11_829, 86_000  # a tenth of train2017's
FILE, FOLDER = "instances.json", "images"
PLACE = "DETRNB_BENCH_ANNOTATIONS"  # of the generated files, told to processes of their own
MEMORY_RUNS = 1
BATCHES = 20


def generate(root: Path) -> None:
    """Write annotations, and one small image under the name of each."""
    folder = root / FOLDER
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    shapes = [str(rng.uniform(1, 400, 52).round(2).tolist()) for _ in range(1000)]
    source = root / "image.jpg"
    Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(source)
    with (root / FILE).open("w") as out:
        out.write('{"info": {}, "images": [')
        for i in range(IMAGES):
            os.link(source, folder / f"{i:012d}.jpg")
            image = {"id": i, "file_name": f"{i:012d}.jpg", "width": 64, "height": 48}
            out.write(", " * (i > 0) + json.dumps(image | {"flickr_url": "http://" + "x" * 120}))
        out.write('], "annotations": [')
        for i in range(BOXES):
            x, y = i % 40, i % 30
            out.write(
                ", " * (i > 0) + f'{{"segmentation": [{shapes[i % 1000]}], "area": 102.5, '
                f'"iscrowd": 0, "image_id": {i * 7919 % IMAGES}, '
                f'"bbox": [{x}.25, {y}.5, 13.02, 11.63], "category_id": {i % 80 + 1}, "id": {i}}}'
            )
        categories = [{"id": i, "name": f"class {i}"} for i in range(1, 81)]
        out.write(f'], "categories": {json.dumps(categories)}}}')


def by_ours(file: Path) -> tuple[int, int, float]:
    """As flat arrays."""
    read = read_annotations(file)
    return len(read.image_ids), len(read.boxes_xywh), float(read.boxes_xywh.sum())


def by_json(file: Path) -> tuple[int, int, float]:
    """As Python's objects."""
    return _counted(json.loads(file.read_bytes()))


def by_pycocotools(file: Path) -> tuple[int, int, float]:
    """As Python's objects, indexed."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        return _counted(COCO(str(file)).dataset)


def _counted(content: dict) -> tuple[int, int, float]:
    boxes = [record["bbox"] for record in content["annotations"]]
    return len(content["images"]), len(boxes), float(np.array(boxes).sum())


READERS: dict[str, Callable[[Path], tuple[int, int, float]]] = {
    OURS: by_ours,
    "pycocotools": by_pycocotools,
    "json.loads": by_json,
}


def added_by(reader: Callable[[Path], object]) -> Callable[[Options], float]:
    """MiB that a reader adds to this process's peak."""

    def measured(options: Options) -> float:
        before = process_memory("VmRSS")
        reader(Path(os.environ[PLACE], FILE))
        return process_memory("VmHWM") - before

    return measured


def workers_rows(root: Path) -> list[Row]:
    """What two workers add, by how they are started."""
    dataset = CocoDataset(root / FOLDER, root / FILE, EvalTransform(size=None))
    rows: list[Row] = []
    for start in ("fork", "spawn"):
        alone = process_memory("Pss")
        loader = DataLoader(
            dataset,
            64,
            sampler=RandomSampler(dataset, num_samples=64 * (BATCHES + 10)),
            num_workers=2,
            collate_fn=collate,
            multiprocessing_context=start,
        )
        for number, _ in enumerate(loader):
            if number == BATCHES:
                there = ["self", *(child.pid for child in active_children())]
                added = sum(process_memory("Pss", process) for process in there) - alone
                rows.append({"two workers": start, "they add, MiB": added})
    return rows


def results(options: Options) -> Findings:
    """Seconds and memory of each reader."""
    found = Findings()
    with tempfile.TemporaryDirectory() as temporary:
        generate(Path(temporary))
        os.environ[PLACE] = temporary
        file = Path(temporary, FILE)
        expected = by_ours(file)
        sides = {OURS: lambda: by_ours(file)}
        for name, reader in READERS.items():
            with found.leaving_out(name):
                given = reader(file)
                assert given[:2] == expected[:2] and np.isclose(given[2], expected[2]), given
                sides[name] = lambda reader=reader: reader(file) and None
        found.tables["Reading"] = beside("11,829 images", in_turns(sides, options))
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.rounds or MEMORY_RUNS):
            for name in taken:
                taken[name].append(in_own_process(__file__, "--alone", name))
        ours = np.array(taken.pop(OURS))
        found.tables["Memory"] = [
            {
                "what": "reading",
                "ours, MiB": float(ours.min()),
                "beside": name,
                "its MiB": min(theirs),
                "ours / its": spread(ours / np.array(theirs)),
            }
            for name, theirs in taken.items()
        ]
        with found.leaving_out("workers of a loader"):
            found.tables["Workers"] = workers_rows(Path(temporary))
    return found


if __name__ == "__main__":
    main(__doc__, results, {name: added_by(reader) for name, reader in READERS.items()})
