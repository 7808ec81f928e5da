"""Data sets in the layout of Pascal VOC: an XML file an image, boxes by their corners.

VOC counts pixels from 1 and its last pixel belongs to the box, so that a box reaches from xmin - 1
to xmax. Some tools write the same files counting from 0: boxes that begin at 0 tell, since VOC's
cannot. VOC's evaluation leaves `difficult` objects out of account, as COCO's does crowds.
"""

import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from detrnb.datasets.foreign import (
    SPLITS,
    Foreign,
    ForeignBox,
    Picture,
    images_in,
    split_name,
    upright_size,
)

LISTS = (
    "train",
    "val",
    "test",
    "trainval",
)  # of ImageSets/Main, whose others are of single classes
_KEPT = ("difficult", "truncated", "occluded")
_READ = {*_KEPT, "name", "bndbox"}
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class _Object:
    """An object as its file has it, corners as they are counted there."""

    name: str
    corners: tuple[float, ...]
    marks: tuple[tuple[str, int], ...]


def is_voc(root: Path) -> bool:
    """Whether a folder is laid out so."""
    first = next(_files(root), None)
    return first is not None and _parsed(first) is not None


def read_voc(root: Path) -> Foreign:
    """Read a data set.

    Raises:
        ValueError: it holds several.
    """
    read = Foreign("Pascal VOC")
    files = _by_split(root, read)
    objects: dict[Path, list[_Object]] = {}
    for split, xmls in files.items():
        read.found[split] = Counter()
        for xml in xmls:
            if (top := _parsed(xml)) is None:
                read.dropped.add("file that is no XML of an annotation", xml.name)
                continue
            objects[xml] = list(_objects(top, xml, read.found[split], read))
    read.names = sorted({thing.name for things in objects.values() for thing in things})
    first = _first_pixel(objects, read)
    images = _Images(root)
    for split, xmls in files.items():
        pictures = (
            _picture(xml, objects[xml], first, images, read) for xml in xmls if xml in objects
        )
        read.splits[split] = [picture for picture in pictures if picture]
    taken = {picture.file for pictures in read.splits.values() for picture in pictures}
    for image in images.others({*taken, *(images.of(xml, "") for xml in _files(root))}):
        read.dropped.add("image without an XML file", str(image.relative_to(root)))
    return read


def _files(root: Path) -> Iterator[Path]:
    return (file for file in sorted(root.rglob("*.xml")) if not file.name.startswith("."))


def _parsed(file: Path) -> ElementTree.Element | None:
    """The file's element `annotation`; None where it has none."""
    try:
        top = ElementTree.parse(file).getroot()
    except ElementTree.ParseError:
        return None
    return top if top.tag == "annotation" else None


def _by_split(root: Path, read: Foreign) -> dict[str, list[Path]]:
    """The XML files of each split: as ImageSets/Main lists them, else by their folders' names."""
    sets = sorted(root.rglob("ImageSets/Main"))
    if len(sets) > 1:
        found = ", ".join(str(folder.parents[1].relative_to(root)) for folder in sets)
        raise ValueError(f"{root} holds several data sets ({found}); import one of them")
    if not sets or not any((sets[0] / f"{name}.txt").is_file() for name in LISTS):
        files: dict[str, list[Path]] = {}
        for xml in _files(root):
            files.setdefault(split_name(xml, root, read), []).append(xml)
        return files
    home = sets[0].parents[1] / "Annotations"
    listed: dict[str, list[Path]] = {}
    taken: set[Path] = set()
    for name in LISTS:
        file = sets[0] / f"{name}.txt"
        if not file.is_file() or (name == "trainval" and listed.keys() & {"train2017", "val2017"}):
            continue
        xmls = [
            home / f"{line.strip()}.xml" for line in file.read_text().splitlines() if line.strip()
        ]
        for xml in (xml for xml in xmls if not xml.is_file()):
            read.dropped.add(f"image of {file.name} without an XML file", xml.stem)
        listed[SPLITS[name]] = [xml for xml in xmls if xml.is_file()]
        taken.update(xmls)
    for xml in sorted({*home.glob("*.xml")} - taken):
        read.dropped.add("XML file in no list of ImageSets/Main", xml.name)
    return listed


def _objects(
    top: ElementTree.Element, xml: Path, found: Counter[str], read: Foreign
) -> Iterator[_Object]:
    """The objects of a file that have a name and a box; counts all."""
    for number, element in enumerate(top.iter("object"), start=1):
        place = f"{xml.name}, object {number}"
        name = (element.findtext("name") or "").strip()
        found[name] += 1
        for extra in element:
            if extra.tag not in _READ:
                read.said.add(f"left out: {extra.tag}", place)
        try:
            if not name:
                raise ValueError("it has no name")
            yield _Object(name, _corners(element, place, read), tuple(_marks(element)))
        except ValueError as error:
            read.dropped.add("object without a box", f"{place}: {error}")


def _corners(element: ElementTree.Element, place: str, read: Foreign) -> tuple[float, ...]:
    """Left, upper, right and lower side of an object.

    Raises:
        ValueError: it has none.
    """
    box = element.find("bndbox")
    if box is None:
        others = ", ".join(child.tag for child in element if len(child))
        raise ValueError("it has no bndbox" + (f", but {others}" if others else ""))
    corners = tuple(float(box.findtext(side) or math.nan) for side in _CORNERS)
    if not all(map(math.isfinite, corners)):
        raise ValueError("its bndbox lacks a side")
    left, upper, right, lower = corners
    if left > right or upper > lower:
        read.said.add("sides exchanged: they stood the wrong way round", place)
    return min(left, right), min(upper, lower), max(left, right), max(upper, lower)


def _marks(element: ElementTree.Element) -> Iterator[tuple[str, int]]:
    for name in _KEPT:
        text = (element.findtext(name) or "").strip().lower()
        if text:
            yield name, int(text not in ("0", "false", "unspecified"))


def _first_pixel(objects: dict[Path, list[_Object]], read: Foreign) -> int:
    """What the first pixel is called, 1 or 0."""
    places = [
        f"{xml.name} has {thing.name} from {thing.corners[0]:g}, {thing.corners[1]:g}"
        for xml, things in objects.items()
        for thing in things
        if any(0 <= corner < 0.5 for corner in thing.corners[:2])
    ]
    if not places:
        read.said.add(
            "coordinates count from 1, as Pascal VOC's do: boxes reach from xmin - 1 to xmax",
            "no box begins at 0",
        )
        return 1
    for place in places:
        read.said.add("coordinates count from 0, unlike Pascal VOC's: taken as they are", place)
    return 0


class _Images:
    """Where the image of an XML file lies."""

    def __init__(self, root: Path) -> None:
        self.by_stem: dict[str, list[Path]] = {}
        self.by_name: dict[str, list[Path]] = {}
        self.all = [*images_in(root)]
        for image in self.all:
            self.by_stem.setdefault(image.stem, []).append(image)
            self.by_name.setdefault(image.name, []).append(image)

    def of(self, xml: Path, name: str) -> Path | None:
        """By the XML file's own name, as VOC has it; else by the name that stands in it."""
        found = self.by_stem.get(xml.stem) or self.by_name.get(
            name.replace("\\", "/").split("/")[-1]
        )
        return min(found, key=lambda image: _apart(image, xml)) if found else None

    def others(self, known: Container[Path | None]) -> Iterator[Path]:
        """Images that are not known; masks, in VOC's folders for them, are none."""
        masks = ("SegmentationClass", "SegmentationObject")
        return (
            image for image in self.all if image not in known and image.parent.name not in masks
        )


def _apart(image: Path, xml: Path) -> int:
    """Steps between two files' folders."""
    common = len([1 for a, b in zip(image.parts, xml.parts, strict=False) if a == b])
    return len(image.parts) + len(xml.parts) - 2 * common


def _picture(
    xml: Path, things: list[_Object], first: int, images: _Images, read: Foreign
) -> Picture | None:
    """A picture with its objects, None where there is no image."""
    top = _parsed(xml)
    file = images.of(xml, top.findtext("filename") or "")
    if file is None:
        read.dropped.add("XML file without an image", f"{xml.name}, objects: {len(things)}")
        return None
    size = _size(top)
    try:
        upright, _ = upright_size(file)
    except OSError:
        read.dropped.add("image that cannot be opened", f"{file.name}, objects: {len(things)}")
        return None
    if size is None:
        read.said.add("size missing in the XML file: it is the image's", xml.name)
    boxes = []
    for thing in things:
        left, upper, right, lower = thing.corners
        left, upper = left - first, upper - first
        category = read.names.index(thing.name)
        xywh = (left, upper, right - left, lower - upper)
        if dict(thing.marks).get("difficult"):
            read.said.add(
                "difficult: marked so, and as crowd, which neither trains nor counts; to have them"
                " learned, set their iscrowd to 0",
                f"{thing.name} of {xml.name}",
            )
        boxes.append(ForeignBox(category, xywh, (), thing.marks))
    return Picture(file, size or upright, tuple(boxes))


def _size(top: ElementTree.Element) -> tuple[int, int] | None:
    """Width and height by the file, None where it does not tell."""
    try:
        width, height = (
            int(float(top.findtext(f"size/{side}") or 0)) for side in ("width", "height")
        )
    except ValueError:
        return None
    return (width, height) if min(width, height) > 0 else None
