"""What a folder of data is told from: COCO's, Roboflow's, and a sentence for all else."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detrnb.commands import main
from detrnb.datasets import check, import_data, open_split, read_annotations
from detrnb.settings import Config

GROUP = {"id": 0, "name": "cells", "supercategory": "none"}
CLASSES = [
    {"id": i, "name": name, "supercategory": "cells"} for i, name in ((1, "red"), (2, "white"))
]


def draw(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(sum(map(ord, str(file)))).integers(0, 255, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(file)


def roboflow(root: Path, used: dict[str, list[int]], categories: list[dict]) -> Path:
    """A COCO folder as Roboflow exports it: an image a split, with a box of each category id."""
    for split, ids in used.items():
        draw(root / split / f"{split}_jpg.rf.0a1b.jpg")
        boxes = [
            {"id": i, "image_id": 0, "category_id": kind, "bbox": [4, 5, 20, 10], "area": 200}
            for i, kind in enumerate(ids)
        ]
        image = {"id": 0, "file_name": f"{split}_jpg.rf.0a1b.jpg", "width": 40, "height": 30}
        content = {"images": [image], "annotations": boxes, "categories": categories}
        (root / split / "_annotations.coco.json").write_text(json.dumps(content))
    return root


def config(root: Path, **splits: str) -> Config:
    names = {f"data.{key}_split": name for key, name in splits.items()}
    stated = {"data.path": str(root), "data.toy": None, "model.num_classes": None}
    return Config.preset("toy", overrides=stated | names)


def test_roboflows_folders_are_checked_and_opened_as_they_are(tmp_path, capsys):
    root = roboflow(tmp_path / "set", {"valid": [2], "train": [1, 2]}, [GROUP, *CLASSES])
    assert main(["data", str(root), "--images"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("train: 1 images, 0 without boxes; 2 boxes of 2 of 2 classes")
    assert "valid: 1 images" in shown
    assert "category 0 (cells), to which no annotation of any split refers" in shown
    data = config(root, train="train", val="valid").data
    dataset = open_split(data, "train")
    assert dataset.class_names == ("red", "white")
    assert dataset[0][1]["labels"].tolist() == [0, 1]
    with pytest.raises(
        ValueError, match=r"splits train, valid and no 'train2017'; set data\.train"
    ):
        open_split(data, "train2017")


@pytest.mark.parametrize("where", ["train", "valid"])
def test_category_0_stays_in_every_split_where_one_annotation_refers_to_it(where, tmp_path):
    used = {"train": [1, 2], "valid": [2]}
    root = roboflow(tmp_path / "set", used | {where: [0, 1, 2]}, [GROUP, *CLASSES])
    for split in used:
        found = read_annotations(root / split / "_annotations.coco.json")
        assert [name for _, name in found.categories] == ["cells", "red", "white"]
    assert not check(root).errors


def test_category_0_stays_where_it_is_the_only_one_or_the_file_is_not_roboflows(tmp_path):
    root = roboflow(tmp_path / "set", {"train": []}, [GROUP])
    file = root / "train" / "_annotations.coco.json"
    assert read_annotations(file).categories == ((0, "cells"),)
    other = file.with_name("instances.json")
    other.write_text(json.dumps({"images": [], "annotations": [], "categories": [GROUP, *CLASSES]}))
    assert len(read_annotations(other).categories) == 3


FOREIGN = {
    "YOLO's: `detrnb data import`": ("a.txt", "0 0.5 0.5 0.1 0.1"),
    "Pascal VOC's: `detrnb data import`": ("a.xml", "<annotation><object/></annotation>"),
    "CVAT's XML": ("annotations.xml", "<annotations><image/></annotations>"),
    "LabelMe's": ("a.json", '{"version": "5", "shapes": [], "imagePath": "a.jpg"}'),
    "CreateML's": ("a.json", '[{"image": "a.jpg", "annotations": [{"coordinates": {}}]}]'),
    "VIA's": ("via.json", '{"a": {"regions": [{"shape_attributes": {}}]}}'),
    "a COCO file in another place": (
        "result.json",
        '{"images": [], "annotations": [], "categories": []}',
    ),
    "a table of boxes": ("_annotations.csv", "filename,width"),
    "TensorFlow's records": ("a.tfrecord", ""),
    "Hugging Face's": ("train.parquet", ""),
    "KITTI's, DOTA's": ("a.txt", "Car 0.00 0 -1.58 587 173 614 200"),
    "images without boxes": ("class/b.jpg", None),
}


@pytest.mark.parametrize("sentence", FOREIGN)
def test_other_folders_get_a_sentence_on_what_they_look_like(sentence, tmp_path, capsys):
    name, text = FOREIGN[sentence]
    root = tmp_path / "set"
    draw(root / "a.jpg")
    if text is not None:
        (root / name).write_text(text)
    assert main(["data", str(root)]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"{root} looks like") or shown.startswith(f"{root} holds")
    assert sentence in shown
    if "import" not in sentence:
        with pytest.raises(ValueError, match=sentence.split("`")[0].strip()):
            import_data(root, tmp_path / "to")
    with pytest.raises(ValueError, match=sentence.split("`")[0].strip()):
        open_split(config(root).data, "train2017")


@pytest.mark.parametrize(
    ("name", "sentence"), [("set.zip", "is an archive: unpack it"), ("a.json", "is a file: give")]
)
def test_a_file_in_place_of_a_folder_is_named_as_one(name, sentence, tmp_path, capsys):
    (tmp_path / name).touch()
    assert main(["data", str(tmp_path / name)]) == 1
    assert sentence in capsys.readouterr().err


def test_what_needs_no_import_says_so(tmp_path):
    root = roboflow(tmp_path / "set", {"train": [1]}, [GROUP, *CLASSES])
    with pytest.raises(ValueError, match="needs no import: its splits"):
        import_data(root, tmp_path / "to")
