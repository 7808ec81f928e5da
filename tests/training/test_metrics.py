"""COCO metrics and kinds of errors."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from by_pycocotools import by_pycocotools

from detrnb.datasets import CocoDataset, EvalTransform
from detrnb.runs.log import COCO_METRICS
from detrnb.training.metrics import (
    ERROR_KINDS,
    box_spread,
    error_kinds,
    evaluate_coco,
    load_ground_truth,
)

CLASSES = {3: "cat", 8: "dog", 11: "bird"}


@pytest.fixture
def annotations(tmp_path):
    """Twelve images with up to four boxes each, some of them crowds."""
    random = np.random.RandomState(5)
    boxes = []
    for image_id in range(1, 13):
        for _ in range(random.randint(5)):
            x, y = random.uniform(0, 200, 2).round(2)
            w, h = random.uniform(8, 150, 2).round(2)
            boxes.append(
                {
                    "id": len(boxes) + 1,
                    "image_id": image_id,
                    "category_id": int(random.choice([3, 8])),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(random.uniform() < 0.1),
                }
            )
    content = {
        "info": {},
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 400, "height": 400} for i in range(1, 13)
        ],
        "annotations": boxes,
        "categories": [{"id": i, "name": name} for i, name in CLASSES.items()],
    }
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(content))
    return file


def detections_like(ground_truth, random, image_ids):
    """Shifted copies of the ground truth, some of another class, and noise."""
    detections = {}
    for image_id in image_ids:
        true = ground_truth.boxes_xywh[ground_truth.of_image == image_id]
        xywh = np.concatenate([true, [[5, 5, 30, 30], [50, 60, 70, 80]]])
        xywh = np.repeat(xywh, 2, axis=0) + random.uniform(-8, 8, (2 * len(xywh), 4))
        detections[image_id] = {
            "scores": random.uniform(size=len(xywh)),
            "category_ids": random.choice([3, 8, 11], len(xywh), p=[0.6, 0.3, 0.1]),
            "boxes": np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
        }
    return detections


def perfect(ground_truth):
    """The ground truth, crowds aside, as detections."""
    found = {}
    for image_id in ground_truth.image_ids.tolist():
        true = (ground_truth.of_image == image_id) & ~ground_truth.crowd
        xywh = ground_truth.boxes_xywh[true]
        found[image_id] = {
            "scores": np.ones(len(xywh)),
            "category_ids": ground_truth.of_category[true],
            "boxes": np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
        }
    return found


def test_metrics_equal_pycocotools_fed_by_hand(annotations):
    ground_truth = load_ground_truth(annotations)
    detections = detections_like(ground_truth, np.random.RandomState(0), [2, 9, 3, 4, 5, 12, 7])
    metrics = evaluate_coco(ground_truth, detections)
    assert metrics == by_pycocotools(annotations, detections)
    assert 0 < metrics.stats[0] < 1 and len(metrics.stats) == len(COCO_METRICS)
    assert [*metrics.per_class] == ["cat", "dog", "bird"]
    assert metrics.per_class["bird"] == metrics.per_class_50["bird"] == -1
    assert np.mean([metrics.per_class[n] for n in ("cat", "dog")]) == pytest.approx(
        metrics.stats[0]
    )


def test_ground_truth_of_a_data_set_is_that_of_its_file(annotations, tmp_path):
    """Boxes and areas as the file has them, whatever training makes of them."""
    content = json.loads(annotations.read_text())
    content["annotations"] += [
        {"id": 90, "image_id": 1, "category_id": 3, "bbox": [5, 5, 0, 9], "area": 0, "iscrowd": 0},
        {
            "id": 91,
            "image_id": 2,
            "category_id": 8,
            "bbox": [380, 5, 90, 40.5],
            "area": 999.5,
            "iscrowd": 0,
        },
    ]
    annotations.write_text(json.dumps(content))
    dataset = CocoDataset(tmp_path, annotations, EvalTransform(None))
    detections = detections_like(dataset.ground_truth, np.random.RandomState(3), range(1, 13))
    expected = by_pycocotools(annotations, detections)
    annotations.write_text("{")  # what was read is evaluated
    assert evaluate_coco(load_ground_truth(dataset), detections) == expected


def test_what_training_accepts_is_evaluated_alike(annotations):
    """Numbers as text, null and what is left out give what numbers give."""
    sound = load_ground_truth(annotations)
    detections = detections_like(sound, np.random.RandomState(4), range(1, 13))
    expected = evaluate_coco(sound, detections)
    content = json.loads(annotations.read_text())
    for record in content["annotations"]:
        record["id"] = f"uuid-{record['id']}"
        record["area"] = None
        record["iscrowd"] = str(record["iscrowd"]) if record["iscrowd"] else None
        record["bbox"] = [str(x) for x in record["bbox"]]
        record |= {"image_id": str(record["image_id"]), "category_id": float(record["category_id"])}
    annotations.write_text(json.dumps(content))
    assert evaluate_coco(load_ground_truth(annotations), detections) == expected


def test_errors_of_a_file_are_refused_before_anything_is_measured(annotations):
    content = json.loads(annotations.read_text())
    content["annotations"][0]["iscrowd"] = "perhaps"
    annotations.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"malformed annotation \(1\): .*iscrowd is 'perhaps'"):
        load_ground_truth(annotations)


def test_classes_of_one_name_are_told_apart(annotations):
    content = json.loads(annotations.read_text())
    content["categories"][1]["name"] = "cat"
    annotations.write_text(json.dumps(content))
    ground_truth = load_ground_truth(annotations)
    metrics = evaluate_coco(ground_truth, perfect(ground_truth))
    assert metrics.per_class == pytest.approx({"cat (3)": 1, "cat (8)": 1, "bird": -1})


def test_ground_truth_as_detections_gives_one(annotations):
    ground_truth = load_ground_truth(annotations)
    metrics = evaluate_coco(ground_truth, perfect(ground_truth))
    assert metrics.stats[:6] == pytest.approx([1.0] * 6)
    assert metrics.stats[8:] == pytest.approx([1.0] * 4)
    assert metrics.per_class == pytest.approx({"cat": 1, "dog": 1, "bird": -1})


def test_no_detections_give_zero(annotations):
    none = {"scores": [], "category_ids": [], "boxes": np.zeros((0, 4))}
    metrics = evaluate_coco(load_ground_truth(annotations), dict.fromkeys(range(1, 13), none))
    assert metrics.stats == [0.0] * 12
    assert metrics.per_class["cat"] == 0


def test_size_without_ground_truth_is_minus_one(annotations):
    content = json.loads(annotations.read_text())
    content["annotations"] = [
        {"image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 20]},
        {"image_id": 2, "category_id": 3, "bbox": [5, 5, 20, 20], "id": 0},
    ]
    annotations.write_text(json.dumps(content))
    ground_truth = load_ground_truth(annotations)  # without area, crowd mark and usable ids
    stats = dict(
        zip(COCO_METRICS, evaluate_coco(ground_truth, perfect(ground_truth)).stats, strict=True)
    )
    assert stats["AP"] == stats["APs"] == stats["ARs"] == pytest.approx(1)
    assert stats["APm"] == stats["APl"] == stats["ARm"] == stats["ARl"] == -1


def test_only_images_named_are_evaluated(annotations):
    ground_truth = load_ground_truth(annotations)
    named = np.unique(ground_truth.of_image)[:2].tolist()
    some = {i: d for i, d in perfect(ground_truth).items() if i in named}
    assert evaluate_coco(ground_truth, some).stats[0] == pytest.approx(1)
    with pytest.raises(ValueError, match=r"unknown image ids \[99\]"):
        evaluate_coco(ground_truth, {99: some[named[0]]})


@pytest.mark.parametrize(
    "broken, message",
    [
        ({"scores": [0.5, np.nan]}, "image 1 are not finite"),
        ({"boxes": [[0, 0, 9, 9], [0, 0, np.inf, 9]]}, "image 1 are not finite"),
        ({"scores": [0.5]}, "image 1 have .*'scores': 1.* expected as many of each"),
    ],
)
def test_detections_that_make_no_sense_are_refused(annotations, broken, message):
    sound = {"scores": [0.5, 0.4], "category_ids": [3, 3], "boxes": [[0, 0, 9, 9]] * 2}
    ground_truth = load_ground_truth(annotations)
    for measure in (evaluate_coco, error_kinds):
        measure(ground_truth, {1: sound})
        with pytest.raises(ValueError, match=message):
            measure(ground_truth, {1: sound | broken})


def test_evaluation_prints_nothing_and_takes_tensors(annotations, capsys):
    ground_truth = load_ground_truth(annotations)
    arrays = detections_like(ground_truth, np.random.RandomState(1), range(1, 13))
    before = {i: {k: v.copy() for k, v in d.items()} for i, d in arrays.items()}
    tensors = {i: {k: torch.as_tensor(v) for k, v in d.items()} for i, d in arrays.items()}
    assert evaluate_coco(ground_truth, tensors) == evaluate_coco(ground_truth, arrays)
    assert error_kinds(ground_truth, tensors) == error_kinds(ground_truth, arrays)
    assert capsys.readouterr() == ("", "")
    for image_id, found in before.items():  # what is measured stays as it is
        for name, values in found.items():
            np.testing.assert_array_equal(arrays[image_id][name], values)


def test_error_kinds_of_a_hand_made_case(annotations):
    content = json.loads(annotations.read_text())
    content["annotations"] = [
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 100, 100]},
        {"image_id": 1, "category_id": 8, "bbox": [200, 200, 100, 100]},
        {"image_id": 1, "category_id": 3, "bbox": [0, 300, 50, 50], "iscrowd": 1},
        {"image_id": 2, "category_id": 3, "bbox": [0, 0, 10, 10]},
    ]
    annotations.write_text(json.dumps(content))
    found = [  # score, class, box
        (0.9, 3, [0, 0, 100, 60]),  # correct, though the next one fits better
        (0.8, 3, [0, 0, 100, 100]),  # duplicate
        (0.7, 3, [200, 200, 300, 300]),  # wrong class
        (0.65, 8, [200, 200, 300, 230]),  # poor localisation: IoU 0.3
        (0.6, 11, [0, 0, 100, 40]),  # wrong class and place: IoU 0.4
        (0.55, 3, [390, 390, 399, 399]),  # background
        (0.49, 8, [200, 200, 300, 300]),  # right, but below the threshold
    ]
    scores, classes, boxes = zip(*found[::-1], strict=True)
    none = {"scores": [], "category_ids": [], "boxes": []}
    kinds = error_kinds(
        load_ground_truth(annotations),
        {1: {"scores": scores, "category_ids": classes, "boxes": boxes}, 2: none, 3: none},
    )
    assert kinds == dict.fromkeys(ERROR_KINDS, 1) | {"missed": 2}


def test_error_kinds_of_perfect_detections_are_correct(annotations):
    ground_truth = load_ground_truth(annotations)
    kinds = error_kinds(ground_truth, perfect(ground_truth))
    true = (~ground_truth.crowd).sum()
    assert kinds == dict.fromkeys(ERROR_KINDS, 0) | {"correct": true}


def test_spread_tells_boxes_that_are_alike_from_boxes_that_look(annotations):
    ground_truth = load_ground_truth(annotations)
    queries = np.arange(5)
    alike = np.tile([100.0, 100.0, 300.0, 300.0], (5, 1))
    same = {i: {"boxes": alike, "queries": queries} for i in (1, 2, 3)}
    assert box_spread(ground_truth, same) == {"queries": 0.0, "images": 0.0}
    fixed = alike + queries[:, None] * 40  # queries differ, but look at no image
    tensors = {"boxes": torch.from_numpy(fixed), "queries": torch.from_numpy(queries)}
    spread = box_spread(ground_truth, dict.fromkeys((1, 2), tensors))
    assert spread == pytest.approx({"queries": 0.1 * 2**0.5, "images": 0.0})
    moved = {i: {"boxes": fixed - 80 * (i - 1), "queries": queries} for i in (1, 2)}
    assert box_spread(ground_truth, moved)["images"] == pytest.approx(0.1)
    # Detections by score, a query more than once: the query counts, not the place.
    order = np.array([4, 0, 2, 1, 3, 0])
    moved[2] = {"boxes": moved[2]["boxes"][order], "queries": order}
    assert box_spread(ground_truth, moved)["images"] == pytest.approx(0.1)
    second = (ground_truth.image_ids == 2)[:, None]
    narrow = replace(ground_truth, image_sizes=np.where(second, [200, 400], 400))
    assert box_spread(narrow, moved)["images"] != pytest.approx(0.1)  # of each image's own sides
    unsized = replace(ground_truth, image_sizes=np.where(second, np.nan, 400))
    with pytest.raises(ValueError, match="1 images have no width and height on record, such as 2"):
        box_spread(unsized, moved)
