"""The file of kept features: its name tells all that they depend on, and nothing else."""

import json
import os
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from detrnb import Config, build_detr, open_split
from detrnb.datasets.loader import compute_features
from detrnb.datasets.splits import split_paths
from detrnb.training import origin, prepare

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return tmp_path_factory.mktemp("project")


@pytest.fixture(autouse=True)
def _inside(project, monkeypatch):
    monkeypatch.chdir(project)


def config(**data: object) -> Config:
    overrides = {f"data.{key}": value for key, value in data.items()}
    small = {"data.toy.num_images": (4, 2, 2), "model.num_classes": 5}
    return Config.preset("smoke", overrides={**small, **overrides})


def name(config: Config, precision: str = "no", change=lambda model: None, dataset=None) -> str:
    torch.manual_seed(0)
    model = build_detr(config.model, train_backbone=False)
    with torch.no_grad():
        change(model)
    accelerator = SimpleNamespace(mixed_precision=precision, device=CPU)
    dataset = dataset or open_split(config.data, "val2017")
    return prepare._features_path(dataset, model, config.model, accelerator).name


def test_every_run_of_one_backbone_and_its_images_finds_the_same_features():
    assert name(config()) == name(config())
    heads = name(config(), change=lambda model: model.class_embed.weight.add_(1))
    assert heads == name(config())


def test_weights_of_the_backbone_and_precision_make_other_features():
    parameter = "backbone.0.body.model.conv_stem.weight"
    others = {
        name(config()),
        name(config(), precision="bf16"),
        name(config(), change=lambda model: model.get_parameter(parameter)[0, 0, 0].add_(1e-3)),
    }
    assert len(others) == 3


@pytest.mark.parametrize("file", ["backbone.py", "detr.py", "coco.py", "transforms.py"])
def test_code_between_image_and_features_makes_other_features(monkeypatch, file):
    before, hashed = name(config()), origin.hash_of_file
    monkeypatch.setattr(
        origin, "hash_of_file", lambda path: "edited" if path.name == file else hashed(path)
    )
    assert name(config()) != before


@pytest.mark.parametrize("package", ["torch", "torchvision", "timm", "pillow"])
def test_version_of_what_computes_them_makes_other_features(monkeypatch, package):
    before, version = name(config()), metadata.version
    monkeypatch.setattr(metadata, "version", lambda p: "0" if p == package else version(p))
    assert name(config()) != before


def test_images_make_other_features_but_not_their_labels_and_boxes():
    own = {"path": "data/own"}
    before = name(config(**own))
    assert name(config(**own, contiguous_labels=False)) == before
    images, annotations = split_paths(config(**own).data, "val2017")
    content = json.loads(annotations.read_text())
    content["annotations"][0]["bbox"] = [1, 2, 30, 40]
    annotations.write_text(json.dumps(content))
    assert name(config(**own)) == before
    os.utime(next(images.iterdir()), (1, 1))
    assert name(config(**own)) != before


def test_targets_of_kept_features_are_those_of_the_data_set_now():
    """Labels that follow from a setting are not kept with features that do not."""
    for contiguous, labels in ((True, {0, 1, 2, 3}), (False, {1, 2, 3, 4})):
        dataset = open_split(config(contiguous_labels=contiguous).data, "train2017")
        found = compute_features(
            dataset, lambda images, mask: images[:, :1, ::64, ::64].float(), kept=Path("f")
        )
        assert {int(x) for target in found.targets for x in target["labels"]} <= labels
        for index, target in enumerate(found.targets):
            own = dataset[index][1]
            assert torch.equal(target["labels"], own["labels"])
            assert torch.equal(target["boxes"], own["boxes"])
            assert {**target, "boxes": 0, "labels": 0} == {**own, "boxes": 0, "labels": 0}


def test_kept_features_that_are_cut_short_are_computed_anew(capsys):
    dataset, file = open_split(config().data, "val2017"), Path("f.pt")

    def encode(images, mask):
        return images[:, :1, ::64, ::64].float()

    whole = compute_features(dataset, encode, kept=file)
    file.write_bytes(file.read_bytes()[:-100])
    again = compute_features(dataset, encode, kept=file)
    assert torch.equal(again.features, whole.features)
    assert "f.pt is cut off" in capsys.readouterr().out


def test_processes_share_only_buffers_that_training_changes():
    model = build_detr(Config.preset("coco").model)
    assert not prepare._can_drift(model)  # frozen norms, and constants that no checkpoint holds
    model.transformer.encoder.own = torch.nn.BatchNorm1d(2)
    assert prepare._can_drift(model)
