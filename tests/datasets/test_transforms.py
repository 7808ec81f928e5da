"""DETR's resize rule and augmentation."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import ks_2samp

from detrnb.datasets.pictures import as_tensor
from detrnb.datasets.transforms import (
    Cut,
    EvalTransform,
    TrainTransform,
    clip_boxes,
    resize_shape,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "resize_rule.json").read_text())


def applied(transform, image, boxes, labels, rng):
    """What a transform makes of an image and its boxes."""
    cut = transform(image.size, rng)
    pixels = cut.pixels(as_tensor(image)).permute(1, 2, 0).numpy()
    assert pixels.shape[1::-1] == cut.size
    return Image.fromarray(pixels), *cut.boxes(boxes, labels)


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
    resized, scaled, kept = applied(
        EvalTransform(size=25, max_size=1000), image, boxes, labels, rng
    )
    assert resized.size == (50, 25)
    np.testing.assert_allclose(scaled, [[5, 2.5, 30, 15]])
    assert kept.tolist() == [3]
    same, unscaled, _ = applied(EvalTransform(size=None), image, boxes, labels, rng)
    assert same.size == (100, 50) and np.array_equal(unscaled, boxes)


@pytest.mark.parametrize("size", [(4000, 1), (1, 4000), (100_000, 3)])
def test_an_image_too_oblong_to_be_resized_is_refused_whatever_is_drawn(size):
    transforms = (
        EvalTransform(),
        TrainTransform(),
        TrainTransform(crop=None),
        TrainTransform(max_size=None),
    )
    for transform in transforms:
        for seed in range(3):
            with pytest.raises(ValueError, match=rf"is {size[0]}×{size[1]}, too oblong .* Cut it"):
                transform(size, np.random.default_rng(seed))
    # Left as it is, it needs no resizing.
    assert EvalTransform(None)(size).size == size


def test_no_resizing_before_a_crop_fills_the_memory():
    for size in ((10_000, 10), (4000, 10)):  # the limit on the long side is met, not before a crop
        assert max(EvalTransform()(size).size) <= 1334
        with pytest.raises(ValueError, match=r"short side of 600: that would be \d{6}×600"):
            TrainTransform()(size, np.random.default_rng(0))


def test_oblong_images_within_reason_are_resized():
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    for size in ((4000, 40), (1, 1), (1, 60), (60, 1)):
        for transform in (EvalTransform(), TrainTransform()):
            for seed in range(3):
                rng = np.random.default_rng(seed)
                image, *_ = applied(transform, Image.new("RGB", size), *nothing, rng)
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
        augmented, moved, kept = applied(transform, image, boxes, labels, rng)
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
        float(applied(transform, image, boxes, labels, np.random.default_rng(seed))[1][0, 0])
        for seed in range(200)
    ]
    assert set(lefts) == {10.0, 70.0}
    assert 80 <= lefts.count(70.0) <= 120
    transform = TrainTransform((100,), None, crop=None, flip=False)
    rng = np.random.default_rng(0)
    assert all(applied(transform, image, boxes, labels, rng)[1][0, 0] == 10 for _ in range(20))


def test_crop_keeps_within_limits_and_drops_boxes_left_outside():
    # A crop of at most 50 of 100 pixels cannot hold both corners' boxes; half of the samples are
    # not cropped and hold all three.
    transform = TrainTransform((64,), None, crop=(40, 50), flip=False, crop_sizes=(100,))
    image = Image.new("RGB", (100, 100))
    boxes = np.array([[0, 0, 10, 10], [90, 90, 100, 100], [45, 45, 55, 55]], dtype=np.float32)
    labels = np.array([0, 1, 2])
    seen = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        cropped, moved, kept = applied(transform, image, boxes, labels, rng)
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
        rng = np.random.default_rng(seed)
        augmented, moved, _ = applied(transform, image, boxes, labels, rng)
        assert augmented.size == (30, 20) and np.array_equal(moved, boxes)


def test_transform_of_image_without_boxes_gives_none():
    image = Image.new("RGB", (80, 70))
    transform = TrainTransform((64,), 100, crop=(30, 60), crop_sizes=(64,))
    for seed in range(8):
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        _, boxes, labels = applied(transform, image, *nothing, np.random.default_rng(seed))
        assert boxes.shape == (0, 4) and labels.shape == (0,)


def test_clip_boxes_drops_boxes_without_area():
    boxes = np.array([[-5, -5, 5, 5], [20, 0, 30, 5], [3, 3, 3, 9]], dtype=np.float32)
    clipped, kept = clip_boxes(boxes, 20, 10)
    assert clipped.tolist() == [[0, 0, 5, 5]] and kept.tolist() == [True, False, False]


def drawn_by_the_rule(width, height, rng):
    """What the reference's training transform draws: mirrored, edges as shares, new size.

    Its rule written down step by step, a resize after the other.
    """
    mirrored = rng.random() < 0.5
    edges = (0, 0, width, height)
    if rng.random() >= 0.5:
        width, height = resize_shape(width, height, rng.choice([400, 500, 600]), None)
        w, h = rng.randint(384, min(width, 600)), rng.randint(384, min(height, 600))
        left, top = rng.randint(0, width - w), rng.randint(0, height - h)
        edges = (left, top, left + w, top + h)
    sides = edges[2] - edges[0], edges[3] - edges[1]
    new = resize_shape(*sides, rng.choice(range(480, 801, 32)), 1333)
    return mirrored, np.array(edges) / ([width, height] * 2), new


@pytest.mark.parametrize("size", [(640, 480), (427, 640), (2048, 1536), (500, 333)])
def test_train_transform_draws_from_the_references_distribution(size):
    transform, rng, jitter = TrainTransform(), random.Random(1), np.random.default_rng(2)
    rows = {"ours": [], "rule": []}
    for seed in range(1500):
        cut = transform(size, np.random.default_rng(seed))
        drawn = {
            "ours": (cut.mirrored, np.array(cut.region) / (size * 2), cut.size),
            "rule": drawn_by_the_rule(*size, rng),
        }
        for name, (mirrored, edges, new) in drawn.items():
            cropped = edges.tolist() != [0, 0, 1, 1]
            # Ours lie on the image's pixels, the rule's on those of three other sizes.
            edges = edges + jitter.uniform(-0.5, 0.5, 4) / (size * 2)
            rows[name].append([mirrored, cropped, *edges, *new])
    ours, rule = (np.array(part, dtype=float) for part in rows.values())
    for part in (ours, rule):  # mirrored, cropped: half of them, beside each other
        assert abs(part[:, :2].mean(0) - 0.5).max() < 0.05
        assert abs(np.corrcoef(part[:, 0], part[:, 1])[0, 1]) < 0.08
    for cropped in (0, 1):
        ours_, rule_ = (part[part[:, 1] == cropped][:, 2:] for part in (ours, rule))
        for column in range(6):
            assert ks_2samp(ours_[:, column], rule_[:, column]).pvalue > 1e-3, column
        whole = [set(map(tuple, part[:, 4:].astype(int).tolist())) for part in (ours_, rule_)]
        assert cropped or whole[0] == whole[1]


@pytest.mark.parametrize("size", [(640, 480), (427, 640), (4032, 3024), (1602, 1064), (90, 61)])
def test_a_crop_is_the_nearest_to_the_rules_in_whole_pixels(size):
    rng, reductions = np.random.default_rng(0), set()
    for _ in range(400):
        low, high = np.sort(rng.uniform(0, 1, (2, 2)), axis=0) * size
        region, new = (*low, *high), tuple(rng.integers(1, max(size) // 4, 2).tolist())
        cut = Cut.around(size, new, region)
        left, top, right, bottom = cut.region
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
        assert all(edge % cut.reduction == 0 for edge in cut.region + size)
        if (high - low).min() >= cut.reduction:  # a narrower one is one step wide
            assert np.abs(np.array(cut.region) - region).max() <= cut.reduction / 2
        if cut.reduction > 1:  # the image is at least as large as what is made of it
            assert ((high - low) / cut.reduction >= new).all()
        reductions.add(cut.reduction)
    divisible = [k for k in (1, 2, 4, 8) if not any(side % k for side in size)]
    assert reductions == set(divisible)


def test_images_of_coco_are_never_decoded_reduced():
    sizes = [(640, 480), (480, 640), (640, 426), (500, 375)]
    for transform in (TrainTransform(), EvalTransform()):
        for size in sizes:
            for seed in range(50):
                assert transform(size, np.random.default_rng(seed)).reduction == 1
    assert EvalTransform()((4032, 3024)).reduction == 2
    assert EvalTransform()((4033, 3024)).reduction == 1  # no multiple: edges would be off


def test_a_resize_is_pillows_to_a_level():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 90, 3), np.uint8))
    for size in ((120, 90), (45, 30), (90, 100), (31, 61), (90, 61)):
        ours = Cut.around(image.size, size).pixels(as_tensor(image))
        pillows = as_tensor(image.resize(size, Image.Resampling.BILINEAR))
        assert ours.shape == (3, *size[::-1])
        assert (ours.int() - pillows.int()).abs().max() <= 1


def test_a_mirrored_crop_is_the_crop_of_the_mirrored_image():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 90, 3), np.uint8))
    region = (10, 20, 70, 50)
    ours = Cut(image.size, region, (60, 30), mirrored=True).pixels(as_tensor(image))
    expected = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).crop(region)
    assert ours.equal(as_tensor(expected))


@pytest.mark.parametrize("mirrored", [False, True])
def test_what_is_cut_of_a_reduced_image_is_where_it_is_in_the_whole(mirrored):
    y, x = np.mgrid[:256, :320]
    smooth = np.stack([x * 255 / 320, y, 128 + 100 * np.sin(x / 30) * np.cos(y / 40)], axis=2)
    image = Image.fromarray(smooth.astype(np.uint8))
    cut = Cut.around(image.size, (50, 30), (41.0, 17.5, 301.2, 190.0), mirrored)
    assert cut.reduction == 4
    whole, reduced = (cut.pixels(as_tensor(i)) for i in (image, image.reduce(4)))
    assert whole.shape == reduced.shape == (3, 30, 50)
    assert (whole.int() - reduced.int()).abs().max() <= 3
