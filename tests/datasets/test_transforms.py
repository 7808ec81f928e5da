"""DETR's resize rule and augmentation."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detrnb.datasets.transforms import EvalTransform, TrainTransform, clip_boxes, resize_shape

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "resize_rule.json").read_text())


def marked_image(width, height, box):
    """Black with a white rectangle at `box`, so that the box can be read off the pixels."""
    image = Image.new("RGB", (width, height))
    image.paste((255, 255, 255), tuple(box))
    return image, np.array([box], dtype=np.float32), np.array([3])


def white_box(image):
    rows, columns = np.nonzero(np.asarray(image)[:, :, 0] > 127)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize("row", GOLDEN["rows"])
def test_resize_shape_equals_reference(row):
    assert resize_shape(*row[:4]) == tuple(row[4:])


def test_resize_shape_without_limit_and_without_change():
    assert resize_shape(100, 1000, 50, None) == (50, 500)
    assert resize_shape(64, 64, 64, 64) == (64, 64)
    assert resize_shape(5000, 3, 8, 100)[1] == 1


def test_eval_transform_scales_boxes_and_leaves_image_alone_without_size():
    image, boxes, labels = marked_image(100, 50, (10, 5, 60, 30))
    rng = np.random.default_rng(0)
    resized, scaled, kept = EvalTransform(size=25, max_size=1000)(image, boxes, labels, rng)
    assert resized.size == (50, 25)
    np.testing.assert_allclose(scaled, [[5, 2.5, 30, 15]])
    assert kept.tolist() == [3]
    same, unscaled, _ = EvalTransform(size=None)(image, boxes, labels, rng)
    assert same.size == (100, 50) and np.array_equal(unscaled, boxes)


@pytest.mark.parametrize("size", [(4000, 1), (1, 4000), (100_000, 3)])
def test_an_image_too_oblong_to_be_resized_is_refused_whatever_is_drawn(size):
    image = Image.new("RGB", size)
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    transforms = (
        EvalTransform(),
        TrainTransform(),
        TrainTransform(crop=None),
        TrainTransform(max_size=None),
    )
    for transform in transforms:
        for seed in range(3):
            with pytest.raises(ValueError, match=rf"is {size[0]}×{size[1]}, too oblong .* Cut it"):
                transform(image, *nothing, np.random.default_rng(seed))
    # Left as it is, it needs no resizing.
    assert EvalTransform(None)(image, *nothing, np.random.default_rng(0))[0] is image


def test_no_resizing_before_a_crop_fills_the_memory():
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    for size in ((10_000, 10), (4000, 10)):  # the limit on the long side is met, not before a crop
        image = Image.new("RGB", size)
        assert max(EvalTransform()(image, *nothing, np.random.default_rng(0))[0].size) <= 1334
        with pytest.raises(ValueError, match=r"short side of 600: that would be \d{6}×600"):
            TrainTransform()(image, *nothing, np.random.default_rng(0))


def test_oblong_images_within_reason_are_resized():
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    for size in ((4000, 40), (1, 1), (1, 60), (60, 1)):
        for transform in (EvalTransform(), TrainTransform()):
            for seed in range(3):
                image, *_ = transform(Image.new("RGB", size), *nothing, np.random.default_rng(seed))
                assert min(image.size) > 0 and max(image.size) < 1400


def test_train_transform_defaults_are_the_references():
    transform = TrainTransform()
    assert transform.sizes == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    assert (transform.max_size, transform.crop, transform.flip) == (1333, (384, 600), True)
    assert transform.crop_sizes == (400, 500, 600)


def test_train_transform_moves_boxes_with_the_pixels():
    transform = TrainTransform((96, 128), 200, crop=(60, 110), crop_sizes=(100, 120))
    image, boxes, labels = marked_image(150, 110, (50, 40, 100, 75))
    mirrored = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        augmented, moved, kept = transform(image, boxes, labels, rng)
        if len(moved) == 0:
            continue
        assert min(augmented.size) in (96, 128) or max(augmented.size) >= 199
        np.testing.assert_allclose(moved[0], white_box(augmented), atol=1.6)
        assert moved.dtype == np.float32 and kept.tolist() == [3]
        mirrored.add(round(float(moved[0, 0])))
    assert len(mirrored) > 10


def test_train_transform_mirrors_half_of_the_samples():
    image, boxes, labels = marked_image(100, 100, (10, 20, 30, 60))
    transform = TrainTransform((100,), None, crop=None)
    lefts = [
        float(transform(image, boxes, labels, np.random.default_rng(seed))[1][0, 0])
        for seed in range(200)
    ]
    assert set(lefts) == {10.0, 70.0}
    assert 80 <= lefts.count(70.0) <= 120
    transform = TrainTransform((100,), None, crop=None, flip=False)
    rng = np.random.default_rng(0)
    assert all(transform(image, boxes, labels, rng)[1][0, 0] == 10 for _ in range(20))


def test_crop_keeps_within_limits_and_drops_boxes_left_outside():
    # A crop of at most 50 of 100 pixels cannot hold both corners' boxes; half of the samples are
    # not cropped and hold all three.
    transform = TrainTransform((64,), None, crop=(40, 50), flip=False, crop_sizes=(100,))
    image = Image.new("RGB", (100, 100))
    boxes = np.array([[0, 0, 10, 10], [90, 90, 100, 100], [45, 45, 55, 55]], dtype=np.float32)
    labels = np.array([0, 1, 2])
    seen = []
    for seed in range(60):
        cropped, moved, kept = transform(image, boxes, labels, np.random.default_rng(seed))
        assert len(moved) == len(kept)
        assert max(cropped.size) <= 64 * 50 / 40
        assert (moved[:, 2:] > moved[:, :2]).all()
        assert (moved >= 0).all() and (moved <= np.array([*cropped.size] * 2) + 1e-3).all()
        seen.append(tuple(kept))
    assert (0, 1, 2) in seen and (2,) in seen and not any({0, 1} == set(s) for s in seen)


def test_crop_of_image_smaller_than_the_crop_is_the_image():
    image, boxes, labels = marked_image(30, 20, (5, 5, 15, 15))
    transform = TrainTransform((20,), None, crop=(384, 600), flip=False, crop_sizes=(20,))
    for seed in range(6):
        augmented, moved, _ = transform(image, boxes, labels, np.random.default_rng(seed))
        assert augmented.size == (30, 20) and np.array_equal(moved, boxes)


def test_transform_of_image_without_boxes_gives_none():
    image = Image.new("RGB", (80, 70))
    transform = TrainTransform((64,), 100, crop=(30, 60), crop_sizes=(64,))
    for seed in range(8):
        _, boxes, labels = transform(
            image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.random.default_rng(seed)
        )
        assert boxes.shape == (0, 4) and labels.shape == (0,)


def test_clip_boxes_drops_boxes_without_area():
    boxes = np.array([[-5, -5, 5, 5], [20, 0, 30, 5], [3, 3, 3, 9]], dtype=np.float32)
    clipped, kept = clip_boxes(boxes, 20, 10)
    assert clipped.tolist() == [[0, 0, 5, 5]] and kept.tolist() == [True, False, False]
