"""COCO annotation files as flat arrays."""

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from detrnb.datasets import fields
from detrnb.datasets.fields import Fields
from detrnb.datasets.json_lists import json_lists

ROBOFLOW = "_annotations.coco.json"  # what Roboflow calls a split's file, in the split's own folder
SHOWN = 3  # examples of one kind of fault
MOST_LABELS = 2**16  # a model has logits for all of them, used or not

Classes = dict[int, tuple[int, str]]  # label -> category id, name


@dataclass
class Examples:
    """How many there are of something, and the first few."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.count += 1
        if self.count <= SHOWN:
            self.first.append(example)


@dataclass(frozen=True)
class Annotations:
    """What an annotation file holds, record by record in its order; malformed records aside.

    Attributes:
        path: of the file.
        categories: id and name of each.
        image_ids: (n,) int64.
        file_names: (n,) bytes, UTF-8.
        image_sizes: (n, 2) float64, width and height; NaN where the file does not tell.
        ids: (m,) int64, of the annotations; NO_ID where the file has none that is a number.
        of_image: (m,) int64, image id of each annotation.
        of_category: (m,) int64, its category id.
        crowd: (m,) bool.
        boxes_xywh: (m, 4) float64, pixels, all finite.
        areas: (m,) float64, pixels, of what the boxes are around; NaN where the file has none.
        malformed: list's name -> records that cannot be read.
        merged: categories listed again, id and name alike, which are taken as one.
        heading: a category that is none, in words; empty where there is no such.
    """

    path: Path
    categories: tuple[tuple[int, str], ...]
    image_ids: np.ndarray
    file_names: np.ndarray
    image_sizes: np.ndarray
    ids: np.ndarray
    of_image: np.ndarray
    of_category: np.ndarray
    crowd: np.ndarray
    boxes_xywh: np.ndarray
    areas: np.ndarray
    malformed: Mapping[str, Examples]
    merged: Examples
    heading: str = ""

    @property
    def object_areas(self) -> np.ndarray:
        """(m,) float64: areas as the file has them, width times height where it has none."""
        return np.where(np.isnan(self.areas), self.boxes_xywh[:, 2:].prod(1), self.areas)


def known_size(size: np.ndarray) -> tuple[float, float] | None:
    """Width and height of an image, None where the file does not tell (NaN)."""
    width, height = size.tolist()
    return None if math.isnan(width) else (width, height)


def fingerprint(annotations: Path) -> str:
    """The first 16 hexadecimal digits of the annotation file's SHA-256, for provenance."""
    with annotations.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def read_annotations(path: Path) -> Annotations:
    """Read a COCO instances file; at most a few megabytes of it are in memory at a time.

    The last few files read are kept by their content: classes, check and data set each want them,
    and COCO's takes many seconds to read.

    Raises:
        ValueError: there is no such file, or it is no JSON object with the lists `images`,
            `annotations` and `categories`.
    """
    try:
        content = _read(path, fingerprint(path))
        return _without_heading(content) if path.name == ROBOFLOW else content
    except FileNotFoundError:
        raise ValueError(f"annotation file {path} not found") from None
    except OSError as error:
        raise ValueError(f"annotation file {path} cannot be read: {error.strerror}") from None


@lru_cache(maxsize=4)
def _read(path: Path, content: str) -> Annotations:
    """Read the file; `content` is its fingerprint, by which the cache knows it."""
    tables = {"images": _Table(fields.image), "annotations": _Table(fields.annotation)}
    tables["categories"] = _Table(fields.category)
    missing = set(tables)
    for name, records in json_lists(path):
        if name in tables and name not in missing:
            raise ValueError(f"{path} has two lists '{name}'; expected one")
        if name in tables:
            missing.remove(name)
            tables[name].fill(records)
    for name in tables:
        if name in missing:
            raise ValueError(f"{path} has no list '{name}'; expected a COCO instances file")
    images, boxes, categories = tables.values()
    ids, of_image, of_category, crowd = boxes.columns(4)
    measures = boxes.measures(5)
    listed = list(zip(categories.columns(1)[0].tolist(), categories.names, strict=True))
    times = Counter(listed)
    again = ["category {} ({})".format(*entry) for entry, count in times.items() if count > 1]
    result = Annotations(
        path=path,
        categories=tuple(times),
        image_ids=images.columns(1)[0],
        file_names=np.array([name.encode() for name in images.names], dtype=np.bytes_),
        image_sizes=images.measures(2),
        ids=ids,
        of_image=of_image,
        of_category=of_category,
        crowd=crowd.astype(bool),
        boxes_xywh=measures[:, :4].copy(),
        areas=measures[:, 4].copy(),
        malformed={name: table.malformed for name, table in tables.items()},
        merged=Examples(len(listed) - len(times), again[:SHOWN]),
    )
    for column in vars(result).values():
        if isinstance(column, np.ndarray):
            column.setflags(write=False)  # others are given the same
    return result


def _without_heading(content: Annotations) -> Annotations:
    """A file of Roboflow's without category 0, where this is only the heading of the others.

    It is a class where an annotation of any split refers to it, and where it is the only one.
    """
    rest = tuple(category for category in content.categories if category[0] != 0)
    files = sorted(content.path.absolute().parents[1].glob(f"*/{ROBOFLOW}"))
    used = any((_read(file, fingerprint(file)).of_category == 0).any() for file in files)
    if used or not rest or len(rest) == len(content.categories):
        return content
    name = dict(content.categories)[0]
    heading = f"category 0 ({name}), to which no annotation of any split refers"
    return replace(content, categories=rest, heading=heading)


class _Table:
    """The records of one list as columns; numbers lie flat from the start, not as objects."""

    def __init__(self, parse: Callable[[dict], Fields]) -> None:
        self.parse = parse
        self.whole, self.real, self.names = array("q"), array("d"), []
        self.malformed = Examples()

    def fill(self, records: Iterable[object]) -> None:
        """Take in every record, or say what is wrong with it."""
        for number, record in enumerate(records):
            try:
                if not isinstance(record, dict):
                    raise ValueError(f"it is {record!r:.60}, not an object")
                whole, real, name = self.parse(record)
            except ValueError as error:
                known = record.get("id") if isinstance(record, dict) else None
                self.malformed.add(f"element {number} (id {known!r:.40}): {error}")
                continue
            self.whole.extend(whole)
            self.real.extend(real)
            if name:
                self.names.append(name)

    def columns(self, count: int) -> np.ndarray:
        """The whole numbers, (count, n) int64."""
        return np.array(self.whole, dtype=np.int64).reshape(-1, count).T.copy()

    def measures(self, count: int) -> np.ndarray:
        """The real numbers, (n, count) float64."""
        return np.array(self.real, dtype=np.float64).reshape(-1, count)


def label_classes(categories: Iterable[tuple[int, str]], contiguous: bool) -> Classes:
    """What labels stand for.

    Args:
        categories: id and name of each.
        contiguous: labels 0..K-1 in order of category id; otherwise a label is the category id
            itself, as the official weights have it.

    Raises:
        ValueError: a label would be negative, or higher than a model can have.
    """
    ordered = sorted(categories)
    for i in () if contiguous else (ordered[0][0], ordered[-1][0]):
        if not 0 <= i < MOST_LABELS:
            raise ValueError(
                f"category id {i} cannot be a label, which counts from 0 to below {MOST_LABELS:,};"
                " set data.contiguous_labels=True"
            )
    return {label if contiguous else entry[0]: entry for label, entry in enumerate(ordered)}


def class_names(classes: Classes, num_classes: int) -> tuple[str, ...]:
    """Label -> name; "N/A" for a label without category."""
    return tuple(classes[i][1] if i in classes else "N/A" for i in range(num_classes))


def category_difference(ours: Iterable[tuple[int, str]], theirs: Iterable[tuple[int, str]]) -> str:
    """How two lists of categories (id and name) differ, in words; empty where they agree."""
    ours, theirs = set(ours), set(theirs)
    parts = (("only here", ours - theirs), ("only there", theirs - ours))
    listed = (
        f"{where}: " + ", ".join(f"{i} {name!r}" for i, name in sorted(only)[:5]) + more
        for where, only in parts
        if only
        for more in [f" and {len(only) - 5} more" if len(only) > 5 else ""]
    )
    return "; ".join(listed)
