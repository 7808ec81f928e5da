"""Splits by layout or by name, and what a config takes from them."""

import json

import pytest
from PIL import Image

from detrnb.datasets.splits import check_splits, has_split, open_split, split_paths, with_classes
from detrnb.settings.config import Config


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder to run in, with two photographs in one folder, each in a file of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number, split in ((1, "training"), (2, "held_out")):
        Image.new("RGB", (20, 10), number).save(tmp_path / "photos" / f"{number}.png")
        write(tmp_path / f"{split}.json", number)
    return tmp_path


def write(file, number, **changes):
    content = {
        "images": [{"id": number, "file_name": f"{number}.png", "width": 20, "height": 10}],
        "annotations": [
            {"id": 1, "image_id": number, "category_id": category, "bbox": [1, 2, 5, 5]}
            for category in (4, 17)
        ],
        "categories": [{"id": 4, "name": "cat"}, {"id": 17, "name": "dog"}],
    }
    content["annotations"][1]["id"] = 2
    file.write_text(json.dumps(content | changes))


def config(**overrides: object) -> Config:
    splits = {"train2017": ("photos", "training.json"), "val2017": ("photos", "held_out.json")}
    return Config.preset("coco", overrides={"data.splits": splits, **overrides})


def test_a_split_is_where_the_config_says_or_in_coco_layout(project):
    data = config().data
    assert split_paths(data, "val2017") == (project / "photos", project / "held_out.json")
    assert open_split(data, "val2017").image_ids.tolist() == [2]
    with pytest.raises(ValueError, match=r"test2017 not found; .* Expected COCO layout"):
        split_paths(data, "test2017")
    (project / "held_out.json").unlink()
    with pytest.raises(
        ValueError, match=r"held_out\.json not found, which data\.splits has for 'val2017'"
    ):
        open_split(data, "val2017")
    assert has_split(data, "train2017") and not has_split(data, "val2017")


def test_splits_named_one_by_one_need_no_toy_set(project):
    toy = Config.preset("smoke", overrides={"data.splits.val2017": ("photos", "held_out.json")})
    assert len(open_split(toy.data, "val2017")) == 1
    assert not (project / "data").exists()


def test_classes_are_those_of_the_training_file(project):
    asked = config(**{"model.num_classes": None})
    assert with_classes(asked).model.num_classes == 18  # labels are category ids
    contiguous = {"data.contiguous_labels": True}
    assert with_classes(config(**{"model.num_classes": None, **contiguous})) == config(
        **{"model.num_classes": 2, **contiguous}
    )
    write(project / "training.json", 1, categories=[])
    with pytest.raises(ValueError, match=r"training\.json: its list 'categories' is empty"):
        with_classes(asked)
    assert with_classes(config()).model.num_classes == 91  # given; nothing is read


def test_a_config_is_checked_with_its_model(project):
    assert check_splits(config()).faults == ()  # a file with some of COCO's ids, a model of all
    said = check_splits(config(**{"model.num_classes": 17, "model.num_queries": 1}))
    assert [(f.where, f.kind) for f in said.errors] == [
        (split, "other classes than the model's") for split in ("train2017", "val2017")
    ]
    assert {f.kind for f in said.warnings} == {"more boxes in an image than queries"}


def test_validating_on_the_training_split_is_a_choice_not_a_fault(project):
    assert check_splits(config(**{"data.val_split": "train2017"})).faults == ()
