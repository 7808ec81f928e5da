"""What `detrnb predict` leaves: pictures, COCO's results, counts."""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO

from detrnb.datasets import open_upright
from detrnb.plots import draw_detections, plot_thresholds
from detrnb.runs import write_whole
from detrnb.training import Found, Predictions

WRITTEN = ".written.json"  # in the folder: the hash of each file that was written there
TEXTS = ("predictions.json", "images.json", "counts.csv")
THRESHOLDS = "thresholds.png"
PICTURES = "pictures"


def inputs(files: Iterable[Path], folder: Path) -> list[Path]:
    """The images of some files: not what earlier calls drew into a folder that they lead to.

    Raises:
        ValueError: predictions written to the folder would replace one of them, or a file that is
            not as an earlier call wrote it.
    """
    hashes, inside = _hashes(folder), (folder / PICTURES).resolve()

    def drawn(file: Path) -> bool:
        name = f"{PICTURES}/{file.name}"
        own = file.resolve().parent == inside and name in hashes
        return own and _is_as_written(folder, name, hashes[name])

    images = [file for file in files if not drawn(file)]
    targets = [*TEXTS, THRESHOLDS, *(f"{PICTURES}/{file.stem}.jpg" for file in images)]
    foreign = [
        name
        for name in dict.fromkeys(targets)
        if (folder / name).exists() and not _is_as_written(folder, name, hashes.get(name, ""))
    ]
    if foreign:
        raise ValueError(
            f"{', '.join(foreign[:3])}{' and more' * (len(foreign) > 3)} in {folder} would be"
            " replaced, and are not as an earlier call wrote them: move them, or give another --out"
        )
    return images


def write_predictions(found: Predictions, folder: Path, kept: Mapping[str, object]) -> list[str]:
    """Write all of it into a folder, and remove what only earlier calls wrote there.

    Files that are no longer as a call wrote them stay.

    Args:
        kept: thresholds as from `Run.thresholds`; empty where one was given by hand.

    Returns:
        What now lies in the folder by this call, sorted.

    Raises:
        OSError: it cannot be written.
    """
    hashes = _hashes(folder)
    names: set[str] = set()
    try:
        for name, save in _files(found, kept):
            write_whole(folder / name, save)
            names.add(name)
            hashes[name] = _hash(folder / name)
        for name in hashes.keys() - names:
            if _is_as_written(folder, name, hashes[name]):
                (folder / name).unlink()
            del hashes[name]
    finally:  # a later call removes what one that failed has written
        text = json.dumps(hashes, indent=1).encode()
        write_whole(folder / WRITTEN, lambda file: file.write(text))
    return sorted({Path(name).parts[0] for name in names})


def _files(
    found: Predictions, kept: Mapping[str, object]
) -> Iterator[tuple[str, Callable[[BinaryIO], object]]]:
    """Name in the folder of each file, and what writes it."""
    for entry, name in zip(found, _names(found), strict=True):
        drawn = draw_detections(
            open_upright(entry.file), entry.boxes, entry.labels, entry.scores, found.class_names
        )
        yield f"{PICTURES}/{name}.jpg", partial(drawn.save, format="JPEG", quality=90)
    texts = json.dumps(found.to_coco()), json.dumps(_images(found), indent=1), _table(found)
    for name, text in zip(TEXTS, texts, strict=True):
        yield name, lambda file, text=text: file.write(text.encode())
    if kept:
        figure = plot_thresholds(kept)
        yield THRESHOLDS, partial(figure.savefig, format="png", dpi=110, bbox_inches="tight")


def _hashes(folder: Path) -> dict[str, str]:
    """By name the hash of what earlier calls wrote into a folder; none where that is damaged."""
    try:
        hashes = json.loads((folder / WRITTEN).read_bytes())
    except (OSError, ValueError):
        return {}
    return hashes if isinstance(hashes, dict) else {}


def _is_as_written(folder: Path, name: str, hashed: str) -> bool:
    """Whether a file is still what a call wrote; one that a name leads out of the folder to never
    is.
    """
    file = folder / name
    inside = file.resolve().is_relative_to(folder.resolve())
    return inside and file.is_file() and _hash(file) == hashed


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _names(found: Iterable[Found]) -> list[str]:
    """What each picture is called: as its file; where several files are called so by the image's id
    too, and by a number where that is another's name.
    """
    stems = [entry.file.stem for entry in found]
    times = Counter(stems)
    taken = {stem for stem in stems if times[stem] == 1}
    names = []
    for entry, stem in zip(found, stems, strict=True):
        name = stem
        if times[stem] > 1:
            called = f"{stem}_{entry.image_id}"
            numbered = (f"{called}_{number}" for number in count(2))
            name = next(free for free in chain([called], numbered) if free not in taken)
            taken.add(name)
        names.append(name)
    return names


def _images(found: Predictions) -> list[dict]:
    """Id, file and size of each image, as COCO has them."""
    return [
        {"id": e.image_id, "file_name": str(e.file), "width": e.size[0], "height": e.size[1]}
        for e in found
    ]


def _table(found: Predictions) -> str:
    """Detections of each class in each image, as comma-separated values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    labels = range(len(found.class_names))
    writer.writerow(["file", *found.class_names])
    for entry in found:
        times = Counter(entry.labels.tolist())
        writer.writerow([entry.file, *(times[label] for label in labels)])
    return text.getvalue()
