"""Detections in any images are evaluation's, whatever form the images come in."""

import hashlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from detrnb import Config, fit, load_run
from detrnb.commands import main
from detrnb.datasets import split_paths
from detrnb.runs import RunFolder
from detrnb.training import Run

SMALL = {"data.toy.num_images": (16, 6, 4), "train.batch_size": 4, "train.epochs": 1}


@pytest.fixture(scope="module", autouse=True)
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        fit(Config.preset("smoke", overrides=SMALL), name="small")
        yield load_run("runs/small", "best")


@pytest.fixture
def images(run):
    folder, _ = split_paths(run.config.data, "val2017")
    return sorted(folder.iterdir())


def test_detections_are_those_of_evaluation_with_its_ids(run, images):
    predictions = run.predict(images, threshold=0.0)
    expected = run.evaluate().detections
    assert {found.image_id for found in predictions} == expected.keys()
    for found in predictions:
        same = expected[found.image_id]
        order = np.argsort(-same["scores"].numpy(), kind="stable")
        assert np.allclose(found.scores, same["scores"].numpy()[order], atol=1e-6)
        assert np.allclose(found.boxes, same["boxes"].numpy()[order], atol=1e-3)
        assert np.array_equal(found.category_ids, same["category_ids"].numpy()[order])
    assert sum(predictions.counts.values()) == 6 * run.config.model.num_queries


def test_files_pictures_and_arrays_give_the_same(run, images):
    (one,) = run.predict(images[0], 0.0)
    picture = Image.open(images[0])
    (two,), (three,) = run.predict(picture, 0.0), run.predict(np.asarray(picture), 0.0)
    assert np.array_equal(one.scores, two.scores) and np.array_equal(one.boxes, three.boxes)
    assert two.file is None and one.size == two.size == picture.size


def test_a_threshold_leaves_out_what_is_below_it(run, images):
    every = run.predict(images, 0.0)
    middle = float(np.median(np.concatenate([found.scores for found in every])))
    some = run.predict(images, middle)
    for found, other in zip(every, some, strict=True):
        assert np.array_equal(found.scores[found.scores >= middle], other.scores)


def test_coco_results_have_their_form_and_other_images_are_numbered(run, images, tmp_path):
    copy = tmp_path / "else where.png"
    copy.write_bytes(images[3].read_bytes())
    records = run.predict([copy], 0.0).to_coco()
    assert {record["image_id"] for record in records} == {1}
    (found,) = run.predict([copy], 0.0)
    x, y, width, height = records[0]["bbox"]
    assert np.allclose([x, y, x + width, y + height], found.boxes[0])
    assert records[0].keys() == {"image_id", "category_id", "bbox", "score"}
    json.dumps(records)


def test_an_image_that_exif_turns_is_seen_upright(run, images, tmp_path):
    upright = Image.open(images[0]).convert("RGB").resize((128, 96))
    upright.save(tmp_path / "upright.png")
    for turn, back in ((6, Image.Transpose.ROTATE_90), (3, Image.Transpose.ROTATE_180)):
        exif = Image.Exif()
        exif[0x0112] = turn
        upright.transpose(back).save(tmp_path / "turned.png", exif=exif)
        (expected,) = run.predict(tmp_path / "upright.png", 0.0)
        (found,) = run.predict(tmp_path / "turned.png", 0.0)
        (opened,) = run.predict(Image.open(tmp_path / "turned.png"), 0.0)
        for one in (found, opened):
            assert one.size == (128, 96)
            assert np.array_equal(one.boxes, expected.boxes)


def test_ids_of_an_annotation_file_are_lent_to_images_in_its_frame_only(run, tmp_path, capsys):
    folder = tmp_path / "val2017"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (96, 64), "grey")
    picture.save(folder / "a.jpg", exif=exif)
    picture.save(folder / "b.jpg")
    (tmp_path / "annotations").mkdir()
    for width, height, ids in ((96, 64, [1, 2]), (64, 96, [31, 32])):
        records = [
            {"id": 31, "file_name": "a.jpg", "width": width, "height": height},
            {"id": 32, "file_name": "b.jpg", "width": 96, "height": 64},
        ]
        content = {"images": records, "annotations": [], "categories": [{"id": 1, "name": "x"}]}
        (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
        found = run.predict(sorted(folder.iterdir()), 0.5)
        assert [one.image_id for one in found] == ids and found[0].size == (64, 96)
        assert ("has 1 of them as stored, such as a.jpg" in capsys.readouterr().out) == (width > 64)


@pytest.mark.parametrize(
    ("image", "named"),
    [
        (np.zeros((3, 64, 64), np.uint8), r"ndarray \(3, 64, 64\) of uint8"),
        (np.zeros((64, 64, 3), np.float32), r"ndarray \(64, 64, 3\) of float32"),
        (torch.zeros(3, 64, 64), r"Tensor \(3, 64, 64\) of torch.float32"),
        (7, r"int \(\) of no dtype"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_it_is(image, named, run, images):
    with pytest.raises(ValueError, match=f"image 1 is {named}; expected a path"):
        run.predict([images[0], image], 0.5)


def test_where_no_image_can_be_read_the_reasons_are_said(run, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ValueError, match="none of 2 images can be read: .*text.jpg .*absent.jpg"):
        run.predict([tmp_path / "text.jpg", tmp_path / "absent.jpg"], 0.5)


def test_supervision_is_given_its_own_kind_or_named_as_missing(run, images, monkeypatch):
    predictions = run.predict(images[:1], 0.0)
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ValueError, match="pip install supervision"):
        predictions.to_supervision()
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=SimpleNamespace))
    (given,) = predictions.to_supervision()
    assert np.array_equal(given.xyxy, predictions[0].boxes)
    assert given.data["class_name"][0] == predictions.class_names[given.class_id[0]]


def test_supervision_itself_takes_them(run, images):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    (given,) = run.predict(images[:1], 0.0).to_supervision()
    assert isinstance(given, supervision.Detections)
    assert len(given) == run.config.model.num_queries


def test_the_command_leaves_pictures_results_and_counts(run, images, tmp_path, capsys):
    out = tmp_path / "out"
    (tmp_path / "mixed" / "inner").mkdir(parents=True)
    for place in ("a.png", "inner/a.png"):
        (tmp_path / "mixed" / place).write_bytes(images[0].read_bytes())
    (tmp_path / "mixed" / "broken.jpg").write_bytes(b"\xff\xd8 cut")
    typed = ["predict", "runs/small", str(tmp_path / "mixed"), str(images[1].parent / "*1.*")]
    assert main([*typed, "--threshold", "0", "--out", str(out)]) == 1
    shown = capsys.readouterr()
    assert "broken.jpg cannot be read (not an image of a known format)" in shown.err
    numbered = len([image for image in images if image.stem.endswith("1")])
    assert f"{2 + numbered} images, {16 * (2 + numbered)} detections: " in shown.out
    assert shown.out.startswith("threshold 0\n")
    files = json.loads((out / "images.json").read_text())
    assert len(files) == 2 + numbered
    results = json.loads((out / "predictions.json").read_text())
    assert {record["image_id"] for record in results} == {entry["id"] for entry in files}
    table = (out / "counts.csv").read_text().splitlines()
    assert table[0] == "file,0,3,4,7" and len(table) == 3 + numbered
    assert sum(map(int, table[1].split(",")[1:])) == 16
    pictures = {path.name for path in (out / "pictures").iterdir()}
    assert {"a_1.jpg", "a_3.jpg", f"{images[0].stem}.jpg"} == pictures
    assert Image.open(out / "pictures" / "a_1.jpg").size == Image.open(images[0]).size


def test_the_command_says_which_threshold_it_takes_and_draws_its_curve(run, images, capsys):
    kept = run.thresholds
    kept["overall"] = {"threshold": 0.2, "f1": 0.5, "precision": 0.5, "recall": 0.5, "objects": 9}
    RunFolder(run.path).write_thresholds(kept)
    assert main(["predict", "runs/small", str(images[0])]) == 0
    shown = capsys.readouterr().out
    assert "threshold 0.200, of the best F1 (0.500; precision 0.500, recall 0.500)" in shown
    assert (run.path / "predictions" / "thresholds.png").exists()


def test_the_command_leaves_one_calls_results_and_what_is_not_its_own(
    run, images, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    (out / "pictures").mkdir(parents=True)
    theirs = [out / "pictures" / images[2].with_suffix(".jpg").name, out / "note.txt"]
    # As another tool's list of images, which are theirs.
    (out / "images.json").write_text(json.dumps([{"id": 1, "file_name": theirs[0].name}]))
    for file in theirs:
        file.write_text("theirs")
    typed = ["predict", "runs/small", "--out", str(out)]
    first = [*typed, *map(str, images[:2]), str(images[4])]
    assert main(first) == 1
    assert f"images.json in {out} would be replaced" in capsys.readouterr().err
    assert len(list(out.iterdir())) == 3
    (out / "images.json").unlink()
    with monkeypatch.context() as patch:
        made_up(patch)
        assert main(first) == 0
    assert f"{out}: counts.csv, images.json, pictures, predictions.json, thresholds.png" in (
        capsys.readouterr().out
    )
    changed, stale, again = (out / "pictures" / f"{images[i].stem}.jpg" for i in (0, 1, 4))
    changed.write_text("drawn on")
    copied = stale.with_name("kept.jpg")
    copied.write_bytes(stale.read_bytes())
    assert main([*typed, "--threshold", "0", *map(str, images[3:5])]) == 0
    assert f"{out}: counts.csv, images.json, pictures, predictions.json\n" in (
        capsys.readouterr().out
    )
    assert not stale.exists() and not (out / "thresholds.png").exists()
    assert again.exists() and copied.exists()
    assert [file.read_text() for file in (*theirs, changed)] == ["theirs", "theirs", "drawn on"]
    assert main([*typed, "--threshold", "0", str(images[3])]) == 0
    assert not again.exists()


def test_images_are_never_replaced_and_drawn_ones_are_no_images(run, images, tmp_path, capsys):
    photos = tmp_path / "photos"
    (photos / "pictures").mkdir(parents=True)
    mine = photos / "pictures" / "a.jpg"
    Image.open(images[0]).convert("RGB").save(mine)
    before, typed = mine.read_bytes(), ["predict", "runs/small", "--threshold", "0"]
    assert main([*typed, str(photos), "--out", str(photos)]) == 1
    assert "pictures/a.jpg in " in capsys.readouterr().err
    assert mine.read_bytes() == before and len(list(photos.iterdir())) == 1

    for name in ("b.jpg", "c.png"):
        Image.open(images[1]).convert("RGB").save(tmp_path / name)
    for _ in range(2):  # the second time, what the first has drawn lies among them
        mine.unlink(missing_ok=True)
        assert main([*typed, str(tmp_path), "--out", str(photos)]) == 0
        assert capsys.readouterr().out.splitlines()[1].startswith("2 images, ")
    assert main([*typed, str(photos), "--out", str(photos)]) == 1
    assert "all of these images are drawn ones" in capsys.readouterr().err


def test_a_call_that_fails_leaves_nothing_to_the_next(run, images, tmp_path, monkeypatch):
    typed = ["predict", "runs/small", "--threshold", "0", "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr("detrnb.commands.predictions._table", lambda found: 1 / 0)
        assert main([*typed, str(images[0])]) == 1
    assert main([*typed, str(images[1])]) == 0
    assert [file.stem for file in (tmp_path / "out" / "pictures").iterdir()] == [images[1].stem]


@pytest.mark.parametrize("name", ["../apart.txt", "{tmp}/apart.txt", "linked/apart.txt"])
def test_nothing_outside_a_folder_of_results_is_removed(name, run, images, tmp_path):
    out, apart = tmp_path / "out", tmp_path / "apart.txt"
    assert main(["predict", "runs/small", str(images[0]), "--threshold=0", f"--out={out}"]) == 0
    apart.write_text("theirs")
    (out / "linked").symlink_to(tmp_path)
    written = json.loads((out / ".written.json").read_text())
    written[name.format(tmp=tmp_path)] = hashlib.sha256(b"theirs").hexdigest()
    (out / ".written.json").write_text(json.dumps(written))
    assert main(["predict", "runs/small", str(images[0]), "--threshold=0", f"--out={out}"]) == 0
    assert apart.read_text() == "theirs"


@pytest.mark.parametrize("threshold", ["best", "class"])
def test_where_no_threshold_is_kept_the_command_evaluates_once(
    threshold, run, images, tmp_path, monkeypatch, capsys
):
    evaluated = made_up(monkeypatch)
    typed = ["--threshold", threshold, "--checkpoint", "last", "--out", str(tmp_path)]
    assert main(["predict", "runs/small", str(images[0]), *typed]) == 0
    assert len(evaluated) == 1
    assert "threshold 0.200, of the best F1" in capsys.readouterr().out


def made_up(patch) -> list:
    """Have thresholds found anew, made-up ones; gives what was evaluated."""
    best = {"threshold": 0.2, "f1": 0.5, "precision": 0.5, "recall": 0.5, "objects": 9}
    kept = RunFolder("runs/small").read_thresholds() | {"overall": best}
    evaluated = []
    patch.setattr(RunFolder, "read_thresholds", lambda self: {})
    patch.setattr("detrnb.training.opening.thresholds", lambda *args: kept)
    evaluate = Run.evaluate
    patch.setattr(Run, "evaluate", lambda self: evaluated.append(self) or evaluate(self))
    return evaluated


def test_what_leads_to_no_image_is_refused_before_the_run_is_opened(capsys):
    assert main(["predict", "runs/none", "nothing/*.jpg"]) == 1
    assert "nothing/*.jpg: no image there" in capsys.readouterr().err
    assert main(["predict", "runs/none", "nothing", "--threshold", "most"]) == 2
