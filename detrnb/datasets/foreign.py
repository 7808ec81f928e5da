"""A data set in another tool's layout, as it was read: pictures, boxes, what there is to say."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from detrnb.datasets.annotations import Examples
from detrnb.datasets.pictures import UPRIGHT, orientation

IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".heic", ".jfif", ".jpeg", ".jpg"),
    *(".mpo", ".png", ".ppm", ".tif", ".tiff", ".webp"),
)
SPLITS = {  # how tools call a split -> how COCO's layout does here, which is what a config expects
    **dict.fromkeys(("train", "training", "trainval"), "train2017"),
    **dict.fromkeys(("val", "valid", "validation"), "val2017"),
    **dict.fromkeys(("test", "testing"), "test2017"),
}
_YEAR = re.compile(r"[-_]?(19|20)\d\d$")  # COCO's folders and VOC's have one


@dataclass(frozen=True)
class ForeignBox:
    """One object.

    Attributes:
        category: index among the names.
        xywh: in pixels.
        outline: x, y, x, y, ... of a polygon in pixels, empty for a plain box.
        marks: what else is kept of it, such as `difficult`.
    """

    category: int
    xywh: tuple[float, float, float, float]
    outline: tuple[float, ...] = ()
    marks: tuple[tuple[str, int], ...] = ()

    @property
    def area(self) -> float:
        """Of the outline where there is one, else of the box."""
        xs, ys = self.outline[::2], self.outline[1::2]
        if not xs:
            return self.xywh[2] * self.xywh[3]
        ahead = zip(xs, ys, xs[1:] + xs[:1], ys[1:] + ys[:1], strict=True)
        return abs(sum(x * next_y - next_x * y for x, y, next_x, next_y in ahead)) / 2


@dataclass(frozen=True)
class Picture:
    """An image and its objects.

    Attributes:
        file: where it lies.
        size: width and height in pixels that its boxes are for.
    """

    file: Path
    size: tuple[int, int]
    boxes: tuple[ForeignBox, ...]


class Remarks(dict[str, Examples]):
    """What there is to say about a reading, kind by kind, each with its first few places."""

    def add(self, kind: str, example: str) -> None:
        """One more of a kind."""
        self.setdefault(kind, Examples()).add(example)

    def __str__(self) -> str:
        lines = []
        for kind, found in self.items():
            more = found.count - len(found.first)
            shown = "; ".join(found.first) + (f" and {more} more" if more else "")
            lines.append(f"  {kind} ({found.count}): {shown}")
        return "\n".join(lines)


@dataclass
class Foreign:
    """A whole data set.

    Attributes:
        layout: whose it is, in words.
        names: of the classes.
        splits: name of a split in COCO's layout -> its pictures.
        found: split -> class -> objects that its files hold, counted as they stand there, whether
            they could be taken or not.
        said: what was decided or is worth knowing.
        dropped: objects and images that are not taken, and why.
    """

    layout: str
    names: list[str] = field(default_factory=list)
    splits: dict[str, list[Picture]] = field(default_factory=dict)
    found: dict[str, Counter[str]] = field(default_factory=dict)
    said: Remarks = field(default_factory=Remarks)
    dropped: Remarks = field(default_factory=Remarks)

    def kept(self, split: str) -> Counter[str]:
        """Class -> objects taken of a split."""
        boxes = (box for picture in self.splits[split] for box in picture.boxes)
        return Counter(self.names[box.category] for box in boxes)


def images_in(folder: Path) -> Iterator[Path]:
    """Every image file in a folder and the folders in it, in order; hidden ones left out."""
    for inner, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield Path(inner, name)


def upright_size(file: Path) -> tuple[tuple[int, int], bool]:
    """Width and height of an image as EXIF turns it, and whether its sides do not tell that turn.

    Raises:
        OSError: it is no image that can be opened.
    """
    try:
        with Image.open(file) as image:
            turn, (width, height) = orientation(image), image.size
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(str(error)) from error
    if turn in UPRIGHT:
        return (height, width), width == height
    return (width, height), turn != 1


def split_of_word(word: str) -> str | None:
    """The split that a folder's name stands for, such as `valid` or COCO's `val2017`."""
    return SPLITS.get(_YEAR.sub("", word.lower()))


def split_name(file: Path, root: Path, read: Foreign) -> str:
    """The split that one of a file's folders names; where none does training, and that is said."""
    inside = file.relative_to(root)
    named = next(filter(None, map(split_of_word, inside.parts[:-1])), None)
    if named is None:
        read.said.add("in no folder that names a split: taken for training", str(inside))
    return named or "train2017"
