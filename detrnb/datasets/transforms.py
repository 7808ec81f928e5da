"""DETR's training augmentation and evaluation resize, on Pillow images and their boxes.

The rules are those of the reference's `datasets/transforms.py` and `datasets/coco.py`. Colour
normalisation is not here: images travel as uint8 and are normalised on the device.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

Sample = tuple[Image.Image, np.ndarray, np.ndarray]
MOST_PIXELS = 2**26  # of a resized image: a quarter of a gigabyte in Pillow


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

    def __call__(
        self,
        image: Image.Image,
        boxes_xyxy: np.ndarray,
        labels: np.ndarray,
        rng: np.random.Generator,
    ) -> Sample:
        """Augment one sample.

        Args:
            image: RGB.
            boxes_xyxy: (G, 4) float32, pixels.
            labels: (G,).
            rng: where all choices are drawn from.

        Returns:
            Image, boxes and labels; boxes that a crop leaves without area are gone.

        Raises:
            ValueError: the image is too oblong to be resized.
        """
        # Whatever is drawn, so that no epoch is the first to fail.
        _refuse_oblong(image.size, max(self.sizes), self.max_size)
        if self.crop is not None:
            _refuse_oblong(image.size, max(self.crop_sizes), None)
        if self.flip and rng.random() < 0.5:
            image, boxes_xyxy = _flip(image, boxes_xyxy)
        if self.crop is not None and rng.random() < 0.5:
            short_side = int(rng.choice(self.crop_sizes))
            image, boxes_xyxy = _resize(image, boxes_xyxy, short_side, None)
            region = _crop_region(image.size, self.crop, rng)
            image, boxes_xyxy, labels = _crop(image, boxes_xyxy, labels, region)
        short_side = int(rng.choice(self.sizes))
        image, boxes_xyxy = _resize(image, boxes_xyxy, short_side, self.max_size)
        return image, boxes_xyxy, labels


@dataclass(frozen=True)
class EvalTransform:
    """The reference's evaluation resize.

    Attributes:
        size: short side; None leaves the image as it is.
        max_size: of the long side; None for no limit.
    """

    size: int | None = 800
    max_size: int | None = 1333

    def __call__(
        self,
        image: Image.Image,
        boxes_xyxy: np.ndarray,
        labels: np.ndarray,
        rng: np.random.Generator,
    ) -> Sample:
        """Resize one sample; arguments as for `TrainTransform`, nothing is drawn from `rng`."""
        if self.size is not None:
            _refuse_oblong(image.size, self.size, self.max_size)
            image, boxes_xyxy = _resize(image, boxes_xyxy, self.size, self.max_size)
        return image, boxes_xyxy, labels


def _refuse_oblong(size: tuple[int, int], short_side: int, max_size: int | None) -> None:
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


def _flip(image: Image.Image, boxes_xyxy: np.ndarray) -> tuple[Image.Image, np.ndarray]:
    """Mirror left to right."""
    mirrored = boxes_xyxy[:, [2, 1, 0, 3]]
    mirrored[:, [0, 2]] = image.width - mirrored[:, [0, 2]]
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), mirrored


def _resize(
    image: Image.Image, boxes_xyxy: np.ndarray, short_side: int, max_size: int | None
) -> tuple[Image.Image, np.ndarray]:
    """Resize by the reference's rule; width and height have each their own exact ratio."""
    width, height = image.size
    new_width, new_height = resize_shape(width, height, short_side, max_size)
    if (new_width, new_height) == (width, height):
        return image, boxes_xyxy
    ratios = np.array([new_width / width, new_height / height] * 2, dtype=np.float32)
    resized = image.resize((new_width, new_height), Image.Resampling.BILINEAR)
    return resized, boxes_xyxy * ratios


def _crop_region(
    size: tuple[int, int], limits: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw left, top, right, bottom of a crop whose sides are within limits and the image."""
    smallest, largest = limits
    width, height = (
        int(rng.integers(min(smallest, side), min(largest, side), endpoint=True)) for side in size
    )
    left = int(rng.integers(size[0] - width, endpoint=True))
    top = int(rng.integers(size[1] - height, endpoint=True))
    return left, top, left + width, top + height


def _crop(
    image: Image.Image,
    boxes_xyxy: np.ndarray,
    labels: np.ndarray,
    region: tuple[int, int, int, int],
) -> Sample:
    """Cut out `region`; clip the boxes to it and drop those without area."""
    left, top, right, bottom = region
    boxes_xyxy, kept = clip_boxes(
        boxes_xyxy - np.array([left, top] * 2, dtype=np.float32), right - left, bottom - top
    )
    return image.crop(region), boxes_xyxy, labels[kept]


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
    clipped = np.clip(boxes_xyxy, 0, limits)
    kept = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    return clipped[kept], kept
