"""Data sets as YOLO's tools keep them: a text file an image, a line an object, sides as shares.

A line is `class x y width height` (the centre), or `class x1 y1 x2 y2 ...`: a polygon, or the four
corners of a rotated box. Read as ultralytics and darknet read them: sides are shares of the image
as EXIF turns it; an image whose file is empty, or that has none, has no objects.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import yaml

from detrnb.datasets.foreign import (
    SPLITS,
    Foreign,
    ForeignBox,
    Picture,
    images_in,
    split_name,
    split_of_word,
    upright_size,
)

NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")
_NO_LABELS = {*NAME_FILES, *(f"{split}.txt" for split in SPLITS)}
_RIGHT_ANGLE = 0.02  # cosine: corners of a rotated box, written with a few digits, are as near


@dataclass(frozen=True)
class _Form:
    """How the lines of a data set are to be read.

    Attributes:
        names: of the classes.
        keypoints: numbers that follow a box, where it is a set of poses; else 0.
    """

    names: list[str]
    keypoints: int


def settings_file(root: Path) -> Path | None:
    """The data.yaml of a folder, whatever its name."""
    files = [root / "data.yaml", *sorted([*root.glob("*.yaml"), *root.glob("*.yml")])]
    return next((file for file in files if file.is_file() and _settings(file)), None)


def is_yolo(root: Path) -> bool:
    """Whether a folder is laid out so."""
    if settings_file(root) is not None:
        return True
    return any((label := _label_of(file)) is not None and _reads(label) for file in _some(root))


def read_yolo(root: Path) -> Foreign:
    """Read a data set.

    Raises:
        ValueError: there are no images, or the names of the classes cannot be told.
    """
    read = Foreign("YOLO")
    file = settings_file(root)
    settings = _settings(file) if file else {}
    form = _Form(_names(root, file, settings, read), math.prod(settings.get("kpt_shape") or [0]))
    read.names = form.names
    images = _listed(file, settings, read) if file else _by_folder(root, read)
    if not any(images.values()):
        raise ValueError(f"{file or root} leads to no images; expected them in images/ or beside")
    used = set()
    for split, files in images.items():
        read.splits[split], read.found[split] = [], Counter()
        for image in files:
            used.add(label := _label_of(image))
            _read_picture(image, label, split, form, read)
    for label in sorted(_labels(root) - used):
        lines = [line for line in label.read_text(errors="replace").splitlines() if line.strip()]
        read.dropped.add(
            "label file without an image of its split", f"{label.relative_to(root)}, {len(lines)}"
        )
    if form.keypoints and any(map(len, read.splits.values())):
        read.dropped.add("keypoints: only the boxes are taken", str(settings["kpt_shape"]))
    return read


def _settings(file: Path) -> dict:
    """A data.yaml's content; empty where it is another's."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    of_yolo = isinstance(content, Mapping) and content.keys() & {"names", "nc"}
    return dict(content) if of_yolo and content.keys() & SPLITS.keys() else {}


def _names(root: Path, file: Path | None, settings: Mapping, read: Foreign) -> list[str]:
    names = settings.get("names")
    if isinstance(names, Mapping):
        try:
            numbers = {int(number): str(name) for number, name in names.items()}
        except (TypeError, ValueError):
            raise ValueError(f"{file}: names are {names!r:.80}; expected number: name") from None
        return [numbers.get(i, str(i)) for i in range(max(numbers, default=-1) + 1)]
    if names:
        return [str(name) for name in names]
    for beside in (path for name in NAME_FILES for path in sorted(root.rglob(name))):
        lines = beside.read_text(encoding="utf-8-sig").splitlines()
        return [line.strip() for line in lines if line.strip()]
    used = {int(float(line.split()[0])) for label in _labels(root) for line in _lines(label)}
    read.said.add("no names of classes found: they are called by their numbers", str(root))
    return [str(number) for number in range(max(used, default=-1) + 1)]


def _lines(label: Path) -> Iterator[str]:
    """The lines of a label file that begin with a number."""
    for line in label.read_text(errors="replace").splitlines():
        first = line.split()[:1]
        if first and first[0].replace(".", "", 1).isdigit():
            yield line


def _listed(file: Path, settings: Mapping, read: Foreign) -> dict[str, list[Path]]:
    """The images that a data.yaml leads to, by split."""
    found: dict[str, list[Path]] = {}
    for key in settings.keys() & SPLITS.keys():
        places = settings[key] or []
        for place in [places] if isinstance(places, str) else places:
            path = _place(file.parent, str(settings.get("path") or ""), str(place))
            if path is None:
                read.said.add(f"{file.name} names what is not there", f"{key}: {place}")
                continue
            files = list(images_in(path)) if path.is_dir() else _from_list(path, read)
            found.setdefault(SPLITS[key], []).extend(files)
    return {split: found[split] for split in dict.fromkeys(SPLITS.values()) if split in found}


def _place(root: Path, base: str, place: str) -> Path | None:
    """Where a data.yaml's entry leads; there it is often of another machine, or one level off."""
    parts = Path(place.replace("\\", "/")).parts
    inside = [part for part in parts if part not in ("..", "/")]
    ends = [inside[start:] for start in range(len(inside))]
    tails = [Path(*end) for end in ends if end == inside or any(map(split_of_word, end))]
    tried = (root / base / place, root / place, *(root / tail for tail in tails))
    return next((path for path in tried if path.exists()), None)


def _from_list(file: Path, read: Foreign) -> list[Path]:
    """The images that a text file lists."""
    files = []
    for line in filter(str.strip, file.read_text(encoding="utf-8-sig").splitlines()):
        path = file.parent / line.strip().replace("\\", "/")
        if path.is_file():
            files.append(path)
        else:
            read.dropped.add(f"listed in {file.name}, not there", line.strip())
    return files


def _by_folder(root: Path, read: Foreign) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for image in images_in(root):
        found.setdefault(split_name(image, root, read), []).append(image)
    return found


def _some(root: Path) -> Iterator[Path]:
    """A few of a folder's images, to see what lies beside them."""
    for number, image in enumerate(images_in(root)):
        if number == 50:
            return
        yield image


def _label_of(image: Path) -> Path | None:
    """The text file of an image: in labels/ in place of images/, or beside it."""
    parts = list(image.with_suffix(".txt").parts)
    places = [image.with_suffix(".txt")]
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
        places.insert(0, Path(*parts))
    return next((place for place in places if place.is_file()), None)


def _labels(root: Path) -> set[Path]:
    return {
        file for file in root.rglob("*.txt") if file.name.lower() not in _NO_LABELS and _reads(file)
    }


def _reads(label: Path) -> bool:
    """Whether a text file is one of labels: its first line is five numbers or more; or empty."""
    with label.open(errors="replace") as file:
        first = next(filter(str.strip, file), "").split()
    try:
        return [float(number) for number in first] == [] or len(first) >= 5
    except ValueError:
        return False


def _read_picture(image: Path, label: Path | None, split: str, form: _Form, read: Foreign) -> None:
    """Add a picture with the objects of its label file."""
    lines = []
    if label is None:
        read.said.add("image without a label file: taken as one without objects", image.name)
    else:
        lines = [line for line in label.read_text(errors="replace").splitlines() if line.strip()]
    try:
        size, hidden = upright_size(image)
    except OSError:
        read.dropped.add("image that cannot be opened", f"{image.name}, objects: {len(lines)}")
        read.found[split].update(_named(line, form.names) for line in lines)
        return
    if hidden:
        read.said.add(
            "image that EXIF turns and whose sides do not tell; it will be taken as it is stored,"
            " so save it anew upright",
            image.name,
        )
    boxes = []
    for number, line in enumerate(lines, start=1):
        place = f"{label.name}, line {number}"
        read.found[split][_named(line, form.names)] += 1
        try:
            box = _read_line(line.split(), form, size)
        except ValueError as error:
            read.dropped.add("line that is no object", f"{place}: {error}")
            continue
        if box.outline:
            kind = "rotated box" if _is_rectangle(box.outline) else "polygon"
            read.said.add(f"{kind}: its bounds are the box, its outline is kept", place)
        boxes.append(box)
    read.splits[split].append(Picture(image, size, tuple(boxes)))


def _named(line: str, names: list[str]) -> str:
    """The class of a line that may be no object."""
    first = line.split()[0]
    named = {str(number): name for number, name in enumerate(names)}
    return named.get(first.removesuffix(".0"), first)


def _read_line(words: list[str], form: _Form, size: tuple[int, int]) -> ForeignBox:
    """The object of one line.

    Raises:
        ValueError: it is none; says what is wrong.
    """
    numbers = [float(word) for word in words]
    kind, shares = numbers[0], numbers[1:]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number is not finite")
    if not kind.is_integer() or not 0 <= kind < len(form.names):
        raise ValueError(f"class {words[0]}, and there are {len(form.names)} names")
    if form.keypoints:
        if len(shares) != 4 + form.keypoints:
            raise ValueError(f"{len(words)} numbers; expected {5 + form.keypoints} with keypoints")
        shares = shares[:4]
    if len(shares) != 4 and (len(shares) < 6 or len(shares) % 2):
        more = ", the last of which looks like a score" if len(shares) == 5 else ""
        raise ValueError(f"{len(words)} numbers{more}; expected 5, or 1 and pairs of a polygon")
    if max(shares) > 2:
        raise ValueError(f"{max(shares):g} is no share of the image; pixels?")
    width, height = size
    if len(shares) == 4:
        x, y, w, h = shares
        box = (x - w / 2) * width, (y - h / 2) * height, w * width, h * height
        return ForeignBox(int(kind), box)
    outline = tuple(share * side for share, side in zip(shares, cycle(size), strict=False))
    xs, ys = outline[::2], outline[1::2]
    bounds = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    return ForeignBox(int(kind), bounds, outline)


def _is_rectangle(outline: tuple[float, ...]) -> bool:
    """Whether four corners are those of a rectangle, in pixels."""
    if len(outline) != 8:
        return False
    corners = [complex(x, y) for x, y in zip(outline[::2], outline[1::2], strict=True)]
    sides = [corners[i - 3] - corners[i] for i in range(4)]
    return all(
        abs((a * b.conjugate()).real) <= _RIGHT_ANGLE * abs(a) * abs(b) + 1
        for a, b in zip(sides, sides[1:] + sides[:1], strict=True)
    )
