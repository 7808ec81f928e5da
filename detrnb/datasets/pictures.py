"""An image file as the picture its boxes are for: RGB of 8 bits, turned as it was annotated.

`open_rgb` reads any file whole, through Pillow. `open_picture` is for training and gives the same:
a JPEG in colour, as nearly all are, is first only asked for its size, and decoded when it is known
how small it may be; straight into a tensor where it is neither reduced nor turned.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

# What brings a picture upright whose sides EXIF exchanges, and what lays an upright one as stored.
UPRIGHT = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
_RGB = ImageReadMode.RGB
_PHOTOMETRIC = 262  # TIFF's tag; Pillow heeds it where a value has 8 bits
_LEAST_16_BITS = 4096  # a brightest value below this fills less than 16 of 255 levels


class PictureError(ValueError):
    """A picture that cannot be had, in words that follow the file's name.

    Attributes:
        kind: of `faults.ERRORS`.
        size: width and height as stored, where it is they that are wrong.
    """

    def __init__(self, kind: str, problem: str, size: tuple[int, int] | None = None) -> None:
        super().__init__(kind, problem, size)  # what makes another in a process that receives it
        self.kind, self.problem, self.size = kind, problem, size

    def __str__(self) -> str:
        return self.problem


def open_rgb(
    file: Path | BinaryIO,
    size: tuple[float, float] | None = None,
    on_guess: Callable[[str], None] = lambda guess: None,
) -> Image.Image:
    """The picture that a file holds, as its boxes have it.

    Some tools annotate a picture as it is stored (COCO's own boxes are so), others as EXIF turns
    it; the size on record tells which. What is transparent lies on white.

    Args:
        size: width and height on record, or None where there is none.
        on_guess: told what neither file nor record settles, in words that follow the file's name.

    Raises:
        PictureError: there is no such picture.
    """
    with _in_words(), Image.open(file) as image:
        turn = orientation(image)
        image.load()
        picture = as_rgb(image)
        if orientation(image) != turn:  # a TIFF, which Pillow turns upright as it loads
            picture = picture.transpose(_STORED[turn])
        frames = getattr(image, "n_frames", 1)
        # Further pictures of an MPO are the other eye's, or previews.
        if frames > 1 and image.format != "MPO":
            on_guess(f"holds {frames} frames, of which the first is taken")
    upright = _as_annotated(picture.size, turn, size, on_guess)
    return picture if upright is None else picture.transpose(upright)


@dataclass(frozen=True)
class Picture:
    """A picture of which the size is known; its pixels are had when they are asked for.

    Attributes:
        size: width and height as annotated.
        pixels: called with a reduction, gives (3, H, W) uint8, colours side by side in memory. A
            JPEG's sides, which must be multiples of the reduction, 1, 2, 4 or 8, are divided by it
            as it is decoded; of other files all pixels come. Raises PictureError where the file is
            broken.
    """

    size: tuple[int, int]
    pixels: Callable[[int], Tensor]


def open_picture(
    file: Path,
    size: tuple[float, float] | None = None,
    on_guess: Callable[[str], None] = lambda guess: None,
) -> Picture:
    """The picture that `open_rgb` would give, its pixels only when they are asked for.

    Args and errors: as for `open_rgb`.
    """
    with _in_words():
        content = file.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            kind, stored, turn = (image.format, image.mode), image.size, orientation(image)
    if kind == ("JPEG", "RGB"):
        upright = _as_annotated(stored, turn, size, on_guess)
        shown = stored if upright is None else stored[::-1]
        return Picture(shown, partial(_decode_jpeg, content, upright))
    picture = open_rgb(io.BytesIO(content), size, on_guess)
    return Picture(picture.size, lambda reduction: as_tensor(picture))


def _decode_jpeg(content: bytes, upright: Image.Transpose | None, reduction: int) -> Tensor:
    """A JPEG in colour as (3, H, W) uint8, its sides divided by a reduction."""
    if reduction == 1 and upright is None:
        try:
            # A copy, since torch takes no memory that must not be written to.
            return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), _RGB)
        except RuntimeError:
            pass  # Pillow says in words what is wrong, or reads it after all
    with _in_words(), Image.open(io.BytesIO(content)) as image:
        if reduction > 1:
            image.draft(None, (image.width // reduction, image.height // reduction))
        image.load()
        picture = as_rgb(image)
    return as_tensor(picture if upright is None else picture.transpose(upright))


def as_tensor(picture: Image.Image) -> Tensor:
    """An RGB picture as (3, H, W) uint8, colours side by side in memory."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


@contextmanager
def _in_words() -> Iterator[None]:
    """Inside, what keeps a file from being read becomes a `PictureError`."""
    try:
        yield
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError("missing image file", "not found") from None
    except UnidentifiedImageError:
        problem = "cannot be read (not an image of a known format)"
        raise PictureError("unreadable image file", problem) from None
    except Image.DecompressionBombError:
        limit = f"{2 * Image.MAX_IMAGE_PIXELS:,}"
        raise PictureError("unsuited image file", f"has more than {limit} pixels") from None
    except Exception as error:  # a broken file makes decoders raise what they like
        problem = f"cannot be read ({error or type(error).__name__})"
        raise PictureError("unreadable image file", problem) from error


def open_upright(file: Path) -> Image.Image:
    """The picture that a file holds as a viewer shows it, turned as EXIF says.

    Raises:
        PictureError: there is no such picture.
    """
    stored = open_rgb(file)
    with Image.open(file) as image:
        turn = orientation(image)
    back = UPRIGHT.get(turn, _STORED.get(turn))  # what EXIF mirrors or turns over is its own back
    return stored if back is None else stored.transpose(back)


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture of any colour mode in RGB of 8 bits; what is transparent lies on white.

    Raises:
        PictureError: its values have no stated black and white, or nothing of it would be seen.
    """
    # A PNG or PNM has at most 16 bits, whatever type Pillow holds them in.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        white_is_0 = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0
        return _from_16_bits(np.asarray(image), white_is_0)
    if image.mode in ("I", "F"):
        what = {"I": "32-bit whole numbers", "F": "floating-point numbers"}[image.mode]
        problem = f"holds {what}, of which no black and white are stated"
        raise PictureError("unsuited image file", problem)
    return _on_white(image) if image.has_transparency_data else image.convert("RGB")


def _from_16_bits(values: np.ndarray, white_is_0: bool) -> Image.Image:
    """Grey of 16 bits by its upper 8, as Pillow reads colours of 16 bits."""
    brightest = int(values.max())
    if 0 < brightest < _LEAST_16_BITS:
        problem = f"holds 16-bit values up to {brightest} of 65,535, all but black"
        raise PictureError("unsuited image file", problem)
    levels = (values.astype(np.int64) >> 8).astype(np.uint8)
    return Image.fromarray(255 - levels if white_is_0 else levels).convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """A picture with transparency as it is seen on white."""
    image = image.convert("RGBA")
    least, most = image.getchannel("A").getextrema()
    if most == 0:
        problem = "is transparent everywhere: nothing of it is seen"
        raise PictureError("unsuited image file", problem)
    if least < 255:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def orientation(image: Image.Image) -> int:
    """How EXIF says that the picture is turned, 1 to 8; 1 is not."""
    try:
        turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # EXIF that is broken turns nothing
        return 1
    return turn if turn in range(1, 9) else 1


def _as_annotated(
    stored: tuple[int, int],
    turn: int,
    size: tuple[float, float] | None,
    on_guess: Callable[[str], None],
) -> Image.Transpose | None:
    """What makes a picture stored in some size have the one on record: a turn by EXIF, or None."""
    upright = stored[::-1] if turn in UPRIGHT else stored
    if size is not None and stored != size:
        if upright == size:
            return UPRIGHT[turn]
        turned = f" (by EXIF {_sides(upright)})" if upright != stored else ""
        problem = f"is {_sides(stored)}{turned}, recorded as {_sides(size)}"
        raise PictureError("image of another size than its record's", problem, stored)
    if turn != 1 and (size is None or upright == stored):
        on_guess(f"is turned by EXIF (orientation {turn}), taken as stored")
    return None


def _sides(size: tuple[float, float]) -> str:
    return f"{size[0]:g}×{size[1]:g}"
