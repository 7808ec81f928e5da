"""Long: what must not grow with epochs does not, and a set of COCO's size fits where it is said."""

import gc
import json
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nasty
import numpy as np
from PIL import Image

from detrnb.commands import main
from detrnb.runs import RunFolder
from detrnb.training import run as engine
from soak.drill import Drill, Try
from soak.forking import Child
from soak.runs import typed

EPOCHS = 300
GROWTH_MB = 40  # from a third to the end
IMAGES, BOXES, CLASSES = 100_000, 7, 80
MEMORY_MB = 2500  # of the training process, the workers beside it


def measured(file: Path) -> None:
    """Have each epoch of this process's training written down as it ends."""
    evaluate = engine.evaluate_epoch

    def noting(*given: object) -> None:
        evaluate(*given)
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
        handles = len(list(Path("/proc/self/fd").iterdir()))
        now = [resident, handles, threading.active_count(), time.process_time()]
        now.append(len(gc.get_objects()))
        with file.open("a") as told:
            told.write(json.dumps(now) + "\n")

    engine.evaluate_epoch = noting


def many_epochs(folder: Path, epochs: int) -> Iterator[Try]:
    """Memory, handles, threads, size of the log and time, epoch by epoch."""
    nasty.write(folder)
    told = folder / "measured.txt"

    def do() -> int:
        measured(told)
        return main(typed("long", "adaptive_res", train__epochs=epochs, train__lr_drop=epochs))

    child = Child(do, folder)
    code = child.wait(7200)
    if code != 0:
        yield Try(f"{epochs} epochs", False, f"ended with {code}: {child.said[-300:]}")
        return
    values = np.array([json.loads(line) for line in told.read_text().splitlines()])
    third = len(values) // 3
    memory, handles, threads, seconds, objects = values.T
    taken = np.diff(seconds)
    lines = RunFolder(folder / "runs" / "long").read_log()
    sizes = [len(np.hstack([*line.values()])) for line in lines]  # not of their digits
    grown = {
        "memory": (memory[-1] - memory[third], GROWTH_MB),
        "file handles": (handles[-1] - handles[third], 0),
        "threads": (threads[-1] - threads[third], 0),
        "objects": (objects[-1] - objects[third], 0.02 * objects[third] + 2000),
        "numbers in a log line": (max(sizes) - min(sizes), 0),
        "time of an epoch": (
            np.median(taken[-third:]) - np.median(taken[:third]),
            0.5 * np.median(taken[:third]),
        ),
    }
    for what, (growth, limit) in grown.items():
        why = "" if growth <= limit else f"grows by {growth:.4g}, at most {limit:.4g}"
        yield Try(f"{what} over {epochs} epochs", not why, why)


def as_coco(folder: Path, images: int) -> None:
    """A set of COCO's layout and size whose images are links to few files."""
    draw = np.random.RandomState(0)
    root = folder / "data" / "large"
    (root / "annotations").mkdir(parents=True)
    files = []
    for number in range(8):
        file = root / f"{number}.jpg"
        pixels = draw.randint(0, 256, (60, 80, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((640, 480)).save(file)
        files.append(file)
    for split, count in (("train2017", images), ("val2017", max(8, images // 50))):
        (root / split).mkdir()
        # Names of their own: images that are in two splits are refused.
        names = [f"{split[:1]}{number:011d}.jpg" for number in range(count)]
        for number, name in enumerate(names):
            (root / split / name).hardlink_to(files[number % 8])
        corners = draw.uniform(0, 300, (count * BOXES, 2))
        sides = draw.uniform(5, 170, (count * BOXES, 2))
        listed = [
            {"id": n, "image_id": n // BOXES, "category_id": n % CLASSES + 1, "iscrowd": 0}
            | {"bbox": [*map(float, c), *map(float, s)], "area": float(s[0] * s[1])}
            for n, (c, s) in enumerate(zip(corners, sides, strict=True))
        ]
        content = {
            "images": [
                {"id": n, "file_name": name, "width": 640, "height": 480}
                for n, name in enumerate(names)
            ],
            "annotations": listed,
            "categories": [{"id": n + 1, "name": f"class {n}"} for n in range(CLASSES)],
        }
        file = root / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps(content))


def large(folder: Path, images: int, workers: int, steps: int) -> Try:
    """Opens, trains some steps of an epoch and evaluates, and the memory that this takes."""
    told = folder / f"large-{workers}.txt"
    line = typed(
        f"large-{workers}",
        data__path="data/large",
        data__num_workers=workers,
        train__epochs=1,
        train__batch_size=2,
    )

    def do() -> int:
        from detrnb.training import epochs, loop

        train = loop.train_one_epoch

        def short(*given: object, **settings: object) -> dict:
            take, count = loop._Stepper.__call__, [0]

            def counted(self: object, batches: list, where: str) -> dict:
                count[0] += 1
                return take(self, batches, where)

            loop._Stepper.__call__ = counted
            steps_of = loop._steps

            def few(loader: object, accumulate: int) -> Iterator:
                for number, batch in enumerate(steps_of(loader, accumulate)):
                    if number == steps:
                        return
                    yield batch

            loop._steps = few
            return train(*given, **settings)

        epochs.train_one_epoch = short
        code = main(line)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        told.write_text(json.dumps(peak))
        return code

    child = Child(do, folder)
    code = child.wait(7200)
    part = f"{images:,} images of COCO's layout, {workers} workers"
    if code != 0:
        return Try(part, False, f"ended with {code}: {child.said[-300:]}")
    peak = json.loads(told.read_text())
    why = "" if peak < MEMORY_MB else f"took {peak:.0f} MB, more than {MEMORY_MB}"
    return Try(f"{part}: within {MEMORY_MB} MB", not why, why)


def tries(
    folder: Path, epochs: int = EPOCHS, images: int = IMAGES, steps: int = 200
) -> Iterator[Try]:
    many, one = folder / "many", folder / "one"
    many.mkdir()
    one.mkdir()
    yield from many_epochs(many, epochs)
    as_coco(one, images)
    for workers in (0, 4):
        yield large(one, images, workers, steps)


LONG = Drill("Long", tries)
