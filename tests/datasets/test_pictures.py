"""What is shown of image files of any colour mode, and how they are turned."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detrnb.datasets import pictures
from detrnb.datasets.pictures import PictureError, as_tensor, open_picture, open_rgb

RAMP = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
ORIENTATION = 0x0112


def file_of(image: Image.Image, form: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, form, **({"lossless": True} if form == "WEBP" else {}), **options)
    file.seek(0)
    return file


def shown(image: Image.Image, form: str, **options: object) -> np.ndarray:
    guesses = []
    pixels = np.asarray(open_rgb(file_of(image, form, **options), on_guess=guesses.append))
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3 and guesses == []
    return pixels


def grey(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., None], 3, axis=2)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_grey_of_8_and_of_16_bits_is_shown_alike(form, kind):
    ramp = RAMP if kind is np.uint8 else RAMP.astype(np.uint16) * 257
    assert np.array_equal(shown(Image.fromarray(ramp), form), grey(RAMP))


def test_16_bits_in_the_other_byte_order_are_read():
    image = Image.frombytes("I;16B", (256, 4), (RAMP.astype(">u2") * 257).tobytes())
    assert np.array_equal(shown(image, "TIFF"), grey(RAMP))


def test_16_bits_of_which_0_is_white_are_read():
    """As X-rays have them."""
    ramp = Image.fromarray(RAMP.astype(np.uint16) * 257)
    assert np.array_equal(shown(ramp, "TIFF", tiffinfo={262: 0}), grey(255 - RAMP))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ((RAMP / 255).astype(np.float32), "holds floating-point numbers, of which no black"),
        (RAMP.astype(np.float32), "holds floating-point numbers, of which no black"),
        (RAMP.astype(np.int32), "holds 32-bit whole numbers, of which no black and white"),
        (RAMP.astype(np.uint16), "holds 16-bit values up to 255 of 65,535, all but black"),
        (RAMP.astype(np.uint16) * 16, "holds 16-bit values up to 4080 of 65,535, all but black"),
    ],
)
def test_values_whose_black_and_white_are_not_stated_are_refused(values, problem):
    with pytest.raises(PictureError, match=problem) as error:
        open_rgb(file_of(Image.fromarray(values), "TIFF"))
    assert error.value.kind == "unsuited image file"


def test_a_black_image_of_16_bits_is_black():
    assert not shown(Image.fromarray(np.zeros((4, 5), np.uint16)), "PNG").any()


def test_what_is_transparent_lies_on_white():
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[..., 0] = 255  # red all over
    pixels[0, :, 3] = 255, 51, 0  # seen, faint, not seen
    pixels[1, :, 3] = 255
    red, faint, white = [255, 0, 0], [255, 204, 204], [255, 255, 255]
    assert shown(Image.fromarray(pixels), "PNG").tolist() == [[red, faint, white], [red] * 3]
    levels = np.stack([RAMP, np.full_like(RAMP, 255)], axis=2)
    levels[0, 7, 1] = 0
    expected = grey(RAMP)
    expected[0, 7] = 255
    assert np.array_equal(shown(Image.fromarray(levels), "PNG"), expected)


def test_a_transparent_colour_of_a_palette_or_of_grey_lies_on_white():
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("L")
    palette = Image.frombytes("P", (2, 1), palette.tobytes())
    palette.putpalette([255, 0, 0, 0, 0, 255])
    assert shown(palette, "PNG").tolist() == [[[255, 0, 0], [0, 0, 255]]]
    assert shown(palette, "GIF").tolist() == [[[255, 0, 0], [0, 0, 255]]]
    through = shown(palette, "PNG", transparency=0)
    assert through.tolist() == [[[255, 255, 255], [0, 0, 255]]]
    through = shown(Image.fromarray(RAMP), "PNG", transparency=9)
    assert through[0, 9].tolist() == [255] * 3 and through[0, 8].tolist() == [8] * 3


def test_opaque_pixels_keep_their_values():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    pixels[..., 3] = 255
    assert np.array_equal(shown(Image.fromarray(pixels), "PNG"), pixels[..., :3])


def test_an_image_transparent_everywhere_is_refused():
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0] = 255
    with pytest.raises(PictureError, match="transparent everywhere: nothing of it is seen"):
        open_rgb(file_of(Image.fromarray(pixels), "PNG"))


def test_bits_and_colours_of_other_kinds_are_shown():
    bits = np.array([[True, False]])
    assert shown(Image.fromarray(bits), "PNG").tolist() == [[[255] * 3, [0] * 3]]
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # no cyan: red
    assert np.abs(shown(ink, "TIFF").astype(int) - [255, 0, 0]).max() == 0
    assert np.abs(shown(ink, "JPEG").astype(int) - [255, 0, 0]).max() < 5
    for mode in ("YCbCr", "LAB"):
        assert shown(Image.new(mode, (8, 8), (255, 128, 128)), "TIFF").min() > 250  # white


@pytest.mark.parametrize("form", ["GIF", "PNG", "TIFF", "WEBP"])
def test_the_first_of_several_frames_is_taken_and_said(form):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("white", "black", "red")]
    file = file_of(frames[0], form, save_all=True, append_images=frames[1:])
    guesses = []
    assert np.asarray(open_rgb(file, on_guess=guesses.append)).min() >= 254
    assert guesses == ["holds 3 frames, of which the first is taken"]


def test_files_that_are_none_or_broken_are_refused(tmp_path):
    with pytest.raises(PictureError, match="not found") as error:
        open_rgb(tmp_path / "none.png")
    assert error.value.kind == "missing image file"
    whole = file_of(Image.fromarray(np.random.default_rng(0).bytes(3000) and RAMP), "PNG").read()
    for content in (b"", b"no image", whole[: len(whole) // 2]):
        with pytest.raises(PictureError, match="cannot be read") as error:
            open_rgb(io.BytesIO(content))
        assert error.value.kind == "unreadable image file"


def test_an_image_larger_than_pillow_opens_is_named_as_such(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(PictureError, match="has more than 200 pixels") as error:
        open_rgb(file_of(Image.fromarray(RAMP), "PNG"))
    assert error.value.kind == "unsuited image file"


def turned(orientation: int, size: tuple[int, int] = (6, 4), form: str = "PNG") -> io.BytesIO:
    """Stored with a white top left corner."""
    image = Image.new("RGB", size)
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return file_of(image, form, exif=exif)


def white_at(image: Image.Image) -> tuple[int, int]:
    rows, columns = np.nonzero(np.asarray(image)[..., 0])
    return int(columns[0]), int(rows[0])


# Where the stored top left corner is upright: 6 stands for "right, top" and so on.
CORNERS = {5: (0, 0), 6: (3, 0), 7: (3, 5), 8: (0, 5)}


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", CORNERS)
def test_an_image_is_turned_as_the_size_on_record_says(orientation, form):
    def never(guess: str) -> None:
        raise AssertionError(guess)

    stored = open_rgb(turned(orientation, form=form), (6.0, 4.0), never)
    assert stored.size == (6, 4) and white_at(stored) == (0, 0)
    upright = open_rgb(turned(orientation, form=form), (4.0, 6.0), never)
    assert upright.size == (4, 6) and white_at(upright) == CORNERS[orientation]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "stored", "recorded"),
    [
        *((i, (6, 4), (6, 4)) for i in (2, 3, 4)),  # sides stay as they are
        *((i, (6, 6), (6, 6)) for i in (5, 6, 7, 8)),  # sides are equal
        *((i, (6, 4), None) for i in range(2, 9)),  # sides are not on record
    ],
)
def test_a_turn_that_the_size_does_not_tell_is_said(orientation, stored, recorded, form):
    guesses = []
    image = open_rgb(turned(orientation, stored, form), recorded, guesses.append)
    assert image.size == stored and white_at(image) == (0, 0)
    assert guesses == [f"is turned by EXIF (orientation {orientation}), taken as stored"]


@pytest.mark.parametrize("orientation", [0, 1, 9, 300])
def test_what_is_no_turn_is_none(orientation):
    assert open_rgb(turned(orientation), None, pytest.fail).size == (6, 4)


def test_another_size_than_on_record_is_refused_with_both():
    with pytest.raises(PictureError, match=r"^is 6×4, recorded as 4×6$") as error:
        open_rgb(turned(1), (4.0, 6.0))
    assert error.value.kind == "image of another size than its record's"
    assert error.value.size == (6, 4)
    with pytest.raises(PictureError, match=r"^is 6×4 \(by EXIF 4×6\), recorded as 8×12$"):
        open_rgb(turned(6), (8.0, 12.0))
    with pytest.raises(PictureError, match="recorded as 6.5×4"):
        open_rgb(turned(1), (6.5, 4.0))


def photograph(width: int, height: int) -> Image.Image:
    """Smooth and colourful, with some edges."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x * y // 64) % 256], axis=2)
    pixels[height // 3 : height // 2, width // 4 : width // 2] = 20, 200, 90
    return Image.fromarray(pixels.astype(np.uint8))


JPEGS = {
    "all colours": {"subsampling": 0},
    "thinned colours": {"subsampling": 2},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "RGB without a change of colours": {"keep_rgb": True},
    "an ICC profile": {"icc_profile": b"never applied"},
    "EXIF without a turn": {"exif": b"Exif\x00\x00 broken"},
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("size", [(48, 32), (45, 31), (1, 1)])
def test_a_jpeg_for_training_is_the_one_that_pillow_reads(kind, size, tmp_path, monkeypatch):
    file = tmp_path / "a.jpg"
    photograph(*size).save(file, quality=92, **JPEGS[kind])
    expected = as_tensor(open_rgb(file))
    monkeypatch.setattr(pictures, "as_rgb", None)  # the fast way does without
    picture = open_picture(file, size, pytest.fail)
    pixels = picture.pixels(1)
    assert picture.size == size and pixels.shape == (3, *size[::-1])
    assert pixels.permute(1, 2, 0).is_contiguous()  # colours side by side
    assert (pixels.int() - expected.int()).abs().max() <= 1  # decoders may round


@pytest.mark.parametrize("kind", ["grey", "ink", "two pictures", "PNG", "16 bits"])
def test_other_files_go_the_slow_way(kind, tmp_path):
    file, image = tmp_path / "a", photograph(45, 31)
    if kind == "two pictures":
        image.save(file, "MPO", save_all=True, append_images=[image])
    elif kind == "16 bits":
        Image.fromarray(RAMP.astype(np.uint16) * 257).save(file, "PNG")
    else:
        mode, form = {"grey": ("L", "JPEG"), "ink": ("CMYK", "JPEG"), "PNG": ("RGB", "PNG")}[kind]
        image.convert(mode).save(file, form)
    expected = open_rgb(file)
    picture = open_picture(file, expected.size, pytest.fail)
    assert picture.size == expected.size
    for reduction in (1, 2):  # only a JPEG in colour can be reduced
        assert picture.pixels(reduction).equal(as_tensor(expected))


@pytest.mark.parametrize("recorded", ["stored", "upright", None])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_for_training_is_turned_alike(orientation, recorded, tmp_path):
    file, exif = tmp_path / "a.jpg", Image.Exif()
    exif[ORIENTATION] = orientation
    photograph(48, 32).save(file, quality=92, exif=exif)
    size = {"stored": (48, 32), "upright": (32, 48), None: None}[recorded]
    said: tuple[list, list] = ([], [])

    def outcome(read, guesses):
        try:
            return read(file, size, guesses.append)
        except PictureError as error:
            return str(error), error.kind, error.size

    whole, picture = outcome(open_rgb, said[0]), outcome(open_picture, said[1])
    assert said[0] == said[1]
    if isinstance(whole, tuple):
        assert picture == whole
        return
    assert picture.size == whole.size
    apart = picture.pixels(1).int() - as_tensor(whole).int()
    assert apart.abs().max() <= 1
    width, height = whole.size
    means = np.asarray(whole).reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
    half = picture.pixels(2).permute(1, 2, 0).numpy()
    assert half.shape == means.shape and abs(half - means).mean() < 4


@pytest.mark.parametrize("progressive", [False, True])
def test_a_broken_jpeg_is_refused_for_training_where_pillow_refuses_it(progressive, tmp_path):
    """What `detrnb data --images` accepts can be trained on, and only that."""
    whole = file_of(photograph(64, 48), "JPEG", quality=80, progressive=progressive).read()
    spoilt = [whole[:length] for length in range(0, len(whole), len(whole) // 40)]
    spoilt += [whole[: len(whole) - cut] for cut in (1, 2, 3, 20)]
    spoilt += [whole[:at] + bytes(8) + whole[at + 8 :] for at in range(700, len(whole) - 8, 97)]
    outcomes = set()
    for number, content in enumerate(spoilt):
        file = tmp_path / f"{number}.jpg"
        file.write_bytes(content)
        found = []
        for read in (open_rgb, lambda file: open_picture(file).pixels(1)):
            try:
                found.append(np.asarray(read(file)).size)
            except PictureError as error:
                found.append((error.kind, str(error)))
        assert found[0] == found[1], number
        outcomes.add(type(found[0]))
    assert outcomes == {int, tuple}


def test_files_that_are_none_are_refused_for_training(tmp_path):
    for content in (None, b"", b"no image"):
        file = tmp_path / "a.jpg"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(PictureError) as error:
            open_rgb(file)
        with pytest.raises(PictureError) as other:
            open_picture(file)
        assert (str(other.value), other.value.kind) == (str(error.value), error.value.kind)
    with pytest.raises(PictureError, match="cannot be read"):
        open_picture(Path(tmp_path))


def test_a_jpeg_larger_than_pillow_opens_is_refused_before_it_is_decoded(monkeypatch, tmp_path):
    photograph(48, 32).save(tmp_path / "a.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(PictureError, match="has more than 200 pixels"):
        open_picture(tmp_path / "a.jpg")


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_jpeg_is_reduced_as_it_is_decoded(reduction, tmp_path):
    file = tmp_path / "a.jpg"
    image = photograph(128, 64)
    image.save(file, quality=95, subsampling=0)
    pixels = open_picture(file).pixels(reduction)
    means = as_tensor(image.reduce(reduction)).int()
    assert pixels.shape == means.shape
    assert (pixels.int() - means).abs().float().mean() < 4
