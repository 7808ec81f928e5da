"""Batches: features computed once equal those computed on the fly, and unfit data is refused."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from detrnb.datasets.loader import _workers, compute_features, make_loader
from detrnb.datasets.splits import open_split
from detrnb.model.detr import build_detr
from detrnb.settings.config import Config


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return tmp_path_factory.mktemp("project")


@pytest.fixture
def config(project, monkeypatch) -> Config:
    monkeypatch.chdir(project)
    return Config.preset("smoke", overrides={"data.toy.num_images": (10, 5, 2)})


def test_cached_features_equal_those_of_the_images(config):
    model = build_detr(config.model, train_backbone=False).eval()
    val = open_split(config.data, "val2017")

    @torch.no_grad()
    def encode(images, padding_mask):
        return model.backbone[0](model.normalize(images, padding_mask))

    cached = make_loader(compute_features(val, encode, batch_size=2), 5, num_workers=0)
    (features, mask, targets), *rest = cached
    assert not rest
    images, image_mask, image_targets = next(iter(make_loader(val, 5, num_workers=0)))
    torch.testing.assert_close(features, encode(images, image_mask), atol=1e-4, rtol=1e-4)
    assert mask is None and image_mask is None  # all are of one size
    assert [t["image_id"] for t in targets] == [t["image_id"] for t in image_targets]
    with torch.no_grad():
        direct = model(model.normalize(images, image_mask), image_mask)["pred_boxes"]
        through = model(None, mask, features=features)["pred_boxes"]
    torch.testing.assert_close(through, direct, atol=1e-4, rtol=1e-4)


def test_kept_features_are_those_computed_and_the_backbone_rests(config, tmp_path):
    val, kept = open_split(config.data, "val2017"), tmp_path / "new" / "val.pt"

    def encode(images, padding_mask):
        return images[:, :2, ::16, ::16].to(torch.bfloat16)

    def never(images, padding_mask):
        raise AssertionError("computed again")

    first = compute_features(val, encode, batch_size=2, kept=kept)
    again = compute_features(val, never, kept=kept)
    assert torch.equal(again.features, first.features) and len(again) == len(first) == 5
    for ours, theirs in zip(again.targets, first.targets, strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            same = torch.equal(ours[key], value) if torch.is_tensor(value) else ours[key] == value
            assert same, key
    assert [path.name for path in kept.parent.iterdir()] == ["val.pt"]


def test_features_of_images_of_two_sizes_are_refused(config):
    val = open_split(config.data, "val2017")
    transform, heights = val.transform, itertools.cycle([128, 100])

    def cut(size, rng):
        height = next(heights)
        return replace(transform(size, rng), region=(0, 0, 128, height), size=(128, height))

    val.transform = cut
    with pytest.raises(ValueError, match=r"needs images of one size; .*\(100, 128\), \(128, 128\)"):
        compute_features(val, lambda images, mask: images.float()[:, :, :1, :1])


def test_fewer_images_than_a_batch_is_refused(config):
    train = open_split(config.data, "train2017", train=True)
    with pytest.raises(ValueError, match=r"10 training images are fewer .* train\.batch_size 16$"):
        make_loader(train, 16, num_workers=0, seed=0)
    with pytest.raises(ValueError, match=r"batch_size 2 x train\.accumulate 3 x 2 processes"):
        make_loader(train, 2, num_workers=0, seed=0, accumulate=3, process=(1, 2))


def test_workers_are_at_most_a_processs_part_of_its_cores(monkeypatch):
    def workers(wanted: int, cores: int, processes: int) -> int:
        monkeypatch.setattr("detrnb.datasets.loader.cpu_count", lambda: cores)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        return _workers(wanted)

    assert workers(4, cores=8, processes=1) == 4
    assert workers(4, cores=2, processes=1) == 2  # as on Colab
    assert workers(4, cores=16, processes=8) == 2
    assert workers(4, cores=2, processes=4) == 0
    assert workers(0, cores=8, processes=1) == 0


def test_batches_by_aspect_need_sizes_in_the_annotations(config):
    train = open_split(config.data, "train2017", train=True)
    grouped = make_loader(train, 2, num_workers=0, seed=0, group_by_aspect=True)
    assert grouped.batch_sampler.aspects.tolist() == [1.0] * 10
    train.image_sizes[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"no width and height of 1 images, such as 4, which"):
        make_loader(train, 2, num_workers=0, seed=0, group_by_aspect=True)


def test_workers_read_what_one_process_reads(config):
    train = open_split(config.data, "train2017", train=True)
    alone = list(make_loader(train, 4, num_workers=0, seed=3))
    shared = list(make_loader(train, 4, num_workers=2, seed=3))
    assert len(alone) == len(shared) == 2
    for (a, _, targets), (b, _, other) in zip(alone, shared, strict=True):
        assert torch.equal(a, b)
        assert [t["image_id"] for t in targets] == [t["image_id"] for t in other]
