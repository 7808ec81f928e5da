"""Every fault of a data set in one pass: its files, its images on disk, its splits together."""

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from detrnb.bar import Bar
from detrnb.datasets.annotations import (
    SHOWN,
    category_difference,
    known_size,
    read_annotations,
)
from detrnb.datasets.faults import Fault, Faults, Records, file_faults
from detrnb.datasets.layouts import splits_of
from detrnb.datasets.misplaced import found_elsewhere
from detrnb.datasets.pictures import PictureError, open_rgb
from detrnb.runs import cpu_count


@dataclass(frozen=True)
class Report:
    """What a check found; its text lists all of it.

    Attributes:
        contents: split -> what it holds, in words.
        faults: by split, errors and warnings as `faults` defines them.
    """

    contents: Mapping[str, str]
    faults: tuple[Fault, ...]

    @property
    def errors(self) -> list[Fault]:
        """What training must not go on with."""
        return [fault for fault in self.faults if fault.is_error]

    @property
    def warnings(self) -> list[Fault]:
        """What is handled, or only worth knowing."""
        return [fault for fault in self.faults if not fault.is_error]

    def __str__(self) -> str:
        lines = [f"{split}: {content}" for split, content in self.contents.items()]
        for name, faults in (("errors", self.errors), ("warnings", self.warnings)):
            lines += [f"{name}:", *(f"  {fault}" for fault in faults)] if faults else []
        return "\n".join(lines if self.faults else [*lines, "no faults found"])


@dataclass(frozen=True)
class _Split:
    """A split that can be read.

    Attributes:
        records: with the images' real sizes where they were opened.
        digests: of each image file's content, None where it was not opened.
    """

    name: str
    images: Path
    records: Records
    digests: list[bytes] | None

    def file(self, index: int) -> Path:
        """Where an image lies."""
        return self.images / self.records.annotations.file_names[index].decode()


def check(
    data: str | Path | Mapping[str, tuple[Path, Path]],
    *,
    images: bool = False,
    num_queries: int | None = None,
    num_classes: int | None = None,
    contiguous: bool = True,
) -> Report:
    """Find every fault of a data set.

    Args:
        data: a folder in COCO layout, or as Roboflow exports it; or folder of images and
            annotation file of each split by its name. The first split, or in a folder one whose
            name begins with `train`, is what is trained on.
        images: open every image, instead of only seeing that its file is there. Images in two
            splits are then found by their content alone, else only under one file name.
        num_queries: of the model, which bounds the boxes that can be found in an image.
        num_classes: of the model; None for as many as the data has.
        contiguous: as `DataConfig.contiguous_labels`.

    Raises:
        ValueError: no such folder, or one without annotations.
    """
    paths = data if isinstance(data, Mapping) else splits_of(Path(data))
    contents, faults = {}, []
    splits, training = {}, next(iter(paths))
    for name, (folder, file) in paths.items():
        try:
            records = Records(read_annotations(Path(file)))
        except ValueError as error:
            faults.append(Fault(name, "unusable annotation file", 1, (str(error),)))
            continue
        split, on_disk = _on_disk(name, Path(folder), records, images)
        in_file = file_faults(split.records, name)
        if not split.records.counted.any() and not any(fault.is_error for fault in in_file):
            in_file.say("no boxes", [f"{Path(file).name} has none of some area that is no crowd"])
        faults += [*in_file, *on_disk]
        faults += _against_model(split, num_queries, num_classes, contiguous)
        faults += _as_training(split) if name == training else _beside(split, splits, training)
        splits[name] = split
        contents[name] = _content(split.records)
    return Report(contents, tuple(faults))


def _content(records: Records) -> str:
    """What a split holds, in words."""
    annotations, boxes_of = records.annotations, records.boxes_of
    used = np.unique(annotations.of_category[records.counted])
    crowds = int(annotations.crowd.sum())
    return (
        f"{len(boxes_of)} images, {(boxes_of == 0).sum()} without boxes;"
        f" {records.counted.sum()} boxes of {len(used)} of {len(annotations.categories)} classes,"
        f" at most {boxes_of.max(initial=0)} in an image"
        + (f"; {crowds} crowd annotations, left out of training" if crowds else "")
    )


def _on_disk(name: str, folder: Path, records: Records, images: bool) -> tuple[_Split, Faults]:
    """A split, and what is wrong with its image files."""
    split, faults = _Split(name, folder, records, None), Faults(name)
    names = [file_name.decode() for file_name in records.annotations.file_names]
    present = _present(folder, names)
    there, missing = (
        {names[i] for i in np.flatnonzero(mask).tolist()} for mask in (present, ~present)
    )
    elsewhere = found_elsewhere(folder, missing, there) if missing else {}
    misplaced = np.array([file_name in elsewhere for file_name in names], dtype=bool)
    faults.mark(
        "image file under another name",
        misplaced,
        lambda i: f"{records.image(i)} is there as {elsewhere[names[i]]}",
    )
    faults.mark("missing image file", ~present & ~misplaced, records.image)
    return _opened(split, present, faults) if images else split, faults


def _opened(split: _Split, present: np.ndarray, faults: Faults) -> _Split:
    """The split with what its image files hold; adds what is wrong with them."""
    records, found = split.records, {}
    sizes, digests = records.sizes.copy(), [b""] * len(present)
    for index, seen in _look_at_all(split, np.flatnonzero(present).tolist()):
        digests[index] = seen.digest
        if seen.size is not None:
            sizes[index] = seen.size
        for kind, what in seen.findings:
            found.setdefault(kind, []).append(f"{records.image(index)} {what}")
    for kind, images in found.items():
        faults.say(kind, images[:SHOWN], len(images))
    return _Split(split.name, split.images, Records(records.annotations, sizes), digests)


def _present(folder: Path, names: list[str]) -> np.ndarray:
    """Mask of the images whose file is there; folders are listed, no file is touched."""
    present = set()
    for inner in {os.path.dirname(name) for name in names}:
        if (folder / inner).is_dir():
            with os.scandir(folder / inner) as entries:
                present.update(os.path.join(inner, e.name) for e in entries if e.is_file())
    # A name that no listing shows may still lead to a file, such as './a.jpg'.
    there = [name in present or os.path.isfile(folder / name) for name in names]
    return np.array(there, dtype=bool)


class _Seen(NamedTuple):
    """An image file as it was opened.

    Attributes:
        size: (width, height), None where not known.
        findings: kinds of fault, and each in words that follow the image's name.
        digest: of the content.
    """

    size: tuple[int, int] | None
    findings: list[tuple[str, str]]
    digest: bytes


def _look_at(file: Path, size: tuple[float, float] | None) -> _Seen:
    """Args: size: on record, None where there is none."""
    guesses, digest = [], b""
    try:
        content = file.read_bytes()
        digest = hashlib.sha256(content).digest()
        picture = open_rgb(io.BytesIO(content), size, guesses.append)
        return _Seen(picture.size, [("image taken by a guess", g) for g in guesses], digest)
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        return _Seen(None, [("unreadable image file", problem)], digest)
    except PictureError as error:
        return _Seen(error.size, [(error.kind, str(error))], digest)


def _look_at_all(split: _Split, indices: list[int]) -> Iterator[tuple[int, _Seen]]:
    """Index and findings of each image; decoders run beside each other."""
    with (
        Bar(len(indices), f"opening {split.name}") as bar,
        ThreadPoolExecutor(cpu_count()) as pool,
    ):
        annotations = split.records.annotations
        sizes = [known_size(annotations.image_sizes[index]) for index in indices]
        seen_of = pool.map(_look_at, map(split.file, indices), sizes)
        for index, seen in zip(indices, seen_of, strict=True):
            bar.update()
            yield index, seen


def _against_model(
    split: _Split, num_queries: int | None, num_classes: int | None, contiguous: bool
) -> Faults:
    """What does not fit the model that is to learn it, or by which it is to be measured."""
    records, faults = split.records, Faults(split.name)
    if num_queries is not None:
        faults.mark(
            "more boxes in an image than queries",
            records.boxes_of > num_queries,
            lambda i: f"{records.image(i)} has {records.boxes_of[i]}, queries are {num_queries}",
        )
    ids = {i for i, _ in records.annotations.categories}
    if num_classes is None:
        return faults
    setting = f"model.num_classes is {num_classes}"
    kind = "other classes than the model's"
    if contiguous and len(ids) != num_classes:
        faults.say(kind, [f"the file has {len(ids)} classes, {setting}"])
    beyond = sorted(i for i in ids if not 0 <= i < num_classes)
    if not contiguous and beyond:
        faults.say(kind, [f"labels are category ids, {setting}, and there is {beyond[-1]}"])
    return faults


def _as_training(split: _Split) -> Faults:
    """What the split that is trained on lacks."""
    annotations, faults = split.records.annotations, Faults(split.name)
    learned = annotations.of_category[split.records.counted]
    if len(learned):
        faults.mark(
            "class without training examples",
            ~np.isin([i for i, _ in annotations.categories], learned),
            lambda i: "{} {!r}".format(*annotations.categories[i]),
        )
    return faults


def _beside(split: _Split, others: Mapping[str, _Split], training: str) -> Faults:
    """What a split has in common with others and should not, or not with training and should."""
    records, faults = split.records, Faults(split.name)
    if training in others:
        learned = others[training].records.annotations.categories
        difference = category_difference(records.annotations.categories, learned)
        faults.say("other categories than in training", [difference], int(bool(difference)))
    for other in others.values():
        shared = _shared(split, other)
        faults.say(
            "image in two splits",
            [
                f"{records.image(ours)} is {other.records.image(theirs)} of {other.name}"
                for ours, theirs in shared[:SHOWN]
            ],
            len(shared),
        )
    return faults


def _shared(split: _Split, other: _Split) -> list[tuple[int, int]]:
    """Indices in both of the images that have the same content."""
    if split.digests is not None and other.digests is not None:
        known = {digest: index for index, digest in enumerate(other.digests) if digest}
        pairs = enumerate(split.digests)
        return [(index, known[digest]) for index, digest in pairs if digest in known]
    names = (split.records.annotations.file_names, other.records.annotations.file_names)
    _, ours, theirs = np.intersect1d(*names, return_indices=True)
    pairs = zip(ours.tolist(), theirs.tolist(), strict=True)
    return [pair for pair in pairs if _same(split.file(pair[0]), other.file(pair[1]))]


def _same(one: Path, other: Path) -> bool:
    """Whether two files are one, or have the same content; only those of one length are read."""
    try:
        stats = one.stat(), other.stat()
        if os.path.samestat(*stats):
            return True
        return stats[0].st_size == stats[1].st_size and one.read_bytes() == other.read_bytes()
    except OSError:  # missing or unreadable, which is said elsewhere
        return False
