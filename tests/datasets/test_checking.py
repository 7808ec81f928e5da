"""Every planted fault is found, in one pass, and nothing in a clean data set."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detrnb.commands import main
from detrnb.datasets.checking import Report, check
from detrnb.datasets.coco import CocoDataset, coco_splits
from detrnb.datasets.faults import ERRORS, WARNINGS
from detrnb.datasets.transforms import EvalTransform

NAMES = ("cat", "dog", "bird")
WIDTH, HEIGHT = 40, 30
Content = dict[str, list[dict]]


def draw(file: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(file)


def image(number: int, **changes: object) -> dict:
    record = {"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT}
    return record | changes


def box(number: int, of_image: int, **changes: object) -> dict:
    record = {"id": number, "image_id": of_image, "category_id": 1, "bbox": [4, 5, 20, 10]}
    return record | changes


class Planted:
    """A clean data set of two splits; faults are planted before it is written.

    Training has images 1 to 20, validation 101 to 104; image i has annotation i, and there is a
    file spare.png that no record names.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.train, self.val = self._split("train2017", 1, 20), self._split("val2017", 101, 104)

    def _split(self, name: str, first: int, last: int) -> Content:
        (self.root / name).mkdir()
        numbers = range(first, last + 1)
        for number in numbers:
            draw(self.root / name / f"{number}.png", number)
        draw(self.root / name / "spare.png", 1000 + first)
        return {
            "images": [image(i) for i in numbers],
            "annotations": [box(i, i, category_id=1 + i % 3) for i in numbers],
            "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES, start=1)],
        }

    def file(self, number: int) -> Path:
        return self.root / "train2017" / f"{number}.png"

    def box(self, number: int) -> dict:
        return self.train["annotations"][number - 1]

    def add(self, name: str, record: object) -> None:
        self.train[name].append(record)

    def write(self) -> Path:
        (self.root / "annotations").mkdir(exist_ok=True)
        for name, content in (("train", self.train), ("val", self.val)):
            file = self.root / "annotations" / f"instances_{name}2017.json"
            file.write_text(json.dumps(content))
        return self.root


def no_file_name(planted: Planted) -> None:
    planted.add("images", {"id": 50})


def no_category_name(planted: Planted) -> None:
    planted.add("categories", {"id": 50})


def no_numbers(planted: Planted) -> None:
    for number, value in enumerate((math.nan, math.inf, "20 px"), start=201):
        planted.add("annotations", box(number, 1, bbox=[4, 5, value, 10]))


def image_id_twice(planted: Planted) -> None:
    planted.add("images", image(1, file_name="spare.png"))


def category_id_twice(planted: Planted) -> None:
    for content in (planted.train, planted.val):
        content["categories"].append({"id": 3, "name": "swan"})


def category_listed_again(planted: Planted) -> None:
    """As VIA writes one category a region."""
    planted.add("categories", {"id": "2", "name": "dog", "supercategory": "animal"})


def category_name_twice(planted: Planted) -> None:
    for content in (planted.train, planted.val):
        content["categories"].append({"id": 60, "name": "dog"})
    planted.add("annotations", box(204, 1, category_id=60))


def file_name_twice(planted: Planted) -> None:
    planted.add("images", image(51, file_name="2.png"))


def unknown_image(planted: Planted) -> None:
    planted.add("annotations", box(205, 999))


def unknown_category(planted: Planted) -> None:
    planted.add("annotations", box(206, 1, category_id=77))


def negative_side(planted: Planted) -> None:
    planted.box(3)["bbox"] = [30, 5, -20, 10]


def outside(planted: Planted) -> None:
    planted.box(4)["bbox"] = [WIDTH + 2, 5, 20, 10]


def missing_file(planted: Planted) -> None:
    planted.file(5).unlink()


def of_another_machine(planted: Planted) -> None:
    planted.train["images"][17]["file_name"] = "C:\\data\\train2017\\18.PNG"


def transparent(planted: Planted) -> None:
    Image.new("RGBA", (WIDTH, HEIGHT), (255, 0, 0, 0)).save(planted.file(19))


def of_several_frames(planted: Planted) -> None:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue", "green")]
    frames[0].save(planted.file(20), format="GIF", save_all=True, append_images=frames[1:])


def strange_area(planted: Planted) -> None:
    planted.box(1)["area"] = 0
    planted.box(2)["area"] = "2000"
    planted.box(3)["area"] = 22 * 12  # a mask of whole pixels


def unreadable(planted: Planted) -> None:
    content = planted.file(6).read_bytes()
    planted.file(6).write_bytes(content[: len(content) // 2])
    planted.file(7).write_text("no picture")


def another_size(planted: Planted) -> None:
    planted.train["images"][7] = image(8, width=HEIGHT, height=WIDTH)
    planted.box(8)["bbox"] = [0, 0, 10, 10]


def shared(planted: Planted) -> None:
    (planted.root / "val2017" / "102.png").write_bytes(planted.file(9).read_bytes())


def another_category(planted: Planted) -> None:
    planted.val["categories"][0]["name"] = "tiger"


def no_area(planted: Planted) -> None:
    planted.box(10)["bbox"] = [4, 5, 0, 10]
    planted.box(11)["bbox"] = [WIDTH + 0.5, 5, 3, 10]  # by rounding, not by mistake


def partly_outside(planted: Planted) -> None:
    planted.box(12)["bbox"] = [30, 5, 20, 10]
    planted.box(13)["bbox"] = [4, HEIGHT - 9, 20, 9.9]  # by rounding


def annotation_id_twice(planted: Planted) -> None:
    planted.box(14)["id"] = 15


def no_size(planted: Planted) -> None:
    planted.train["images"][15] = {"id": 16, "file_name": "16.png", "width": None, "height": "a"}


def unused_class(planted: Planted) -> None:
    for content in (planted.train, planted.val):
        content["categories"].append({"id": 61, "name": "unicorn"})
    planted.add("annotations", box(207, 1, category_id=61, iscrowd=1))


def many_boxes(planted: Planted) -> None:
    for number in range(210, 215):
        planted.add("annotations", box(number, 17))


PLANTS: dict[Callable[[Planted], None], tuple[str, str, int, str]] = {
    no_file_name: ("train2017", "malformed image record", 1, "id 50"),
    no_category_name: ("train2017", "malformed category", 1, "id 50"),
    no_numbers: ("train2017", "malformed annotation", 3, r"id 201\): bbox is \[4, 5, nan, 10\]"),
    image_id_twice: ("train2017", "repeated image id", 1, r"image 1 \(spare\.png\)"),
    category_id_twice: ("both", "repeated category id", 1, r"category 3 \(swan\)"),
    category_listed_again: ("train2017", "category listed again", 1, r"category 2 \(dog\)"),
    category_name_twice: ("both", "repeated category name", 1, r"category 60 \(dog\)"),
    file_name_twice: ("train2017", "repeated file_name", 1, r"image 51 \(2\.png\)"),
    unknown_image: (
        "train2017",
        "annotation of an unknown image",
        1,
        "annotation 205 of image 999",
    ),
    unknown_category: ("train2017", "annotation of an unknown category", 1, "206 .*category 77"),
    negative_side: ("train2017", "box with a negative side", 1, r"annotation 3 .*30, 5, -20, 10"),
    outside: ("train2017", "box outside its image", 1, r"annotation 4 of image 4 \(4\.png\)"),
    missing_file: ("train2017", "missing image file", 1, r"image 5 \(5\.png\)"),
    of_another_machine: (
        "train2017",
        "image file under another name",
        1,
        r"image 18 \(C:.*18.PNG\) is there as 18\.png",
    ),
    transparent: (
        "train2017",
        "unsuited image file",
        1,
        r"image 19 \(19\.png\) is transparent everywhere",
    ),
    of_several_frames: (
        "train2017",
        "image taken by a guess",
        1,
        r"image 20 \(20\.png\) holds 3 frames",
    ),
    strange_area: (
        "train2017",
        "area that its box cannot have",
        2,
        r"annotation 1 .*, area 0; annotation 2 .*, area 2000",
    ),
    unreadable: (
        "train2017",
        "unreadable image file",
        2,
        r"image 6 .*; image 7 .* cannot be read \(not an image",
    ),
    another_size: (
        "train2017",
        "image of another size than its record's",
        1,
        "image 8 .* is 40×30, recorded as 30×40",
    ),
    shared: ("val2017", "image in two splits", 1, r"102\.png\) is image 9 \(9\.png\) of train2017"),
    another_category: (
        "val2017",
        "other categories than in training",
        1,
        "only here: 1 'tiger'; only there: 1 'cat'",
    ),
    no_area: ("train2017", "box of no area", 2, "annotation 10 of image 10"),
    partly_outside: ("train2017", "box partly outside its image", 1, "annotation 12 of image 12"),
    annotation_id_twice: ("train2017", "repeated annotation id", 1, "annotation 15 of image 15"),
    no_size: ("train2017", "image record without a size", 1, r"image 16 \(16\.png\)"),
    unused_class: ("train2017", "class without training examples", 1, "61 'unicorn'"),
    many_boxes: (
        "train2017",
        "more boxes in an image than queries",
        1,
        "image 17 .* has 6, queries are 5",
    ),
}
# Seen where images are looked for, and seen only where they are opened.
OF_FILES = {missing_file, of_another_machine}
ON_DISK = {unreadable, another_size, shared, transparent, of_several_frames}


@pytest.fixture
def planted(tmp_path) -> Planted:
    return Planted(tmp_path)


def counts(report: Report) -> dict[tuple[str, str], int]:
    return {(fault.where, fault.kind): fault.count for fault in report.faults}


def expected(plants: list[Callable[[Planted], None]]) -> dict[tuple[str, str], int]:
    found = {}
    for plant in plants:
        where, kind, count, _ = PLANTS[plant]
        splits = ("train2017", "val2017") if where == "both" else (where,)
        found |= {(split, kind): count for split in splits}
    return found


def test_nothing_is_found_in_a_clean_data_set(planted):
    report = check(planted.write(), images=True, num_queries=1, num_classes=3)
    assert report.faults == ()
    assert str(report).splitlines() == [
        "train2017: 20 images, 0 without boxes; 20 boxes of 3 of 3 classes, at most 1 in an image",
        "val2017: 4 images, 0 without boxes; 4 boxes of 3 of 3 classes, at most 1 in an image",
        "no faults found",
    ]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found_alone_and_named(planted, plant):
    plant(planted)
    root = planted.write()
    report = check(root, images=True, num_queries=5)
    assert counts(report) == expected([plant])
    _, kind, _, first = PLANTS[plant]
    fault = report.faults[0]
    with pytest.raises(ValueError, match=first):
        raise ValueError("; ".join(fault.first))
    assert (report.errors if kind in ERRORS else report.warnings)[0] is fault
    assert (ERRORS | WARNINGS)[kind] in str(report)
    without = check(root, num_queries=5)
    assert counts(without) == expected([] if plant in ON_DISK else [plant])


def test_all_planted_faults_are_found_in_one_pass(planted):
    assert len(PLANTS) > 20
    for plant in PLANTS:
        plant(planted)
    report = check(planted.write(), images=True, num_queries=5)
    assert counts(report) == expected(list(PLANTS))


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_the_reader_refuses_the_errors_that_the_file_shows(planted, plant):
    plant(planted)
    root = planted.write()
    in_file = check(root).errors and plant not in {*OF_FILES, another_category}
    folder, file = coco_splits(root)["train2017"]
    if not in_file:
        assert len(CocoDataset(folder, file, EvalTransform(None))) == 20
        return
    _, kind, count, first = PLANTS[plant]
    with pytest.raises(ValueError, match=rf"train2017\.json: {kind} \({count}\): .*{first}"):
        CocoDataset(folder, file, EvalTransform(None))


@pytest.mark.parametrize(
    ("name", "kind"), [("images", "no images"), ("categories", "no categories")]
)
def test_empty_lists_are_errors_that_the_reader_refuses(planted, name, kind):
    planted.train["annotations"], planted.train[name] = [], []
    root = planted.write()
    assert ("train2017", kind) in counts(check(root))
    with pytest.raises(ValueError, match=f"{kind} .*its list '{name}' is empty"):
        CocoDataset(*coco_splits(root)["train2017"], EvalTransform(None))


def test_a_split_without_boxes_is_an_error(planted):
    planted.val["annotations"] = [box(1, 101, iscrowd=1), box(2, 102, bbox=[1, 1, 0, 0])]
    assert ("val2017", "no boxes") in counts(check(planted.write()))


def test_boxes_as_shares_of_the_image_are_an_error(planted):
    for annotation in planted.val["annotations"]:
        annotation["bbox"] = [0.1, 0.2, 0.5, 0.6]
    (fault,) = check(planted.write()).faults
    assert (fault.where, fault.kind, fault.count) == ("val2017", "boxes as shares of the image", 4)


@pytest.mark.parametrize("shares", [19, 10, 2])
def test_boxes_as_shares_are_found_among_others(planted, shares):
    """One that rounding leaves above 1, or images of another export."""
    for number in range(1, shares + 1):
        planted.box(number)["bbox"] = [0.1, 0.2, 0.5, 0.6]
    if shares == 19:
        planted.box(20)["bbox"] = [0, 0, 1.0, 1.02]
    (fault,) = check(planted.write()).faults
    assert (fault.kind, fault.count) == ("boxes as shares of the image", shares)


def test_a_box_in_the_corner_pixel_is_no_share(planted):
    planted.box(1)["bbox"] = [0, 0, 1, 1]
    assert check(planted.write()).faults == ()


def test_no_boxes_is_not_said_on_top_of_why_there_are_none(planted):
    for annotation in planted.train["annotations"]:
        annotation["image_id"] = "img_7"
    root = planted.write()
    (fault,) = check(root).errors
    assert (fault.kind, fault.count) == ("malformed annotation", 20)
    assert "image_id is 'img_7'; expected a whole number" in str(fault)
    for annotation in planted.train["annotations"]:
        annotation |= {"image_id": 1, "bbox": [1, 1, 0, 0]}
    assert [fault.kind for fault in check(planted.write()).errors] == ["no boxes"]


def test_every_box_is_used_or_said_to_be_left_out(planted):
    """Crowds, boxes of no area, and such as only the numbers of a tensor leave without."""
    crowd_without_area = box(301, 1, bbox=[5, 5, 0, 9], iscrowd=1)
    planted.train["annotations"] += [
        box(300, 1, iscrowd="1"),
        crowd_without_area,
        box(302, 2, bbox=[5, 5, 0, 9]),
        box(303, 2, bbox=[33, 5, 1e-7, 9]),
        box(304, 3, bbox=["30", "5", 20, 10], iscrowd="0"),
    ]
    root = planted.write()
    report = check(root)
    assert counts(report) == {
        ("train2017", "box of no area"): 2,
        ("train2017", "box partly outside its image"): 1,
    }
    assert "21 boxes of 3 " in report.contents["train2017"]
    assert "; 2 crowd annotations, left out of training" in report.contents["train2017"]
    dataset = CocoDataset(*coco_splits(root)["train2017"], EvalTransform(None))
    assert sum(len(dataset[i][1]["labels"]) for i in range(20)) == 21
    assert len(dataset.ground_truth.ids) == 25 == 21 + 2 + 2


def test_unusable_files_do_not_hide_the_faults_of_others(planted):
    no_area(planted)
    root = planted.write()
    (root / "annotations" / "instances_val2017.json").write_text("{")
    report = check(root)
    assert counts(report) == expected([no_area]) | {("val2017", "unusable annotation file"): 1}
    assert "instances_val2017.json is not a whole JSON object" in report.errors[0].first[0]
    another_category(planted)
    for annotation in planted.val["annotations"]:
        annotation["category_id"] = 2  # the rest unused, which matters in training alone
    (planted.write() / "annotations" / "instances_train2017.json").write_text("[]")
    assert counts(check(root)) == {("train2017", "unusable annotation file"): 1}


def test_crowd_annotations_and_images_without_boxes_are_told(planted):
    planted.box(2)["iscrowd"] = 1
    report = check(planted.write())
    assert report.faults == ()
    assert report.contents["train2017"] == (
        "20 images, 1 without boxes; 19 boxes of 3 of 3 classes, at most 1 in an image;"
        " 1 crowd annotations, left out of training"
    )


def test_classes_are_held_against_the_models(planted):
    root = planted.write()
    kind = "other classes than the model's"
    report = check(root, num_classes=4)
    assert counts(report) == {("train2017", kind): 1, ("val2017", kind): 1}
    assert report.errors[0].first == ("the file has 3 classes, model.num_classes is 4",)
    # Labels that are category ids may leave some of the model's unused.
    assert check(root, num_classes=91, contiguous=False).faults == ()
    report = check(root, num_classes=3, contiguous=False)
    assert report.errors[0].first == (
        "labels are category ids, model.num_classes is 3, and there is 3",
    )


def test_an_image_of_one_name_in_two_splits_is_found_by_its_content_without_opening(planted):
    for content in (planted.train, planted.val):
        content["images"].append(image(70, file_name="spare.png"))
    root = planted.write()
    assert check(root).faults == ()  # one name, two images
    (root / "val2017" / "spare.png").write_bytes((root / "train2017" / "spare.png").read_bytes())
    assert counts(check(root)) == {("val2017", "image in two splits"): 1}
    folder, file = coco_splits(root)["train2017"]
    report = check({"train": (folder, file), "val": (folder, file)})
    assert counts(report) == {("val", "image in two splits"): 21}


def test_files_missing_from_two_splits_are_not_one_image(planted):
    missing_file(planted)
    (planted.root / "val2017" / "101.png").unlink()
    assert counts(check(planted.write(), images=True)) == {
        ("train2017", "missing image file"): 1,
        ("val2017", "missing image file"): 1,
    }


def test_images_in_folders_of_the_images_folder_are_found(planted):
    inner = planted.root / "train2017" / "a" / "b"
    inner.mkdir(parents=True)
    planted.file(1).rename(inner / "1.png")
    planted.train["images"][0]["file_name"] = "a/b/1.png"
    planted.train["images"][1]["file_name"] = "./2.png"
    assert check(planted.write(), images=True).faults == ()
    (inner / "1.png").unlink()
    assert counts(check(planted.root)) == {("train2017", "missing image file"): 1}


def test_a_missing_folder_of_images_is_all_its_images_missing(planted):
    root = planted.write()
    (root / "val2017").rename(root / "validation")
    assert counts(check(root)) == {("val2017", "missing image file"): 4}
    with pytest.raises(ValueError, match="Expected COCO layout"):
        check(root / "nowhere")


def test_command_prints_the_report_and_fails_on_errors(planted, capsys):
    unused_class(planted)
    root = planted.write()
    assert main(["data", str(root), "--images"]) == 0
    assert capsys.readouterr().out == f"{check(root, images=True)}\n"
    missing_file(planted)
    assert main(["data", str(root)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[2:] == [
        "errors:",
        "  train2017: missing image file (1): image 5 (5.png). Bring it, or take its record and its"
        " annotations out of the file.",
        "warnings:",
        "  train2017: class without training examples (1): 61 'unicorn'. It cannot be learned.",
        "images were not opened; --images does so",
    ]
    for number in range(400, 501):
        planted.add("annotations", box(number, 18))
    planted.write()
    assert main(["data", str(root)]) == 1
    assert "image 18 (18.png) has 102, queries are 100" in capsys.readouterr().out
    assert main(["data", str(root / "nowhere")]) == 1
    assert "not found" in capsys.readouterr().err


def test_command_takes_pairs_of_images_and_annotations(planted, capsys):
    shared(planted)
    paths = [str(p) for pair in coco_splits(planted.write()).values() for p in pair]
    assert main(["data", *paths[:2]]) == 0
    assert capsys.readouterr().out.startswith(f"{paths[1]}: 20 images, ")
    assert main(["data", *paths, "--images"]) == 1
    assert f"{paths[3]}: image in two splits (1)" in capsys.readouterr().out
    assert main(["data", *paths[:3]]) == 2
    assert "3 paths: expected one folder, or pairs" in capsys.readouterr().err
