"""Which scores to believe: judged by hand, kept with the best weights."""

import json
from pathlib import Path

import numpy as np
import pytest

from detrnb import Config, fit, load_run
from detrnb.datasets import CocoDataset, EvalTransform
from detrnb.plots import plot_thresholds
from detrnb.runs import RunFolder
from detrnb.training.predicting import level
from detrnb.training.thresholds import thresholds

CATEGORIES = [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}, {"id": 11, "name": "eel"}]


def dataset(folder: Path, *annotations: tuple) -> CocoDataset:
    """Annotations as image id, category id, bbox and whether a crowd."""
    records = [
        {"id": i, "image_id": image, "category_id": kind, "bbox": box, "iscrowd": crowd}
        for i, (image, kind, box, crowd) in enumerate(annotations, start=1)
    ]
    images = [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 100} for i in (1, 2)]
    content = {"images": images, "annotations": records, "categories": CATEGORIES}
    file = folder / "val.json"
    file.write_text(json.dumps(content))
    return CocoDataset(folder, file, EvalTransform(None))


def found(*rows: tuple) -> dict:
    """Detections as category id, score and xyxy box."""
    return {
        "category_ids": np.array([row[0] for row in rows], dtype=int),
        "scores": np.array([row[1] for row in rows], dtype=np.float32),
        "boxes": np.array([row[2] for row in rows], dtype=np.float32).reshape(-1, 4),
    }


BOX, ELSEWHERE = [10, 10, 30, 30], [50, 50, 90, 90]  # xyxy


def test_the_best_threshold_lies_where_f1_is_best(tmp_path):
    data = dataset(
        tmp_path,
        (1, 5, [10, 10, 20, 20], 0),
        (1, 9, [10, 10, 20, 20], 0),
        (2, 5, [10, 10, 20, 20], 0),
    )
    detections = {
        1: found((5, 0.9, BOX), (5, 0.8, BOX), (9, 0.3, BOX)),  # the second is a duplicate
        2: found((5, 0.6, BOX), (5, 0.5, ELSEWHERE), (11, 0.2, BOX)),
    }
    kept = thresholds(data, detections, epoch=3)
    cat = kept["classes"]["cat"]
    # At 0.6: 2 of 3 right, 2 of 2 found, F1 4/5; half way to the next score below.
    assert cat["threshold"] == pytest.approx((0.6 + 0.5) / 2)
    assert (cat["precision"], cat["recall"], cat["f1"]) == pytest.approx((2 / 3, 1, 0.8))
    assert kept["classes"]["dog"]["threshold"] == pytest.approx(0.3)
    assert kept["classes"]["eel"] == {
        "threshold": None, "f1": None, "precision": None, "recall": None, "objects": 0
    }  # fmt: skip
    overall = kept["overall"]
    # At 0.3 all 3 found, of 5: F1 6/8; at 0.6 2 of 3, of 3: F1 4/6.
    assert overall["threshold"] == pytest.approx((0.3 + 0.2) / 2)
    assert overall["f1"] == pytest.approx(6 / 8)
    curve = kept["curve"]
    assert curve["score"][70] == 0.7
    assert curve["precision"][70] == 1 / 2 and curve["recall"][70] == pytest.approx(1 / 3)
    assert curve["precision"][95] == 1 and curve["recall"][95] == 0
    assert kept["epoch"] == 3
    json.dumps(kept)
    plot_thresholds(kept)


def test_an_object_is_found_once_and_the_surest_takes_it(tmp_path):
    data = dataset(tmp_path, (1, 5, [10, 10, 20, 20], 0), (1, 5, [14, 10, 20, 20], 0))
    shifted = [14, 10, 34, 30]
    kept = thresholds(data, {1: found((5, 0.9, BOX), (5, 0.8, shifted))}, None)
    assert kept["overall"]["f1"] == 1
    kept = thresholds(data, {1: found((5, 0.9, BOX), (5, 0.8, BOX), (5, 0.7, BOX))}, None)
    assert kept["overall"]["precision"] == 1  # the second overlaps the other object by 2/3


def test_crowds_neither_count_nor_forbid(tmp_path):
    data = dataset(tmp_path, (1, 5, [10, 10, 20, 20], 0), (1, 5, [40, 40, 60, 60], 1))
    detections = {1: found((5, 0.9, ELSEWHERE), (5, 0.8, BOX), (5, 0.7, [0, 60, 20, 80]))}
    kept = thresholds(data, detections, None)
    assert (kept["overall"]["f1"], kept["overall"]["objects"]) == (1, 1)
    assert kept["overall"]["threshold"] == pytest.approx(0.75)


@pytest.mark.parametrize("nothing", [{}, {1: found()}, {1: found((5, 0.9, ELSEWHERE))}])
def test_where_nothing_right_is_found_no_threshold_is_best(nothing, tmp_path):
    kept = thresholds(dataset(tmp_path, (1, 5, [10, 10, 20, 20], 0)), nothing, None)
    assert kept["overall"]["threshold"] is None
    plot_thresholds(kept)
    with pytest.raises(ValueError, match=r"val.json nothing right was found.* such as 0.5"):
        level("best", kept)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, "all"])
def test_other_thresholds_are_refused(threshold):
    with pytest.raises(ValueError, match="expected a score"):
        level(threshold, {})


def test_each_class_has_its_own_where_it_has_one(tmp_path):
    data = dataset(tmp_path, (1, 5, [10, 10, 20, 20], 0), (1, 9, [10, 10, 20, 20], 0))
    kept = thresholds(data, {1: found((5, 0.9, BOX), (9, 0.4, BOX))}, None)
    assert level("class", kept).of(("cat", "dog", "eel")).tolist() == pytest.approx([0.9, 0.4, 0.4])
    assert level("best", kept).of(("cat", "dog", "eel")).tolist() == pytest.approx([0.4] * 3)
    assert "so that elsewhere it will be lower" in level("best", kept).about


def test_a_run_keeps_the_thresholds_of_its_best_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {"data.toy.num_images": (16, 8, 4), "train.batch_size": 8, "train.epochs": 3}
    run = fit(Config.preset("smoke", overrides=small), name="small")
    best = load_run(run.path, "best")
    kept = RunFolder(run.path).read_thresholds()
    assert kept["epoch"] == best.epoch == int(run.log["AP"].idxmax())
    assert best.thresholds == kept
    (run.path / "thresholds.json").unlink()
    again = best.thresholds  # by evaluating anew
    assert again == kept
    assert not (run.path / "thresholds.json").exists()
