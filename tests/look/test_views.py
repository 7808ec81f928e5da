"""What pictures show: one forward pass, its detections, and where its attention goes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from detrnb import Config, build_detr
from detrnb.datasets.splits import open_split
from detrnb.datasets.transforms import EvalTransform
from detrnb.look.knock_outs import keep_part
from detrnb.look.recording import Recording
from detrnb.look.views import Subject, View, object_shares
from detrnb.training.run import Run


def write_coco(root, split, sizes):
    """Grey images of these (height, width) in COCO layout, one box of category 90 in each."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations = [], []
    for i, (height, width) in enumerate(sizes, start=1):
        Image.new("RGB", (width, height), "grey").save(root / split / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        box = {"bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}
        annotations.append({"id": i, "image_id": i, "category_id": 90, **box})
    categories = [{"id": 90, "name": "toothbrush"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An untrained run of the smoke preset; its folder is never read."""
    config = Config.preset("smoke", variant="svd_split")
    torch.manual_seed(0)
    return Run(tmp_path_factory.mktemp("smoke-run"), config, build_detr(config.model).eval())


@pytest.fixture(scope="module")
def subject(run):
    return Subject.from_run(run)


def test_a_look_keeps_detections_and_all_attention_of_one_pass(subject, run):
    passes = []
    hook = subject.model.register_forward_hook(lambda *_: passes.append(1))
    view = subject.look(3)
    hook.remove()
    val = open_split(run.config.data, "val2017")
    assert len(passes) == 1
    assert torch.equal(view.image, val[3][0])
    assert view.title == f"image {val.image_ids[3]} · {run.path.name}"
    assert view.class_names == val.class_names
    assert view.detections["boxes"].shape == (16, 4) and view.detections["boxes"].max() > 1
    assert view.kinds == {
        "encoder self": [f"encoder.{i}.self" for i in range(3)],
        "decoder self": [f"decoder.{i}.self" for i in range(3)],
        "decoder cross": [f"decoder.{i}.cross" for i in range(3)],
    }
    assert view.grid == (8, 8)
    heads = view.heads("decoder cross")
    assert list(heads)[:5] == [*(f"layer 1, head {i}" for i in (1, 2, 3, 4)), "layer 2, head 1"]
    assert torch.equal(heads["layer 3, head 2"], view.maps("decoder.2.cross")[1])
    assert view.recording.parts("encoder.2.self") == ("attention", "object", "context")


def test_an_image_of_ones_own_is_upright_and_as_small_as_the_model_knows(subject, tmp_path):
    photograph = Image.fromarray(np.zeros((90, 400, 3), np.uint8))
    photograph.putpixel((0, 0), (255, 255, 255))
    exif = photograph.getexif()
    exif[0x0112] = 6  # held upright: to be turned by a quarter
    photograph.save(tmp_path / "cat.png", exif=exif)
    view = subject.look(tmp_path / "cat.png")
    assert view.image.shape == (3, 568, 128) and view.title.startswith("cat.png · ")
    assert view.image[:, 0, -1].float().mean() > 0
    assert view.grid == (36, 8)


def test_images_that_are_not_there_are_refused_in_words(subject, tmp_path):
    with pytest.raises(ValueError, match="image 16 of a data set of 16; expected 0 to 15"):
        subject.look(16)
    with pytest.raises(
        ValueError, match="none.jpg cannot be read as an image: .*none.jpg|not found"
    ):
        subject.look("none.jpg")
    Image.fromarray(np.ones((9, 9), np.float32)).save(tmp_path / "depth.tiff")
    with pytest.raises(ValueError, match="depth.tiff cannot be read as an image: holds floating-p"):
        subject.look(tmp_path / "depth.tiff")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match="notes.txt cannot be read as an image"):
        subject.look(tmp_path / "notes.txt")


def test_official_weights_see_a_photograph_without_coco(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config.preset("coco")
    torch.save({"model": build_detr(config.model).state_dict()}, tmp_path / "detr-r50.pth")
    subject = Subject.from_weights("detr-r50.pth", variant="svd_split")
    assert subject.name == "detr-r50" and subject.class_names[17] == "cat"
    assert subject.transform == EvalTransform(800, 1333)
    with pytest.raises(ValueError, match="has no data set here; give the path of an image file"):
        subject.look(0)


def test_a_subject_is_evaluated_on_the_first_images_of_a_split(subject):
    whole = subject.evaluate("test2017").detections
    first = subject.evaluate("test2017", limit=5).detections
    assert list(first) == subject.images("test2017").image_ids[:5].tolist()
    for image_id, found in first.items():
        torch.testing.assert_close(found["boxes"], whole[image_id]["boxes"], rtol=0, atol=0.5)


def test_images_of_different_sizes_are_evaluated_without_padding(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = ((64, 96), (96, 64), (64, 64))
    write_coco(tmp_path / "data" / "coco", "val2017", sizes)
    small = {"model.backbone": "resnet18", "model.d_model": 32, "model.num_encoder_layers": 1}
    small |= {"model.num_decoder_layers": 1, "data.eval_size": None, "data.num_workers": 0}
    config = Config.preset("coco", overrides=small)
    run = Run(tmp_path / "some-run", config, build_detr(config.model).eval())
    subject = Subject.from_run(run)
    with keep_part(subject.model, [0], "context"):  # which refuses padding
        assert len(subject.evaluate("val2017").detections) == 3
        with pytest.raises(ValueError, match="without padding only"):
            run.evaluate("val2017")


def view_of(maps: dict[str, torch.Tensor], boxes: list[list[float]]) -> View:
    """A view of a 20×40 image with a feature map of 2×4; all found class 0 with certainty."""
    recording = Recording(list(maps))
    recording._recorded = {name: {"attention": x[None]} for name, x in maps.items()}
    recording._mask = torch.zeros(1, 2, 4, dtype=torch.bool)
    detections = {
        "scores": torch.tensor([0.6, 0.9, 0.2]),
        "labels": torch.tensor([0, 0, 0]),
        "boxes": torch.tensor(boxes),
        "queries": torch.arange(3),
    }
    image = torch.zeros(3, 20, 40, dtype=torch.uint8)
    return View("image 1", image, detections, ("one",), recording)


def test_what_was_found_is_named_best_first():
    view = view_of({"decoder.0.cross": torch.zeros(1, 3, 8)}, [[0.0, 0, 4, 4]] * 3)
    assert view.found(0.5) == {1: "one 0.90", 0: "one 0.60"}
    assert view.found(0.95) == {}
    assert view.cell(torch.tensor([10.0, 0, 22, 10])) == (0, 1)
    assert view.cell(torch.tensor([30.0, 10, 60, 40])) == (1, 3)  # its centre is outside


def test_shares_of_attention_are_those_counted_by_hand():
    left, right = [0.0, 0, 20, 10], [20.0, 0, 40, 10]  # two cells each of the upper row
    encoder = torch.zeros(1, 8, 8)
    encoder[:, :, 7] = 1.0  # all look at the last cell, in no box ...
    encoder[:, 0] = torch.tensor([0.5, 0, 0, 0.5, 0, 0, 0, 0])  # ... but the first
    cross = torch.full((1, 3, 8), 1 / 8)
    cross[0, 1] = torch.tensor([0.0, 0, 0.7, 0, 0, 0, 0, 0.3])
    among = torch.tensor([[[0.2, 0.3, 0.5], [0.6, 0.1, 0.3], [0, 0, 1]]])
    maps = {"encoder.0.self": encoder, "decoder.0.self": among, "decoder.0.cross": cross}
    shares = object_shares(view_of(maps, [left, right, right]), threshold=0.5)
    assert list(shares.columns) == ["attention", "layer", "head", "share", "even"]
    assert set(shares["layer"]) == set(shares["head"]) == {1}
    by_kind = {kind: rows.reset_index() for kind, rows in shares.groupby("attention")}
    # Best first: query 1 on the right, query 0 on the left.
    assert by_kind["encoder self"]["share"].tolist() == [0, 0.25]
    assert by_kind["decoder cross"]["share"].tolist() == pytest.approx([0.7, 0.25])
    # Query 2 has the box of query 1; nobody has that of query 0.
    assert by_kind["decoder self"]["share"].tolist() == pytest.approx([0.3])
    assert by_kind["decoder self"]["even"].tolist() == pytest.approx([1 / 3])
    assert by_kind["decoder cross"]["even"].tolist() == [0.25, 0.25]


def test_an_image_without_detections_has_no_shares(subject):
    assert object_shares(subject.look(0), threshold=1.1).empty
