"""The toy set: its bytes, its boxes, its splits, and what making it leaves alone."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from detrnb.datasets import toy, toy_drawing
from detrnb.datasets.importing import import_data
from detrnb.datasets.splits import open_split
from detrnb.datasets.toy import make_toy
from detrnb.datasets.toy_yolo import make_toy_yolo
from detrnb.settings.config import Config, DataConfig, ToyConfig

TINY = {"num_images": (12, 6, 6), "image_size": 96, "digits": (0, 1, 4, 7)}


def load(root, split):
    return json.loads((root / "annotations" / f"instances_{split}2017.json").read_text())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_toy(tmp_path_factory.mktemp("made") / "toy", ToyConfig(**TINY))


@pytest.fixture
def blank_digits(monkeypatch):
    """Digits that are discs, for tests of files rather than pixels (reading MNIST takes 3 s)."""
    grid = np.hypot(*np.mgrid[-14:14, -14:14])
    disc = np.broadcast_to(np.where(grid < 10, 255, 0).astype(np.uint8), (500, 28, 28))
    monkeypatch.setattr(
        toy, "read_digits", lambda digits: [(disc, np.arange(500) + 500 * d) for d in digits]
    )


def test_toy_bytes_are_pinned(tiny):
    annotations = hashlib.sha256()
    pixels = hashlib.sha256()
    for split in toy.SPLITS:
        content = load(tiny, split)
        annotations.update(json.dumps(content, sort_keys=True).encode())
        for record in content["images"][:3]:
            pixels.update(np.asarray(Image.open(tiny / f"{split}2017" / record["file_name"])))
    assert annotations.hexdigest()[:16] == "5333ee609b2e2c2b"
    assert pixels.hexdigest()[:16] == "518a7b25fbefc481"


def test_toy_layout_is_coco(tiny):
    for split, count in zip(toy.SPLITS, TINY["num_images"], strict=True):
        content = load(tiny, split)
        assert [c["name"] for c in content["categories"]] == ["0", "1", "4", "7"]
        assert [c["id"] for c in content["categories"]] == [1, 2, 3, 4]
        files = sorted(p.name for p in (tiny / f"{split}2017").iterdir())
        assert files == [record["file_name"] for record in content["images"]]
        assert len(files) == count
        with Image.open(tiny / f"{split}2017" / files[0]) as image:
            assert (image.size, image.mode) == ((96, 96), "RGB")
        ids = [a["id"] for a in content["annotations"]]
        assert ids == list(range(1, len(ids) + 1))


def test_toy_boxes_are_inside_apart_and_of_the_sizes_asked(tiny):
    for split in toy.SPLITS:
        content = load(tiny, split)
        boxes = {record["id"]: [] for record in content["images"]}
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            assert annotation["area"] == w * h
            assert x >= 0 and y >= 0 and x + w <= 96 and y + h <= 96
            assert 0.15 <= max(w, h) / 96 <= 0.45
            for ox, oy, ow, oh in boxes[annotation["image_id"]]:
                shared = max(0, min(x + w, ox + ow) - max(x, ox)) * max(
                    0, min(y + h, oy + oh) - max(y, oy)
                )
                assert shared / (w * h + ow * oh - shared) <= toy_drawing.MAX_IOU
                assert shared / min(w * h, ow * oh) <= toy_drawing.MAX_COVERED
            boxes[annotation["image_id"]].append((x, y, w, h))
        assert all(1 <= len(of_image) <= 4 for of_image in boxes.values())


def test_photograph_of_an_image_is_the_one_its_pixels_are_cut_from(tiny):
    digits = toy_drawing.read_digits(TINY["digits"])
    for number, split in enumerate(toy.SPLITS):
        photographs = dict(toy_drawing.read_photographs(toy_drawing.PHOTOGRAPHS[split]))
        told = toy.photographs_of(tiny / "annotations" / f"instances_{split}2017.json")
        for index, image_id in enumerate(told):
            random = np.random.RandomState([0, number, index])
            random.random_sample()  # which chose the photograph
            drawn, _ = toy_drawing.draw_image(
                random,
                photographs[told[image_id]],
                digits,
                toy_drawing.DIGIT_SAMPLES[split],
                image_size=96,
                objects=(1, 4),
                scale=(0.15, 0.45),
            )
            file = tiny / f"{split}2017" / f"{image_id:012d}.png"
            assert (drawn == np.asarray(Image.open(file))).all()


def test_photographs_are_told_only_where_the_file_does(tmp_path):
    images = [{"id": 7, "photograph": "moon.png"}, {"id": 3}, {"id": 9, "photograph": None}]
    file = tmp_path / "instances.json"
    file.write_text(json.dumps({"categories": [{"id": 1}], "images": images}))
    assert toy.photographs_of(file) == {7: "moon.png"}


def test_toy_splits_share_no_digit_and_no_photograph(tiny):
    samples, photographs = [], []
    for split in toy.SPLITS:
        content = load(tiny, split)
        samples.append({a["mnist_row"] for a in content["annotations"]})
        photographs.append({i["photograph"] for i in content["images"]})
        first, stop = toy_drawing.DIGIT_SAMPLES[split]
        assert all(first <= row % 500 < stop for row in samples[-1])
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert not samples[i] & samples[j] and not photographs[i] & photographs[j]
    named = [name for names in toy_drawing.PHOTOGRAPHS.values() for name in names]
    assert len(set(named)) == len(named) and sum("motorcycle" in name for name in named) == 1


def test_another_seed_deals_photographs_and_digits_anew_and_shares_none(tmp_path):
    digits = toy_drawing.read_digits(TINY["digits"])
    seen = set()
    for seed in (1, 2, 200):
        photographs, mixed = toy_drawing.deal(seed, digits)
        assert [len(names) for names in photographs.values()] == [11, 3, 3]
        assert set(sum(photographs.values(), ())) == set(sum(toy_drawing.PHOTOGRAPHS.values(), ()))
        for (pixels, rows), (before, known) in zip(mixed, digits, strict=True):
            assert sorted(rows) == sorted(known) and list(rows) != list(known)
            place = list(known).index(rows[0])
            assert np.array_equal(pixels[0], before[place])  # a sample keeps its row
        seen.add((photographs["test"], tuple(mixed[0][1][:5])))
    assert len(seen) == 3
    again, first = toy_drawing.deal(0, digits)
    assert again == toy_drawing.PHOTOGRAPHS and first is digits

    made = make_toy(tmp_path / "toy", ToyConfig(**{**TINY, "num_images": (4, 3, 3)}, seed=2))
    photographs, _ = toy_drawing.deal(2, digits)
    assert photographs == toy_drawing.deal(2, digits)[0]
    rows = []
    for split in toy.SPLITS:
        content = load(made, split)
        named = {name.rpartition("/")[2] for name in photographs[split]}
        assert {image["photograph"] for image in content["images"]} <= named
        rows.append({a["mnist_row"] for a in content["annotations"]})
        assert content["info"]["version"] == toy.VERSION
    assert not (rows[0] & rows[1] or rows[0] & rows[2] or rows[1] & rows[2])


def test_toy_boxes_end_where_the_drawn_pixels_do():
    digits = [(np.zeros((500, 28, 28), np.uint8), np.arange(500))]
    digits[0][0][:, 4:24, 10:16] = 255
    digits[0][0][:, 4:8, 6:22] = 255
    grey = Image.new("RGB", (200, 150), (90, 90, 90))
    settings = {"image_size": 128, "objects": (1, 4), "scale": (0.15, 0.45)}
    for seed in range(10):
        random = np.random.RandomState(seed)
        pixels, drawn = toy_drawing.draw_image(random, grey, digits, (0, 9), **settings)
        touched = (pixels != 90).any(axis=2)
        outside = touched.copy()
        for digit in drawn:
            height, width = digit.alpha.shape
            assert height > width  # the shape above is taller than wide, and stays so
            inside = touched[digit.y : digit.y + height, digit.x : digit.x + width]
            for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
                assert edge.any()
            outside[digit.y : digit.y + height, digit.x : digit.x + width] = False
        assert not outside.any()


def test_toy_images_do_not_depend_on_how_many_are_made(tmp_path, blank_digits):
    few = make_toy(tmp_path / "few", ToyConfig(num_images=(2, 1, 1)))
    more = make_toy(tmp_path / "more", ToyConfig(num_images=(5, 3, 1)))
    for split, count in zip(toy.SPLITS, (2, 1, 1), strict=True):
        names = sorted(p.name for p in (few / f"{split}2017").iterdir())
        assert len(names) == count
        for name in names:
            pixels = [np.asarray(Image.open(r / f"{split}2017" / name)) for r in (few, more)]
            assert np.array_equal(*pixels)
    other = make_toy(tmp_path / "other", ToyConfig(num_images=(2, 1, 1), seed=1))
    assert load(other, "train")["annotations"] != load(few, "train")["annotations"]


def test_toy_is_made_once_and_remade_when_settings_change(tmp_path, blank_digits, monkeypatch):
    path = make_toy(tmp_path / "toy", ToyConfig(num_images=(2, 1, 1)))
    made_at = (path / "toy.json").stat().st_mtime_ns
    assert make_toy(path, ToyConfig(num_images=(2, 1, 1))) == path
    assert (path / "toy.json").stat().st_mtime_ns == made_at
    make_toy(path, ToyConfig(num_images=(3, 1, 1)))
    assert len(list((path / "train2017").iterdir())) == 3
    monkeypatch.setattr(toy, "FIRST_SEEDS_VERSION", 7)
    make_toy(path, ToyConfig(num_images=(3, 1, 1)))
    assert json.loads((path / "toy.json").read_text())["version"] == 7
    for image in (path / "val2017").iterdir():
        image.unlink()
    (path / "val2017").rmdir()
    make_toy(path, ToyConfig(num_images=(3, 1, 1)))
    assert len(list((path / "val2017").iterdir())) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]


def test_each_setting_of_the_toy_set_has_a_folder_of_its_own(tmp_path, monkeypatch, blank_digits):
    monkeypatch.chdir(tmp_path)

    def data(preset: str, **toy: object) -> DataConfig:
        settings = {f"data.toy.{key}": value for key, value in toy.items()}
        return Config.preset(preset, overrides=settings).data

    # The presets' own are where they always were; a default that is stated is the default.
    assert toy.toy_folder(data("toy")) == "data/toy"
    assert toy.toy_folder(data("toy", seed=0)) == "data/toy"
    assert toy.toy_folder(data("smoke")) == "data/smoke"
    mine = data("toy").model_copy(update={"path": "data/mine/"})
    assert toy.toy_folder(mine) == "data/mine/"
    # The name is part of what stays: else the set is drawn anew for runs that are there.
    assert toy.toy_folder(data("toy", seed=1)) == "data/toy-a4bbadc1"
    few = [{"num_images": (2, 1, 1)}, {"num_images": (2, 1, 1), "seed": 1}, {"digits": (0, 1)}]
    folders = {toy.toy_folder(data(name, **s)) for s in few for name in ("toy", "smoke")}
    assert len(folders) == 6
    changed = mine.model_copy(update={"toy": data("toy", seed=1).toy})
    assert toy.toy_folder(changed).startswith("data/mine-")


def test_another_setting_leaves_the_images_of_an_open_set(tmp_path, monkeypatch, blank_digits):
    monkeypatch.chdir(tmp_path)
    settings = {"data.toy.num_images": (4, 2, 2)}
    first = Config.preset("smoke", overrides=settings).data
    second = Config.preset("smoke", overrides={**settings, "data.toy.seed": 1}).data
    dataset = open_split(first, "train2017")
    before, _ = dataset[0]
    other, _ = open_split(second, "train2017")[0]
    again, _ = dataset[0]
    assert torch.equal(again, before) and not torch.equal(other, before)


def test_toy_interrupted_leaves_nothing_half_made(tmp_path, blank_digits, monkeypatch):
    path = make_toy(tmp_path / "toy", ToyConfig(num_images=(2, 1, 1)))

    def fail(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(toy, "_annotation", fail)
        for target in (path, tmp_path / "second"):
            with pytest.raises(KeyboardInterrupt):
                make_toy(target, ToyConfig(num_images=(3, 1, 1)))
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]
    assert json.loads((path / "toy.json").read_text())["num_images"] == [2, 1, 1]


@pytest.mark.parametrize("content", ["train2017/mine.jpg", "toy.json", "notes.txt"])
def test_toy_never_deletes_another_folder(tmp_path, content):
    file = tmp_path / "mine" / content
    file.parent.mkdir(parents=True)
    file.write_text('{"generator": "somebody else"}')
    with pytest.raises(ValueError, match=f"not a toy set of ours.*{content.split('/')[0]}"):
        make_toy(tmp_path / "mine", ToyConfig(**TINY))
    assert file.exists()


def test_toy_with_somebodys_files_is_not_remade(tmp_path, blank_digits):
    path = make_toy(tmp_path / "toy", ToyConfig(num_images=(1, 1, 1)))
    (path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds .*notes.txt"):
        make_toy(path, ToyConfig(num_images=(2, 1, 1)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_images": (5, 0, 5)}, r"num_images is \(5, 0, 5\)"),
        ({"digits": (1, 12)}, r"digits is \(1, 12\); expected one or more of 0 to 9"),
        ({"digits": ()}, r"digits is \(\)"),
        ({"digits": (1, 1)}, "repeats a digit"),
        ({"scale": (0.5, 0.2)}, r"scale is \(0.5, 0.2\)"),
        ({"scale": (0.01, 0.02)}, "no whole number"),
        ({"objects": (0, 2)}, r"objects is \(0, 2\)"),
        ({"objects": (1, 9), "scale": (0.4, 0.5)}, "cannot be placed apart"),
        ({"image_size": 5}, "image_size is 5"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_toy_refuses_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ToyConfig(**settings)


def test_toy_says_when_digits_do_not_fit(tmp_path, blank_digits, monkeypatch):
    monkeypatch.setattr(toy_drawing, "LAYOUT_TRIES", 1)
    monkeypatch.setattr(toy_drawing, "PLACE_TRIES", 1)
    with pytest.raises(ValueError, match="were not placed apart.*lower objects or scale"):
        make_toy(
            tmp_path / "toy", ToyConfig(num_images=(1, 1, 1), objects=(4, 4), scale=(0.35, 0.4))
        )
    assert list(tmp_path.iterdir()) == []


def test_as_yolo_keeps_it_the_toy_set_is_imported_to_the_same(tmp_path, blank_digits):
    settings = ToyConfig(**TINY)
    original = make_toy(tmp_path / "toy", settings)
    foreign = make_toy_yolo(tmp_path / "yolo", settings)
    imported = import_data(foreign, tmp_path / "imported")
    assert not imported.lost
    for split in toy.SPLITS:
        ours, back = load(original, split), load(imported.path, split)
        assert [i["file_name"] for i in back["images"]] == [i["file_name"] for i in ours["images"]]
        assert [c["name"] for c in back["categories"]] == ["0", "1", "4", "7"]
        boxes = [a["bbox"] for a in ours["annotations"]]
        np.testing.assert_allclose([a["bbox"] for a in back["annotations"]], boxes, atol=1e-4)
        kinds = [a["category_id"] - 1 for a in ours["annotations"]]
        assert [a["category_id"] for a in back["annotations"]] == kinds


def test_the_toy_set_as_yolo_keeps_it_is_made_once_and_never_over_another(tmp_path, blank_digits):
    foreign = make_toy_yolo(tmp_path / "yolo", ToyConfig(**TINY))
    marked = foreign / "mark"
    marked.touch()
    assert make_toy_yolo(foreign, ToyConfig(**TINY)) == foreign and marked.exists()
    with pytest.raises(ValueError, match="no toy set of these settings; choose another path"):
        make_toy_yolo(foreign, ToyConfig(**TINY | {"digits": (0, 1, 4)}))
