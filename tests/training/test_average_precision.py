"""COCO metrics are pycocotools', to the last digit, also where images and detections are odd."""

import json

import numpy as np
import pytest
from by_pycocotools import by_pycocotools

from detrnb.training import average_precision, evaluate_coco, load_ground_truth

CASES = {
    "ties": {"grid": 8, "levels": 3},  # scores and overlaps that are equal, and some of exactly 0.5
    "crowds": {"grid": 8, "crowds": 0.5},
    "sizes": {"side": 400, "most": 300},
    "many": {"images": 3, "found": 230, "classes": 2, "levels": 20},  # over 100 of a class
    "one image": {"images": 1, "boxes": 6, "found": 5},
    "one box": {"images": 1, "boxes": 1, "found": 2, "classes": 1},
    "no detections": {"found": 0},
    "no boxes": {"boxes": 0},
    "classes without boxes": {"classes": 2, "unused": 3},
    "categories that are not there": {"strangers": 2},
    "many boxes": {"images": 2, "boxes": 250, "found": 120, "classes": 1, "grid": 16},
}


def write(
    path,
    random,
    *,
    images=30,
    classes=4,
    unused=0,
    strangers=0,
    boxes=5,
    found=12,
    side=120,
    most=60,
    grid=1,
    levels=None,
    crowds=0.1,
):
    """An annotation file and detections of it, some images without the one or the other.

    Args:
        unused: categories without boxes; strangers: without being in the file, but detected.
        boxes, found: at most in an image.
        grid: pixels that corners are apart; levels: numbers of different scores.
    """
    image_ids = (random.permutation(10 * images)[:images] + 1).tolist()
    category_ids = (random.permutation(50)[: classes + unused + strangers] + 1).tolist()

    def boxes_of(n):
        sides = random.uniform(4, most, (n, 2))
        corners = random.uniform(0, 1, (n, 2)) * (side - sides)
        xywh = np.concatenate([corners, sides], axis=1)
        return (xywh / grid).round(2 if grid == 1 else 0).clip(min=[0, 0, 1, 1]) * grid

    annotations, detections = [], {}
    for image_id in image_ids:
        true = boxes_of(random.randint(boxes + 1) if images > 1 else boxes)
        kinds = random.choice(category_ids[:classes], len(true))
        for category_id, xywh in zip(kinds.tolist(), true, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": xywh.tolist(),
                    "area": float(xywh[2:].prod() * random.uniform(0.5, 1)),
                    "iscrowd": int(random.uniform() < crowds),
                }
            )
        n = random.choice([0, found // 2, found]) if images > 3 else found
        near = true[random.randint(len(true), size=n)] if len(true) else boxes_of(n)
        moved = near + random.randint(-1, 2, (n, 4)) * (grid if grid > 1 else 3)
        xywh = np.where(random.uniform(size=(n, 1)) < 0.8, moved, boxes_of(n)).clip(
            min=[0, 0, 1, 1]
        )
        scores = random.uniform(size=n)
        detections[image_id] = {
            "scores": (scores if levels is None else scores.round(1) * levels).astype(np.float32),
            "category_ids": random.choice(category_ids, n),
            "boxes": np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1).astype(np.float32),
        }
    named = category_ids[: classes + unused]
    content = {
        "info": {},
        "images": [
            {"id": i, "file_name": f"{i}", "width": side, "height": side} for i in image_ids
        ],
        "annotations": [annotations[i] for i in random.permutation(len(annotations))],
        "categories": [{"id": i, "name": f"class {i}"} for i in named],
    }
    path.write_text(json.dumps(content))
    return detections


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CASES)
def test_metrics_equal_pycocotools_to_the_last_digit(name, seed, tmp_path, capfd):
    file = tmp_path / "instances.json"
    detections = write(file, np.random.RandomState(seed), **CASES[name])
    ours = evaluate_coco(load_ground_truth(file), detections)
    assert capfd.readouterr() == ("", "")
    assert ours == by_pycocotools(file, detections)
    some = dict([*detections.items()][::2])
    assert evaluate_coco(load_ground_truth(file), some) == by_pycocotools(file, some)


def test_metrics_of_5000_images_equal_pycocotools_to_the_last_digit(tmp_path):
    file = tmp_path / "instances.json"
    settings = {"images": 5000, "classes": 2, "boxes": 2, "found": 3, "side": 300, "most": 200}
    detections = write(file, np.random.RandomState(0), **settings)
    ours = evaluate_coco(load_ground_truth(file), detections)
    assert ours == by_pycocotools(file, detections)
    assert min(ours.stats) > 0


def test_a_first_detection_that_is_right_has_not_quite_a_precision_of_one(tmp_path):
    """pycocotools divides by a little more than 1; faster-coco-eval 1.8.0 does not."""
    file = tmp_path / "instances.json"
    box = {"image_id": 1, "category_id": 1, "area": 2500, "iscrowd": 0}
    boxes = [box | {"id": 1, "bbox": [0, 0, 50, 50]}, box | {"id": 2, "bbox": [90, 90, 50, 50]}]
    file.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a", "width": 200, "height": 200}],
                "annotations": boxes,
                "categories": [{"id": 1, "name": "a"}],
            }
        )
    )
    wrong = [0.0, 80.0, 10.0, 90.0]
    detections = {
        1: {"scores": [0.9, 0.8], "category_ids": [1, 1], "boxes": [[0.0, 0.0, 50.0, 50.0], wrong]}
    }
    ours = evaluate_coco(load_ground_truth(file), detections)
    assert ours.stats[0] == 0.5049504950495048 < 51 / 101
    assert ours == by_pycocotools(file, detections)


def test_pairs_compared_in_parts_give_what_they_give_together(tmp_path, monkeypatch):
    file = tmp_path / "instances.json"
    detections = write(file, np.random.RandomState(0), **CASES["ties"])
    whole = evaluate_coco(load_ground_truth(file), detections)
    for pairs in (1, 2, 7):
        monkeypatch.setattr(average_precision, "_PAIRS", pairs)
        assert evaluate_coco(load_ground_truth(file), detections) == whole
