"""Another tool's data set made into COCO layout, images linked, boxes counted before and after."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detrnb.bar import Bar
from detrnb.datasets.annotations import read_annotations
from detrnb.datasets.foreign import Foreign, Picture
from detrnb.datasets.layouts import foreign_layout, splits_of
from detrnb.datasets.voc import is_voc, read_voc
from detrnb.datasets.yolo import is_yolo, read_yolo
from detrnb.runs import naming, write_whole


@dataclass(frozen=True)
class Imported:
    """What became of a data set; its text says all of it.

    Attributes:
        path: of the new folder.
        read: what was read.
        counts: split -> class -> objects in the files read, and in those written.
        copied: images that are copies, since the file system does not link.
    """

    path: Path
    read: Foreign
    counts: Mapping[str, Mapping[str, tuple[int, int]]]
    copied: int

    @property
    def lost(self) -> bool:
        """Whether something that was there is not in the new folder."""
        return bool(self.read.dropped)

    def __str__(self) -> str:
        linked = sum(map(len, self.read.splits.values())) - self.copied
        lines = [f"{self.read.layout} -> COCO layout in {self.path}: {linked} images linked"]
        if self.copied:
            lines[0] += f", {self.copied} copied, since the file system does not link them"
        for split, classes in self.counts.items():
            lines.append(
                f"{split}: {len(self.read.splits[split])} images; objects before -> after:"
            )
            lines += [f"  {name}: {before} -> {after}" for name, (before, after) in classes.items()]
        for title, remarks in (("said", self.read.said), ("dropped", self.read.dropped)):
            lines += [f"{title}:", str(remarks)] if remarks else []
        return "\n".join(lines)


def import_data(source: str | Path, to: str | Path) -> Imported:
    """Make COCO layout of a data set of YOLO's or Pascal VOC's.

    Args:
        source: its folder.
        to: the new folder, which is made wholly or not at all; splits are called train2017,
            val2017 and test2017 there, as configs expect them.

    Raises:
        ValueError: it is neither, or the new folder is there already; or what was written does not
            hold what was read.
        OSError: it cannot be written.
    """
    source, to = Path(source), Path(to)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ValueError(f"{to} is there already; give a new folder")
    read = _read(source)
    if not any(read.splits.values()):
        raise ValueError(
            f"{source} looks like {read.layout}'s, but holds no image:\n{read.dropped}"
        )
    made = to.with_name(f".{to.name}.{os.getpid()}.importing")
    shutil.rmtree(made, ignore_errors=True)
    try:
        with naming(to):
            copied = sum(_write_split(made, name, read) for name in read.splits)
        counts = {split: _counts(made, split, read) for split in read.splits}
        with naming(to):
            if to.exists():
                to.rmdir()
            os.replace(made, to)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return Imported(to, read, counts, copied)


def _read(source: Path) -> Foreign:
    if not source.is_dir():
        looks = foreign_layout(source) or "is not there"
        raise ValueError(f"{source} {looks}; expected the folder of a data set")
    if is_yolo(source):
        return read_yolo(source)
    if is_voc(source):
        return read_voc(source)
    splits = ", ".join(splits_of(source))  # says what else it looks like
    raise ValueError(f"{source} needs no import: its splits ({splits}) are read as they are")


def _write_split(made: Path, split: str, read: Foreign) -> int:
    """Link the images of a split and write its annotations; gives how many had to be copied."""
    pictures = read.splits[split]
    names = _file_names(pictures)
    (made / split).mkdir(parents=True)
    copied = 0
    with Bar(len(pictures), f"linking {split}") as bar:
        for picture, name in zip(pictures, names, strict=True):
            copied += _link(picture.file, made / split / name)
            bar.update()
    content = _content(read, pictures, names)
    file = made / "annotations" / f"instances_{split}.json"
    write_whole(file, lambda opened: opened.write(json.dumps(content).encode()))
    return copied


def _file_names(pictures: Sequence[Picture]) -> list[str]:
    """What images are called in their split: as they were; of several of one name, with folders."""
    times = Counter(picture.file.name for picture in pictures)
    inner = {picture.file.parent for picture in pictures if times[picture.file.name] > 1}
    common = os.path.commonpath(inner) if inner else ""
    return [
        picture.file.name
        if times[picture.file.name] == 1
        else picture.file.relative_to(common).as_posix()
        for picture in pictures
    ]


def _link(file: Path, to: Path) -> bool:
    """Whether it had to be copied."""
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file.resolve(), to)
        return False
    except OSError:  # another file system, or one without links; what else is wrong, copying says
        shutil.copyfile(file, to)
        return True


def _content(read: Foreign, pictures: Sequence[Picture], names: Sequence[str]) -> dict:
    """A split as the content of a COCO file."""
    images, annotations = [], []
    for number, (picture, name) in enumerate(zip(pictures, names, strict=True), start=1):
        width, height = picture.size
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for box in picture.boxes:
            marks = dict(box.marks)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": box.category,
                "bbox": list(box.xywh),
                "area": box.area,
                "iscrowd": marks.get("difficult", 0),
            }
            outline = {"segmentation": [list(box.outline)]} if box.outline else {}
            annotations.append(annotation | outline | marks)
    return {
        "info": {"description": f"made of {read.layout} by detrnb"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(read.names)],
    }


def _counts(made: Path, split: str, read: Foreign) -> dict[str, tuple[int, int]]:
    """Class -> objects in the files read, and in the file written, as it is read again.

    Raises:
        ValueError: some that were read are not in it.
    """
    written = read_annotations(made / "annotations" / f"instances_{split}.json")
    names = dict(written.categories)
    after = Counter(names[category] for category in written.of_category.tolist())
    if after != read.kept(split):
        raise ValueError(f"{split}: wrote {after}, read {read.kept(split)}; nothing is kept of it")
    before = read.found[split]
    return {name: (before[name], after[name]) for name in sorted({*before, *after, *read.names})}
