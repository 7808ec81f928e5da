"""A batch as few tensors: there and back."""

import pickle

import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from detrnb.datasets.coco import CocoDataset
from detrnb.datasets.collating import PackedTargets, collate
from detrnb.datasets.loader import make_loader


def target(count, image_id):
    generator = torch.Generator().manual_seed(image_id)
    return {
        "boxes": torch.rand(count, 4, generator=generator),
        "labels": torch.randint(0, 2**16, (count,), generator=generator),
        "image_id": image_id,
        "orig_size": (30, 40 + image_id),
        "size": (60, 80),
    }


def same(targets, others):
    assert len(targets) == len(others)
    for ours, theirs in zip(targets, others, strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            equal = torch.equal(ours[key], value) if torch.is_tensor(value) else ours[key] == value
            assert equal, key
        assert ours["boxes"].dtype == torch.float32 and ours["labels"].dtype == torch.int64


@pytest.mark.parametrize("counts", [(3, 0, 5), (0, 0), (1,)])
def test_targets_are_as_they_were_before_they_were_packed(counts):
    targets = [target(count, i) for i, count in enumerate(counts)]
    packed = PackedTargets.pack(targets)
    assert len(packed) == len(counts)
    same(list(packed), targets)
    same(list(pickle.loads(pickle.dumps(packed))), targets)
    same(list(packed.to(torch.device("cpu"))), targets)


def test_no_label_is_too_large_to_be_packed():
    labels = torch.tensor([0, 90, 2**16 - 1, 2**16])
    (back,) = PackedTargets.pack([target(4, 1) | {"labels": labels}])
    assert back["labels"].equal(labels)


def test_boxes_of_all_images_are_views_of_one_tensor():
    packed = PackedTargets.pack([target(3, 0), target(2, 1)])
    starts = [t["boxes"].untyped_storage().data_ptr() for t in packed]
    assert starts == [packed.packed.untyped_storage().data_ptr()] * 2


def test_memory_is_pinned_once_a_batch(monkeypatch):
    """Torch would take a sequence apart and pin each of its tensors."""
    monkeypatch.setattr(PackedTargets, "pin_memory", lambda self: "pinned")
    assert pin_memory([PackedTargets.pack([target(3, 0)])]) == ["pinned"]


def test_images_of_a_batch_have_their_colours_side_by_side():
    images = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in ((5, 7), (6, 4))]
    batch, padding_mask, targets = collate([(image, target(1, 0)) for image in images])
    assert batch.shape == (2, 3, 6, 7)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    for row, mask, image in zip(batch, padding_mask, images, strict=True):
        assert row[:, : image.shape[1], : image.shape[2]].equal(image)
        assert row[:, mask].sum() == 0 and mask.sum() == 42 - image[0].numel()


class Samples(CocoDataset):
    """Without files."""

    def __init__(self):
        pass

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return torch.full((3, 4, 6), index, dtype=torch.uint8), target(index, index)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_loaders_batches_are_on_the_device_wanted(device):
    loader = make_loader(Samples(), 2, num_workers=0, device=torch.device(device))
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    for images, padding_mask, targets in batches:
        assert padding_mask is None or padding_mask.device.type == device
        tensors = [images, *(t[k] for t in targets for k in ("boxes", "labels"))]
        assert {tensor.device.type for tensor in tensors} == {device}
        assert isinstance(targets, list)  # as training takes and keeps them
    if device == "cpu":
        same([t for *_, targets in batches for t in targets], [target(i, i) for i in range(5)])
