"""Cached features are what this run's backbone makes of this run's images, whatever was cached."""

import pytest
import torch
from PIL import Image

from detrnb import Config
from detrnb.training import make_accelerator
from detrnb.training.prepare import open_data, prepare

SETTINGS = {
    "data.toy.num_images": (4, 2, 2),
    "model.backbone_weights": "none",
    "train.batch_size": 2,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder in which features are cached already."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert_own_features({})
    return folder


def assert_own_features(overrides: dict) -> None:
    config = Config.preset("smoke", overrides=SETTINGS | overrides)
    accelerator = make_accelerator(config.train.precision)
    datasets = open_data(config, accelerator)
    ready = prepare(config, accelerator, datasets)
    for source, loader in zip(datasets, (ready.train_loader, ready.val_loader), strict=True):
        images = torch.stack([source[i][0] for i in range(len(source))])
        mask = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool)
        ready.model.eval()
        with torch.no_grad(), accelerator.autocast():
            own = ready.core.backbone[0](ready.core.normalize(images, mask))
        cached = loader.dataset.features
        assert cached.dtype == own.dtype
        torch.testing.assert_close(cached, own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "overrides",
    [
        {"train.seed": 1},  # other weights, since they are random
        {"model.backbone_weights": "imagenet"},
        {"train.precision": "bf16"},
        {"model.stride": 8},
        {"data.toy.seed": 1, "data.path": "data/other"},
    ],
    ids=lambda overrides: next(iter(overrides)),
)
def test_features_are_of_this_runs_backbone_precision_and_images(project, monkeypatch, overrides):
    monkeypatch.chdir(project)
    assert_own_features({"train.precision": "fp32"} | overrides)


def test_features_of_an_image_that_changed_are_made_anew(project, monkeypatch):
    monkeypatch.chdir(project)
    image = next((project / "data").glob("smoke*/val2017/*.png"))
    Image.new("RGB", (128, 128), "white").save(image)
    assert_own_features({})
