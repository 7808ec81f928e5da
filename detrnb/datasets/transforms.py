"""DETR's training augmentation and evaluation resize: what is cut out of an image, and how large.

The rules are those of the reference's `datasets/transforms.py` and `datasets/coco.py`. A transform
draws from an image's size alone, before anything is decoded; the `Cut` it gives is then applied to
pixels and boxes. Where the reference resizes, crops and resizes again, the crop is found in the
image itself, to the nearest of its pixels, and resized once; boxes follow the pixels. Against the
reference's pixels for the same draws (`bench/input.py`, COCO's photographs): an image that is only
resized is at most one level of 255 away, one in 2,600 values; a cropped one 3 levels on average,
mostly at edges, which a second resize would have blurred. In evaluation, where images are only
resized, AP of a trained model moves by at most 0.0003 against Pillow's resizing. Colour
normalisation is not here: images travel as uint8 and are normalised on the device.
"""

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
MOST_PIXELS = 2**26  # of a resized image: a quarter of a gigabyte in Pillow
REDUCTIONS = (8, 4, 2)  # what a JPEG can be divided by as it is decoded


def resize_shape(width: int, height: int, short_side: int, max_size: int | None) -> tuple[int, int]:
    """The size to which the reference resizes an image.

    The short side becomes `short_side`, or less where the long side would exceed `max_size`; as
    in the reference, rounding may then leave the long side a few pixels above it.

    Args:
        width: of the image, pixels.
        height: of the image, pixels.
        short_side: wanted, pixels.
        max_size: of the long side, pixels; None for no limit.

    Returns:
        New width, new height.
    """
    short, long = min(width, height), max(width, height)
    if max_size is not None and long / short * short_side > max_size:
        short_side = max(1, round(max_size * short / long))
    if short == short_side:
        return width, height
    if width < height:
        return short_side, int(short_side * height / width)
    return int(short_side * width / height), short_side


@dataclass(frozen=True)
class Cut:
    """What becomes of an image: mirrored or not, a rectangle is cut out of it and resized.

    Attributes:
        source: width and height of the image.
        region: left, top, right and bottom of the rectangle, in whole pixels of the image after
            mirroring.
        size: width and height that it gets.
        mirrored: left to right.
        reduction: what the image may be divided by as it is decoded: 1, 2, 4 or 8, of which sides
            and rectangle are multiples, and which leaves more pixels than are wanted.
    """

    source: Size
    region: tuple[int, int, int, int]
    size: Size
    mirrored: bool = False
    reduction: int = 1

    @classmethod
    def around(
        cls,
        source: Size,
        size: Size,
        region: tuple[float, float, float, float] | None = None,
        mirrored: bool = False,
    ) -> "Cut":
        """The cut nearest to a region, which is all of the image where none is given."""
        left, top, right, bottom = region or (0, 0, *source)
        shrinks = min((right - left) / size[0], (bottom - top) / size[1])
        reduction = 1
        for divisor in REDUCTIONS:
            if divisor <= shrinks and not any(side % divisor for side in source):
                reduction = divisor
                break
        left, right = _nearest(left, right, source[0], reduction)
        top, bottom = _nearest(top, bottom, source[1], reduction)
        return cls(source, (left, top, right, bottom), size, mirrored, reduction)

    def pixels(self, image: Tensor) -> Tensor:
        """The image (3, H, W) uint8, as it is or reduced, cut: (3, height, width) uint8.

        Resized as Pillow does, antialiased, on 8 bits: at most one level from Pillow's result.
        """
        reduced = self.source[0] // image.shape[2]
        left, top, right, bottom = (edge // reduced for edge in self.region)
        if self.mirrored:
            left, right = image.shape[2] - right, image.shape[2] - left
        image = image[:, top:bottom, left:right]
        if self.mirrored:
            image = image.flip(2)
        if image.shape[:0:-1] != self.size:
            # Of one image torch sees only by the first stride that colours lie side by side, which
            # is what its fast way is for; this order of steps gives it.
            batch = image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
            size = self.size[::-1]
            (image,) = F.interpolate(batch, size, mode="bilinear", antialias=True)
        return image

    def boxes(self, boxes_xyxy: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is left of boxes (G, 4) xyxy in pixels, and of their labels (G,).

        Boxes are moved with the pixels and clipped to the region; those left without area are gone.
        """
        if self.mirrored:
            boxes_xyxy = boxes_xyxy[:, [2, 1, 0, 3]]
            boxes_xyxy[:, [0, 2]] = self.source[0] - boxes_xyxy[:, [0, 2]]
        left, top, right, bottom = self.region
        sides = right - left, bottom - top
        corner = np.array([left, top] * 2, dtype=np.float32)
        boxes_xyxy, kept = clip_boxes(boxes_xyxy - corner, *sides)
        ratios = np.array(self.size * 2, dtype=np.float64) / (sides * 2)
        return boxes_xyxy * ratios.astype(np.float32), labels[kept]


def _nearest(low: float, high: float, side: int, step: int) -> tuple[int, int]:
    """The nearest multiples of `step` within a side, at least one apart."""
    low = min(round(low / step), side // step - 1)
    return low * step, max(low + 1, round(high / step)) * step


@dataclass(frozen=True)
class TrainTransform:
    """The reference's augmentation: mirror, then resize, or resize, crop and resize.

    With `crop`, half of the samples take the second way. DETR on COCO is `TrainTransform()`.

    Attributes:
        sizes: short sides, one of which is drawn.
        max_size: of the long side after the last resize; None for no limit.
        crop: smallest and largest side of the crop, or None for no cropping. An image smaller
            than the smallest is cropped to at least its own size (the reference raises there).
        flip: whether half of the samples are mirrored left to right.
        crop_sizes: short sides for the resize before the crop.
    """

    sizes: tuple[int, ...] = tuple(range(480, 801, 32))
    max_size: int | None = 1333
    crop: tuple[int, int] | None = (384, 600)
    flip: bool = True
    crop_sizes: tuple[int, ...] = (400, 500, 600)

    def __call__(self, size: Size, rng: np.random.Generator) -> Cut:
        """Draw what becomes of one image.

        Args:
            size: its width and height.
            rng: where all choices are drawn from.

        Raises:
            ValueError: the image is too oblong to be resized.
        """
        # Whatever is drawn, so that no epoch is the first to fail.
        _refuse_oblong(size, max(self.sizes), self.max_size)
        if self.crop is not None:
            _refuse_oblong(size, max(self.crop_sizes), None)
        mirrored = bool(self.flip and rng.random() < 0.5)
        cropped, region = size, None
        if self.crop is not None and rng.random() < 0.5:
            resized = resize_shape(*size, _one_of(self.crop_sizes, rng), None)
            edges = _crop_region(resized, self.crop, rng)
            cropped = edges[2] - edges[0], edges[3] - edges[1]
            region = tuple(
                edge * old / new
                for edge, old, new in zip(edges, size * 2, resized * 2, strict=True)
            )
        new = resize_shape(*cropped, _one_of(self.sizes, rng), self.max_size)
        return Cut.around(size, new, region, mirrored)


@dataclass(frozen=True)
class EvalTransform:
    """The reference's evaluation resize.

    Attributes:
        size: short side; None leaves the image as it is.
        max_size: of the long side; None for no limit.
    """

    size: int | None = 800
    max_size: int | None = 1333

    def __call__(self, size: Size, rng: np.random.Generator | None = None) -> Cut:
        """Resize an image of a width and height; nothing is drawn from `rng`."""
        if self.size is None:
            return Cut.around(size, size)
        _refuse_oblong(size, self.size, self.max_size)
        return Cut.around(size, resize_shape(*size, self.size, self.max_size))


def _one_of(values: tuple[int, ...], rng: np.random.Generator) -> int:
    """What `rng.choice` would draw, which first makes an array of them."""
    return values[rng.integers(len(values))]


def _refuse_oblong(size: Size, short_side: int, max_size: int | None) -> None:
    """Refuse an image for which the resize rule breaks down or fills the memory.

    Raises:
        ValueError: in words that follow the image's name.
    """
    new = resize_shape(*size, short_side, max_size)
    # Rounding at most doubles the long side; beyond that the short one would be less than a pixel.
    too_long = max_size is not None and max(new) > 2 * max_size
    if too_long or new[0] * new[1] > MOST_PIXELS:
        limit = "" if max_size is None else f" and a long one up to {max_size}"
        raise ValueError(
            "is {}×{}, too oblong to be resized to".format(*size)
            + f" a short side of {short_side}{limit}: that would be {new[0]}×{new[1]}. Cut it into"
            " pieces, its boxes too, or take it out of the data set"
        )


def _crop_region(
    size: Size, limits: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw left, top, right, bottom of a crop whose sides are within limits and the image."""
    smallest, largest = limits
    width, height = (
        int(rng.integers(min(smallest, side), min(largest, side), endpoint=True)) for side in size
    )
    left = int(rng.integers(size[0] - width, endpoint=True))
    top = int(rng.integers(size[1] - height, endpoint=True))
    return left, top, left + width, top + height


def clip_boxes(boxes_xyxy: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes to an image and drop those without area.

    Args:
        boxes_xyxy: (G, 4), pixels.
        width: of the image, pixels.
        height: of the image, pixels.

    Returns:
        The clipped boxes that are left, and the mask (G,) of those among the given ones.
    """
    limits = np.array([width, height] * 2, dtype=boxes_xyxy.dtype)
    clipped = boxes_xyxy.clip(0, limits)
    kept = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    return clipped[kept], kept
