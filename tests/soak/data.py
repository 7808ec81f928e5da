"""Data: dirty, or changing while a run trains; what is lost is said."""

import io
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nasty
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as some
from PIL import Image

from detrnb.datasets import CocoDataset, check
from detrnb.datasets.pictures import PictureError, open_rgb
from detrnb.datasets.transforms import EvalTransform
from soak.drill import Drill, Try
from soak.runs import difference, outcome, train, trained, typed

IMAGES = 3


def odd() -> some.SearchStrategy:
    """Values as no exporter should write them, and those that are near to right."""
    numbers = some.one_of(
        some.integers(-3, 6),
        some.integers(),
        some.floats(-10, 60, width=32),
        some.floats(),
        some.sampled_from(["1", "2.0", " 3", "x", "", None, True, False, [], {}, "1e400"]),
    )
    return numbers


def annotation_files() -> some.SearchStrategy:
    """Contents of annotation files: lists of records, right, wrong and in between."""
    ids = some.one_of(some.integers(1, IMAGES), some.integers(1, IMAGES), odd())
    sides = some.one_of(some.floats(0, 40, width=32), some.integers(1, 32), odd())
    box = some.one_of(some.lists(sides, min_size=4, max_size=4), some.lists(sides), odd())
    annotation = some.fixed_dictionaries(
        {"image_id": ids, "category_id": ids, "bbox": box},
        optional={"id": odd(), "iscrowd": odd(), "area": odd(), "segmentation": odd()},
    )
    names = some.one_of(some.integers(1, IMAGES).map("{}.png".format), some.text(), odd())
    image = some.fixed_dictionaries(
        {"id": ids, "file_name": names}, optional={"width": sides, "height": sides}
    )
    right = [{"id": i, "file_name": f"{i}.png", "width": 32, "height": 32} for i in (1, 2, 3)]
    category = some.fixed_dictionaries({"id": ids, "name": some.one_of(some.text(), odd())})
    kinds = [{"id": i, "name": str(i)} for i in range(1, 4)]

    # So near to right that most are read: what is then left out must be said.
    whole = some.integers(1, IMAGES).flatmap(lambda i: some.sampled_from([i, float(i), str(i)]))
    corner, side = some.floats(0, 31, width=32), some.floats(0, 40, width=32)
    near = some.fixed_dictionaries(
        {
            "image_id": whole,
            "category_id": whole,
            "bbox": some.tuples(corner, corner, side, side).map(list),
        },
        optional={
            "id": odd(),
            "iscrowd": some.sampled_from([0, 1, 0.0, "1", "false", None, True]),
            "area": some.one_of(some.none(), some.floats(0, 2000, width=32)),
            "segmentation": odd(),
        },
    )
    nearly = some.fixed_dictionaries(
        {
            "images": some.just(right),
            "annotations": some.lists(near, min_size=1, max_size=12),
            "categories": some.just(kinds),
        }
    )

    def lists(record: some.SearchStrategy, sound: list) -> some.SearchStrategy:
        return some.one_of(some.just(sound), some.lists(record, max_size=4), odd())

    wild = some.fixed_dictionaries(
        {
            "images": lists(image, right),
            "annotations": some.one_of(some.lists(annotation, max_size=6), odd()),
            "categories": lists(category, kinds),
        }
    )
    return some.one_of(nearly, nearly, wild)


def boxes_in(content: object) -> int:
    """Elements of a file's list of annotations, by the file alone."""
    found = content.get("annotations") if isinstance(content, dict) else None
    return len(found) if isinstance(found, list) else 0


def lost_silently(folder: Path, content: object) -> str:
    """What becomes of a file's boxes: used, or said to be left out; what does not, in words."""
    file = folder / "annotations.json"
    file.write_text(json.dumps(content))
    try:
        dataset = CocoDataset(folder / "images", file, EvalTransform(None, 1333))
    except ValueError as error:
        return "" if str(file) in str(error) else f"refused without its name: {error}"
    used = sum(len(dataset[i][1]["boxes"]) for i in range(len(dataset)))
    truth = dataset.ground_truth
    crowds = int(truth.crowd.sum())
    report = check({"it": (folder / "images", file)}, contiguous=True)
    said = sum(f.count for f in report.warnings if f.kind == "box of no area")
    total = boxes_in(content)
    if used + crowds + said != total:
        return f"{total} boxes in, {used} used, {crowds} crowds, {said} said to be left out"
    return ""


def fuzzed_annotations(folder: Path, count: int, start: int) -> Iterator[Try]:
    """Files by hypothesis; what it finds is made small by it."""
    part = "annotation files by hypothesis"
    (folder / "images").mkdir(exist_ok=True)
    for number in range(1, IMAGES + 1):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / "images" / f"{number}.png")
    found: list[Try] = []

    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(annotation_files())
    def all_that(content: object) -> None:
        try:
            why = lost_silently(folder, content)
        except ValueError as error:  # an image that is opened may be refused too
            why = "" if str(folder) in str(error) else f"ValueError without a name: {error}"
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        found.append(Try(part, not why, why and f"{why} of {json.dumps(content):.300}"))

    all_that()
    yield from found


def fuzzed_images(draw: random.Random, count: int) -> Iterator[Try]:
    """Bytes of image files of each form, flipped, cut out and doubled."""
    pixels = np.random.RandomState(0).randint(0, 256, (24, 32, 3), dtype=np.uint8)
    for number in range(count):
        form = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")[number % 6]
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, form)
        content = bytearray(file.getvalue())
        for _ in range(draw.choice([1, 1, 4, 40])):
            at = draw.randrange(len(content))
            content[at] = draw.randrange(256)
        if draw.random() < 0.3:
            del content[draw.randrange(len(content)) :]
        why = ""
        try:
            picture = open_rgb(io.BytesIO(bytes(content)), (32, 24))
            if picture.mode != "RGB" or picture.size != (32, 24):
                why = f"a picture of {picture.mode}, {picture.size}"
        except PictureError:
            pass
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        yield Try("image files by flipped bytes", not why, why and f"{form}: {why}")


def removed(file: Path) -> None:
    file.unlink()


def replaced(file: Path) -> None:
    Image.new("RGB", (10, 10)).save(file)


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def a_link_in_a_circle(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


SPOILT = (removed, replaced, truncated, a_folder, a_link_in_a_circle)


class Project:
    """A data set, one run that nothing happened to, and the data set again for each try."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        nasty.write(folder)
        self.data = folder / "data" / "nasty"
        shutil.copytree(self.data, folder / "sound")
        self.workers = 0
        child = trained(folder, *self.line("unbroken", 0))
        if child.code != 0:
            raise RuntimeError(child.said)
        self.expected = outcome(folder, "unbroken")

    def line(self, name: str, workers: int) -> list[str]:
        return typed(name, data__num_workers=workers)

    def mend(self) -> None:
        shutil.rmtree(self.data)
        shutil.copytree(self.folder / "sound", self.data)

    def while_training(self, name: str, workers: int, change: Callable[[], None]) -> tuple:
        """Start a run, change something after its first epoch; how it ended, what it said."""
        child = train(self.folder, *self.line(name, workers))
        log = self.folder / "runs" / name / "last.pt"
        while child.poll() is None and not log.exists():
            time.sleep(0.002)
        change()
        return child.wait(), child.said

    def same(self, name: str, workers: int) -> str:
        again = trained(self.folder, *self.line(name, workers))
        if again.code != 0:
            return f"does not go on once the data are back: {again.said[-250:]}"
        return difference(outcome(self.folder, name), self.expected)


def image_spoilt(project: Project, name: str, workers: int, spoil: Callable) -> Try:
    """An image of each split, while a run trains."""
    file = project.data / "train2017" / "000012.png"
    code, said = project.while_training(name, workers, lambda: spoil(file))
    why = ""
    if code == 1 and (file.name not in said or "Traceback" in said):
        why = f"ended with {said[-300:]}"
    elif code not in (0, 1):
        why = f"ended with {code}: {said[-300:]}"
    if not why:  # started again with the spoilt file
        again = trained(project.folder, *project.line(name, workers))
        named = file.name in again.said or "other annotations or images" in again.said
        if "Traceback" in again.said or again.code == 1 and not named:
            why = f"went on to {again.said[-300:]}"
        elif code == 1 and again.code == 0:
            why = f"goes on with it: {again.said[-300:]}"
    project.mend()
    why = why or project.same(name, workers)
    part = f"image {spoil.__name__.replace('_', ' ')} while training"
    return Try(part, not why, why and f"{workers} workers: {why}")


def worker_killed(project: Project, name: str) -> Try:
    """The loader's worker ends, as by the system for want of memory."""

    def kill() -> None:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                told = (process / "stat").read_text().rpartition(")")[2].split()
                parent = int(told[1])
                if parent == started[0].process:
                    os.kill(int(process.name), signal.SIGKILL)
            except (OSError, IndexError):
                continue

    child = train(project.folder, *project.line(name, 1))
    started = [child]
    last = project.folder / "runs" / name / "last.pt"
    while child.poll() is None and not last.exists():
        time.sleep(0.002)
    kill()
    code, said = child.wait(), child.said
    why = ""
    if code not in (0, 1) or "Traceback" in said:
        why = f"ended with {code}: {said[-300:]}"
    elif code == 1 and "worker" not in said.lower():
        why = f"does not say that a worker is gone: {said[-300:]}"
    why = why or project.same(name, 1)
    return Try("worker killed", not why, why)


def annotations_edited(project: Project, name: str) -> Try:
    """A box is taken out between two epochs: what was read counts; going on is refused."""
    file = project.data / "annotations" / "instances_train2017.json"

    def edit() -> None:
        content = json.loads(file.read_text())
        content["annotations"].pop()
        file.write_text(json.dumps(content))

    code, said = project.while_training(name, 0, edit)
    why = "" if code == 0 else f"ended with {code}: {said[-300:]}"
    why = why or difference(outcome(project.folder, name), project.expected)
    project.mend()
    return Try("annotations edited between epochs", not why, why)


def tries(folder: Path, files: int = 500) -> Iterator[Try]:
    draw = random.Random(2)
    fuzz = folder / "fuzz"
    fuzz.mkdir()
    yield from fuzzed_annotations(fuzz, files, 0)
    yield from fuzzed_images(draw, files)
    project, number = Project(folder), 0
    for workers in (0, 1):
        for spoil in SPOILT:
            number += 1
            yield image_spoilt(project, f"run-{number}", workers, spoil)
        yield worker_killed(project, f"killed-{workers}")
        yield annotations_edited(project, f"edited-{workers}")


DATA = Drill("Data", tries)
