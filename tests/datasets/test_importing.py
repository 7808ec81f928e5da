"""Other tools' data sets come in whole, or what is lost of them is said."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detrnb import Config
from detrnb.commands import main
from detrnb.datasets import check, import_data, open_split, with_classes

WIDTH, HEIGHT = 64, 48


def draw(file: Path, mode: str = "RGB", size: tuple[int, int] = (WIDTH, HEIGHT), **kwargs) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, file.name))
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels)
    if mode == "RGBA":
        image.putalpha(200)
    (image.convert("P") if mode == "P" else image).save(file, **kwargs)


def yolo(root: Path, labels: dict[str, str | None], settings: str | None = None) -> Path:
    """A YOLO folder: labels by `split/name.suffix` of the image, None for no file."""
    for name, text in labels.items():
        image = root / "images" / name
        draw(image, {"rgba.png": "RGBA", "palette.png": "P"}.get(image.name, "RGB"))
        if text is not None:
            label = (root / "labels" / name).with_suffix(".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(text)
    if settings is None:
        settings = "train: images/train\nval: images/val\nnames: [red cell, white cell]\n"
    if settings:
        (root / "data.yaml").write_text(settings)
    return root


def boxes(folder: Path, split: str = "train2017") -> dict[str, list[dict]]:
    """File name -> its annotations, without ids."""
    content = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    found = {name: [] for name in names.values()}
    for record in content["annotations"]:
        found[names[record["image_id"]]].append(record)
    return found


def categories(folder: Path) -> list[dict]:
    file = folder / "annotations" / "instances_train2017.json"
    return json.loads(file.read_text())["categories"]


def test_yolo_comes_in_whole(tmp_path):
    labels = {
        "train/plain.jpg": "0 0.5 0.5 0.25 0.5\n\n1 0.25 0.25 0.1 0.1\n",
        "train/with spaces.jpg": "1 0.5 0.5 0.5 0.5\n",
        "train/rgba.png": "0.0 0.5 0.5 0.5 0.5\n",
        "train/palette.png": "0 0.5 0.5 0.5 0.5\n",
        "train/empty.jpg": "",
        "train/none.jpg": None,
        "val/one.jpg": "1 0.5 0.5 1 1",
    }
    imported = import_data(yolo(tmp_path / "from", labels), tmp_path / "to")
    found = boxes(tmp_path / "to")
    assert found["plain.jpg"][0]["bbox"] == [24, 12, 16, 24]
    assert [record["category_id"] for record in found["plain.jpg"]] == [0, 1]
    assert found["rgba.png"][0]["bbox"] == [16, 12, 32, 24]
    assert found["rgba.png"][0]["category_id"] == 0
    assert found["empty.jpg"] == found["none.jpg"] == []
    assert [entry["name"] for entry in categories(tmp_path / "to")] == ["red cell", "white cell"]
    assert imported.counts["train2017"] == {"red cell": (3, 3), "white cell": (2, 2)}
    assert imported.counts["val2017"] == {"red cell": (0, 0), "white cell": (1, 1)}
    assert not imported.lost
    assert "without a label file: taken as one without objects (1): none.jpg" in str(imported)
    assert not check(tmp_path / "to", images=True).errors
    config = Config.preset(
        "toy", overrides={"data.path": str(tmp_path / "to"), "data.toy": None} | CLASSES
    )
    assert with_classes(config).model.num_classes == 2
    image, target = open_split(config.data, "train2017")[0]
    assert image.shape == (3, HEIGHT, WIDTH)
    assert len(open_split(config.data, "train2017")) == 6


CLASSES = {"model.num_classes": None}


def test_outlines_are_named_as_what_they_are_and_kept(tmp_path):
    labels = {  # the second's corners make right angles in pixels
        "train/polygon.jpg": "1 0.25 0.25 0.5 0.25 0.5 0.5 0.375 0.75 0.25 0.5\n",
        "train/rotated.jpg": "0 0.5 0.25 0.625 0.5 0.34375 0.75 0.21875 0.5\n",
    }
    imported = import_data(yolo(tmp_path / "from", labels), tmp_path / "to")
    said = str(imported)
    assert "polygon: its bounds are the box, its outline is kept (1): polygon.txt, line 1" in said
    assert "rotated box: its bounds are the box, its outline is kept (1): rotated.txt" in said
    polygon, rotated = (boxes(tmp_path / "to")[f"{name}.jpg"][0] for name in ("polygon", "rotated"))
    assert polygon["bbox"] == [16, 12, 16, 24]
    assert polygon["segmentation"] == [[16, 12, 32, 12, 32, 24, 24, 36, 16, 24]]
    assert polygon["area"] == 16 * 12 + 16 * 12 / 2
    assert rotated["bbox"] == [14, 12, 26, 24]
    assert rotated["area"] == 312


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2 0.5 0.5 0.1 0.1", "class 2, and there are 2 names"),
        ("0 0.5 0.5 0.1", "4 numbers; expected 5"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 numbers, the last of which looks like a score"),
        ("0 32 24 10 10", "32 is no share of the image; pixels?"),
        ("cell 0.5 0.5 0.1 0.1", "could not convert"),
        ("0 nan 0.5 0.1 0.1", "a number is not finite"),
    ],
)
def test_a_line_that_is_no_object_is_dropped_aloud(line, reason, tmp_path, capsys):
    text = f"0 0.5 0.5 0.5 0.5\n{line}\n"
    source = yolo(tmp_path / "from", {"train/a.jpg": text, "train/b.jpg": "1 0.5 0.5 0.5 0.5"})
    assert main(["data", "import", str(source), str(tmp_path / "to")]) == 1
    shown = capsys.readouterr().out
    assert f"line that is no object (1): a.txt, line 2: {reason}" in shown
    assert len(boxes(tmp_path / "to")["a.jpg"]) == 1


def test_labels_without_an_image_and_broken_images_are_dropped_aloud(tmp_path):
    labels = dict.fromkeys(("train/a.jpg", "b.jpg"), "0 0.5 0.5 0.5 0.5")
    source = yolo(tmp_path / "from", labels)
    (source / "images" / "b.jpg").unlink()
    broken = source / "images" / "train" / "c.jpg"
    broken.write_bytes(b"\xff\xd8 cut")
    (source / "labels" / "train" / "c.txt").write_text("1 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1\n")
    imported = import_data(source, tmp_path / "to")
    assert imported.lost
    assert imported.counts["train2017"] == {"red cell": (2, 1), "white cell": (1, 0)}
    assert "image that cannot be opened (1): c.jpg, objects: 2" in str(imported)
    assert f"label file without an image of its split (1): {Path('labels/b.txt')}, 1" in str(
        imported
    )


@pytest.mark.parametrize(
    ("settings", "folders"),
    [
        ("train: ../train/images\nval: ../valid/images\nnames: [a, b]\n", ("train", "valid")),
        ("path: /content/set\ntrain: train/images\nval: valid/images\nnames: [a, b]\n", 2 * ("",)),
        ("train: C:\\set\\train\\images\nval: valid/images\nnames: {0: a, 1: b}\n", 2 * ("",)),
    ],
)
def test_paths_of_a_data_yaml_may_be_another_machines(settings, folders, tmp_path):
    root = tmp_path / "from"
    for split in ("train", "valid"):  # as Roboflow exports it
        draw(root / split / "images" / f"{split}.jpg")
        (root / split / "labels").mkdir()
        (root / split / "labels" / f"{split}.txt").write_text("1 0.5 0.5 0.5 0.5")
    (root / "data.yaml").write_text(settings)
    import_data(root, tmp_path / "to")
    assert [*boxes(tmp_path / "to")] == ["train.jpg"]
    assert [*boxes(tmp_path / "to", "val2017")] == ["valid.jpg"]
    assert boxes(tmp_path / "to")["train.jpg"][0]["category_id"] == 1


def test_coco_as_yolo_keeps_it_is_found_where_a_data_yaml_names_another_machine(tmp_path):
    labels = {f"{split}/{split}.jpg": "0 0.5 0.5 0.5 0.5" for split in ("train2017", "val2017")}
    settings = "train: /other/coco/images/train2017\nval: /other/coco/images/val2017\nnames: [a]\n"
    import_data(yolo(tmp_path / "from", labels, settings), tmp_path / "to")
    assert [*boxes(tmp_path / "to")] == ["train2017.jpg"]
    assert [*boxes(tmp_path / "to", "val2017")] == ["val2017.jpg"]


@pytest.mark.parametrize("layout", ["yolo", "voc"])
def test_folders_that_name_a_split_with_its_year_are_that_split(layout, tmp_path):
    source = tmp_path / "from"
    for split in ("train2017", "val2017", "Test_2012", "else"):
        image = source / "images" / split / f"{split}.jpg"
        draw(image)
        if layout == "yolo":
            label = source / "labels" / split / f"{split}.txt"
            label.parent.mkdir(parents=True)
            label.write_text("0 0.5 0.5 0.5 0.5\n")
        else:
            text = voc_xml(image.name, voc_object("cat", (1, 1, 10, 10)))
            image.with_suffix(".xml").write_text(text)
    imported = import_data(source, tmp_path / "to")
    assert [*boxes(tmp_path / "to")] == ["else.jpg", "train2017.jpg"]
    assert [*boxes(tmp_path / "to", "val2017")] == ["val2017.jpg"]
    assert [*boxes(tmp_path / "to", "test2017")] == ["Test_2012.jpg"]
    assert "names a split: taken for training (1): images/else/else" in str(imported)


def test_darknet_lists_and_labels_beside_images_are_read(tmp_path):
    root = tmp_path / "from"
    for name in ("a", "b"):
        draw(root / f"{name}.jpg")
        (root / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5")
    (root / "obj.names").write_text("thing\n")
    import_data(root, tmp_path / "to")
    assert [*boxes(tmp_path / "to")] == ["a.jpg", "b.jpg"]
    (root / "data.yaml").write_text("train: train.txt\nnames: [thing]\n")
    (root / "train.txt").write_text("./b.jpg\n./gone.jpg\n")
    imported = import_data(root, tmp_path / "other")
    assert [*boxes(tmp_path / "other")] == ["b.jpg"]
    assert "listed in train.txt, not there (1): ./gone.jpg" in str(imported)


def test_classes_without_names_are_called_by_their_numbers_aloud(tmp_path):
    source = yolo(tmp_path / "from", {"train/a.jpg": "1 0.5 0.5 0.5 0.5"}, settings="")
    imported = import_data(source, tmp_path / "to")
    assert [entry["name"] for entry in categories(tmp_path / "to")] == ["0", "1"]
    assert "no names of classes found" in str(imported)


def test_poses_come_in_as_boxes_and_that_is_said(tmp_path):
    settings = "train: images/train\nnames: [person]\nkpt_shape: [2, 3]\n"
    line = "0 0.5 0.5 0.5 0.5 0.1 0.1 2 0.2 0.2 1"
    imported = import_data(
        yolo(tmp_path / "from", {"train/a.jpg": line}, settings), tmp_path / "to"
    )
    assert boxes(tmp_path / "to")["a.jpg"][0]["bbox"] == [16, 12, 32, 24]
    assert "keypoints: only the boxes are taken" in str(imported)


def test_shares_are_of_the_image_as_exif_turns_it(tmp_path):
    source = yolo(tmp_path / "from", {"train/a.jpg": "0 0.5 0.25 1 0.5", "train/b.jpg": ""})
    exif = Image.Exif()
    for name, turn in (("a", 6), ("b", 3)):
        exif[0x0112] = turn
        draw(source / "images" / "train" / f"{name}.jpg", exif=exif)
    imported = import_data(source, tmp_path / "to")
    assert boxes(tmp_path / "to")["a.jpg"][0]["bbox"] == [0, 0, HEIGHT, WIDTH / 2]
    assert "EXIF turns and whose sides do not tell" in str(imported)
    assert "upright (1): b.jpg" in str(imported)
    report = check(tmp_path / "to", images=True)
    assert not report.errors


def voc_xml(
    name: str, objects: str, size: str = f"<width>{WIDTH}</width><height>{HEIGHT}</height>"
):
    return (
        f"<annotation><filename>{name}</filename><size>{size}<depth>3</depth></size>"
        f"{objects}</annotation>"
    )


def voc_object(name: str, corners: tuple, extra: str = "<difficult>0</difficult>") -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    inner = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name>{extra}<bndbox>{inner}</bndbox></object>"


def voc(root: Path, objects: dict[str, str], lists: dict[str, list[str]]) -> Path:
    """A VOC folder: objects by image, names of ImageSets/Main."""
    for name, inside in objects.items():
        image = root / "JPEGImages" / name
        draw(image, {"rgba.png": "RGBA", "palette.png": "P"}.get(name, "RGB"))
        xml = root / "Annotations" / f"{image.stem}.xml"
        xml.parent.mkdir(exist_ok=True)
        xml.write_text(voc_xml(name, inside))
    for name, stems in lists.items():
        file = root / "ImageSets" / "Main" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(stems) + "\n")
    return root


def test_voc_comes_in_whole(tmp_path):
    objects = {
        "a.jpg": voc_object("cat", (1, 1, WIDTH, HEIGHT))
        + voc_object("dog", ("10.75", "5.25", "20.5", "30.125"), "<difficult>1</difficult>"),
        "with spaces.jpg": voc_object("dog", (3, 4, 10, 12), "<truncated>1</truncated>"),
        "rgba.png": voc_object("dog", (3, 4, 10, 12)),
        "palette.png": voc_object("dog", (3, 4, 10, 12)),
        "none.jpg": "",
        "v.jpg": voc_object("cat", (2, 2, 9, 9)),
    }
    lists = {"train": ["a", "with spaces", "rgba", "palette", "none"], "val": ["v"]}
    lists |= {"trainval": [*lists["train"], "v"], "cat_train": ["a  1"]}
    imported = import_data(voc(tmp_path / "from", objects, lists), tmp_path / "to")
    found = boxes(tmp_path / "to")
    assert found["a.jpg"][0]["bbox"] == [0, 0, WIDTH, HEIGHT]
    assert found["a.jpg"][1]["bbox"] == [9.75, 4.25, 10.75, 25.875]
    assert found["a.jpg"][1]["difficult"] == found["a.jpg"][1]["iscrowd"] == 1
    assert found["a.jpg"][0]["difficult"] == found["a.jpg"][0]["iscrowd"] == 0
    assert found["with spaces.jpg"][0]["truncated"] == 1
    assert found["none.jpg"] == []
    assert [*boxes(tmp_path / "to", "val2017")] == ["v.jpg"]
    assert imported.counts["train2017"] == {"cat": (1, 1), "dog": (4, 4)}
    assert "coordinates count from 1" in str(imported)
    assert "difficult: marked so, and as crowd" in str(imported)
    assert not imported.lost
    assert not check(tmp_path / "to", images=True).errors


def test_voc_files_that_count_from_0_are_taken_as_they_are_and_that_is_said(tmp_path):
    objects = {"a.jpg": voc_object("cat", (0, 3, 10, 12)), "b.jpg": voc_object("cat", (5, 5, 9, 9))}
    imported = import_data(voc(tmp_path / "from", objects, {"train": ["a", "b"]}), tmp_path / "to")
    assert boxes(tmp_path / "to")["a.jpg"][0]["bbox"] == [0, 3, 10, 9]
    assert boxes(tmp_path / "to")["b.jpg"][0]["bbox"] == [5, 5, 4, 4]
    assert "count from 0, unlike Pascal VOC's: taken as they are (1): a.xml has cat" in str(
        imported
    )


def test_voc_files_beside_their_images_are_read_by_folder(tmp_path):
    root = tmp_path / "from"
    for split in ("train", "valid"):
        draw(root / split / "same.jpg", size=(WIDTH, HEIGHT if split == "train" else HEIGHT + 1))
        xml = root / split / "same.xml"
        xml.write_text(voc_xml("else.jpg", voc_object("cat", (1, 1, 10, 10)), size=""))
    imported = import_data(root, tmp_path / "to")
    assert "size missing in the XML file: it is the image's (2)" in str(imported)
    content = json.loads((tmp_path / "to/annotations/instances_val2017.json").read_text())
    assert content["images"][0]["height"] == HEIGHT + 1


def test_images_that_no_voc_file_is_of_are_dropped_aloud(tmp_path):
    source = voc(tmp_path / "from", {"a.jpg": voc_object("cat", (2, 2, 9, 9))}, {})
    (source / "Annotations" / "a.xml").rename(source / "JPEGImages" / "a.xml")
    draw(source / "JPEGImages" / "lone.jpg")
    draw(source / "others" / "a.jpg")  # of the same name, and the other one is the file's
    draw(source / "SegmentationClass" / "a.png")
    imported = import_data(source, tmp_path / "to")
    assert [*boxes(tmp_path / "to")] == ["a.jpg"]
    assert "without an XML file (2): JPEGImages/lone.jpg; others/a.jpg" in str(imported)


def test_what_voc_lacks_is_dropped_aloud(tmp_path):
    lone = "<object><name>cat</name><robndbox><cx>5</cx></robndbox></object>"
    objects = {
        "a.jpg": voc_object("cat", (2, 2, 9, 9)) + lone,
        "b.jpg": "",
        "c.jpg": "",
        "d.jpg": "",
    }
    source = voc(tmp_path / "from", objects, {"train": ["a", "b", "c", "gone"]})
    (source / "JPEGImages" / "b.jpg").unlink()
    (source / "Annotations" / "c.xml").write_text("<annotation><object>")
    imported = import_data(source, tmp_path / "to")
    assert imported.counts["train2017"] == {"cat": (2, 1)}
    for line in (
        "object without a box (1): a.xml, object 2: it has no bndbox, but robndbox",
        "XML file without an image (1): b.xml",
        "file that is no XML of an annotation (1): c.xml",
        "image of train.txt without an XML file (1): gone",
        "XML file in no list of ImageSets/Main (1): d.xml",
    ):
        assert line in str(imported)


def test_images_are_linked_or_copied_where_that_cannot_be(tmp_path, monkeypatch):
    source = yolo(tmp_path / "from", {"train/a.jpg": "0 0.5 0.5 0.5 0.5"})
    imported = import_data(source, tmp_path / "to")
    original, linked = source / "images/train/a.jpg", tmp_path / "to/train2017/a.jpg"
    assert os.path.samefile(original, linked)
    assert "1 images linked" in str(imported)

    def refuse(*args: object) -> None:
        raise OSError("links are not known here")

    monkeypatch.setattr(os, "link", refuse)
    imported = import_data(source, tmp_path / "copied")
    copy = tmp_path / "copied/train2017/a.jpg"
    assert copy.read_bytes() == original.read_bytes()
    assert not os.path.samefile(original, copy)
    assert "0 images linked, 1 copied, since the file system does not link" in str(imported)


def test_images_of_one_name_in_two_folders_are_both_there(tmp_path):
    labels = {f"train/{place}/a.jpg": f"{kind} 0.5 0.5 0.5 0.5" for kind, place in enumerate("xy")}
    import_data(yolo(tmp_path / "from", labels), tmp_path / "to")
    found = {name: records[0]["category_id"] for name, records in boxes(tmp_path / "to").items()}
    assert found == {"x/a.jpg": 0, "y/a.jpg": 1}
    assert not check(tmp_path / "to").errors


def test_a_folder_that_is_there_is_not_written_into_and_a_failure_leaves_none(
    tmp_path, monkeypatch
):
    source = yolo(tmp_path / "from", {"train/a.jpg": "0 0.5 0.5 0.5 0.5"})
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "mine").touch()
    with pytest.raises(ValueError, match="is there already; give a new folder"):
        import_data(source, tmp_path / "to")
    monkeypatch.setattr(json, "dumps", lambda content: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        import_data(source, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["from", "to"]
