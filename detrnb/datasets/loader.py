"""Batches: in an order that only seed and epoch decide, of images or of features computed once."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from detrnb.bar import Bar
from detrnb.datasets.coco import CocoDataset, Target, collate
from detrnb.runs import cpu_count

_TENSORS = ("boxes", "labels")  # of a target; the rest of it are plain numbers
Batch = tuple[Tensor, Tensor, list[Target]]


class EpochSampler(Sampler[int]):
    """A fresh order each epoch, the same whoever asks: it depends on (seed, epoch) alone."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order is given next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.length, generator=generator).tolist())


class FeatureDataset(Dataset):
    """A data set whose images are replaced by the features a frozen backbone makes of them.

    Worth it where images stay as they are (no augmentation, one size): the backbone then runs once
    instead of once an epoch.
    """

    def __init__(self, source: CocoDataset, features: Tensor, targets: list[Target]) -> None:
        """Args: features (n, C, H/stride, W/stride) and targets, in the order of `source`."""
        self.source, self.features, self.targets = source, features, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        return self.features[index], self.targets[index]


def collate_features(batch: list[tuple[Tensor, Target]]) -> Batch:
    """Features (B, C, h, w), a mask of the images' size without padding, and the targets."""
    features, targets = zip(*batch, strict=True)
    height, width = targets[0]["size"]
    return (
        torch.stack(features),
        torch.zeros(len(batch), height, width, dtype=torch.bool),
        list(targets),
    )


def compute_features(
    source: CocoDataset,
    encode: Callable[[Tensor, Tensor], Tensor],
    batch_size: int = 32,
    kept: Path | None = None,
) -> FeatureDataset:
    """Run the backbone once over a data set.

    Args:
        encode: images (B, 3, H, W) uint8 and padding mask (B, H, W) to features (B, C, h, w).
        kept: file that holds the features for the next time; taken from it where it exists.

    Raises:
        ValueError: images differ in size, so that features would depend on the batch's padding.
    """
    if kept is not None and kept.exists():
        return FeatureDataset(source, *_read_features(kept))
    features, targets, sizes = [], [], set()
    with Bar(len(source), f"features of {source.annotations.stem}") as bar:
        for images, padding_mask, batch_targets in make_loader(source, batch_size, num_workers=0):
            sizes.update(target["size"] for target in batch_targets)
            if len(sizes) > 1:
                raise ValueError(
                    f"train.cache_features needs images of one size; {source.annotations} has"
                    f" {sorted(sizes)} (height, width) among its first; set"
                    " train.cache_features=False"
                )
            features.append(encode(images, padding_mask).cpu())
            targets.extend(batch_targets)
            bar.update(len(batch_targets))
    if kept is not None:
        _write_features(kept, torch.cat(features), targets)
    return FeatureDataset(source, torch.cat(features), targets)


def _write_features(path: Path, features: Tensor, targets: list[Target]) -> None:
    """Keep features and targets in one file, wholly or not at all.

    Boxes and labels of all images are joined: a file of thousands of small tensors is slow.
    """
    joined = {name: torch.cat([target[name] for target in targets]) for name in _TENSORS}
    rest = [{k: v for k, v in target.items() if k not in _TENSORS} for target in targets]
    counts = [len(target["labels"]) for target in targets]
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}.tmp")  # several processes may write the same
    torch.save({"features": features, "rest": rest, "counts": counts, **joined}, beside)
    os.replace(beside, path)


def _read_features(path: Path) -> tuple[Tensor, list[Target]]:
    """What `_write_features` kept."""
    content = torch.load(path, weights_only=True)
    columns = [content[name].split(content["counts"]) for name in _TENSORS]
    targets = [
        {**rest, **dict(zip(_TENSORS, row, strict=True))}
        for rest, *row in zip(content["rest"], *columns, strict=True)
    ]
    return content["features"], targets


def make_loader(
    dataset: CocoDataset | FeatureDataset,
    batch_size: int,
    *,
    num_workers: int,
    seed: int | None = None,
    pin_memory: bool = False,
) -> DataLoader:
    """Batches for training (with a seed: shuffled, whole batches) or evaluation (in order, all).

    Raises:
        ValueError: the data set is smaller than one batch of training.
    """
    train = seed is not None
    if train and len(dataset) < batch_size:
        raise ValueError(
            f"{len(dataset)} training images are fewer than train.batch_size {batch_size}"
        )
    workers = min(num_workers, cpu_count() or 1)
    return DataLoader(
        dataset,
        batch_size,
        sampler=EpochSampler(len(dataset), seed) if train else None,
        collate_fn=collate_features if isinstance(dataset, FeatureDataset) else collate,
        drop_last=train,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        # Its own, or starting workers would draw from the stream that dropout draws from.
        generator=torch.Generator(),
    )
