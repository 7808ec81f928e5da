"""Batches of images, or of features computed once, as tensors."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from detrnb.bar import Bar
from detrnb.checkpoints import read_checkpoint
from detrnb.datasets.batches import EvalBatches, TrainBatches
from detrnb.datasets.coco import CocoDataset, Target
from detrnb.datasets.collating import Batch, collate, collate_features, packed
from detrnb.runs import cpu_count, remove_left_over, write_whole

CPU = torch.device("cpu")


class FeatureDataset(Dataset):
    """A data set whose images are replaced by the features a frozen backbone makes of them.

    Worth it where images stay as they are (no augmentation, one size): the backbone then runs once
    instead of once an epoch.
    """

    def __init__(self, source: CocoDataset, features: Tensor, size: tuple[int, int]) -> None:
        """Take targets from the data set, features from elsewhere.

        Args:
            features: (n, C, H/stride, W/stride) in the order of `source`.
            size: height and width of every image.
        """
        self.source, self.features = source, features
        self.targets = [source.target(index, size) for index in range(len(source))]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        return self.features[index], self.targets[index]


def compute_features(
    source: CocoDataset,
    encode: Callable[[Tensor, Tensor | None], Tensor],
    batch_size: int = 32,
    kept: Path | None = None,
) -> FeatureDataset:
    """Run the backbone once over a data set.

    Args:
        encode: images (B, 3, H, W) uint8 and padding mask (B, H, W), None where nothing is padded,
            to features (B, C, h, w).
        kept: file that holds the features for the next time; taken from it where it exists, made
            anew where it cannot be read. Its name must tell all that they depend on. Targets are
            not in it: what labels depend on is another matter, and reading them is cheap.

    Raises:
        ValueError: images differ in size, so that features would depend on the batch's padding.
    """
    if kept is not None and kept.exists():
        try:
            return FeatureDataset(source, **_read_features(kept))
        except ValueError as error:
            print(f"{error}; computed again", flush=True)
    features, sizes = [], set()
    with Bar(len(source), f"features of {source.annotations.stem}") as bar:
        for images, padding_mask, targets in make_loader(source, batch_size, num_workers=0):
            sizes.update(target["size"] for target in targets)
            if len(sizes) > 1:
                raise ValueError(
                    f"train.cache_features needs images of one size; {source.annotations} has"
                    f" {sorted(sizes)} (height, width) among its first; set"
                    " train.cache_features=False"
                )
            features.append(encode(images, padding_mask).cpu())
            bar.update(len(targets))
    (size,) = sizes
    content = {"features": torch.cat(features), "size": size}
    if kept is not None:
        remove_left_over(kept.parent)
        write_whole(kept, partial(torch.save, content))
    return FeatureDataset(source, **content)


def _read_features(path: Path) -> dict:
    """What `compute_features` kept.

    Raises:
        ValueError: the file cannot be read, or holds something else.
    """
    content = read_checkpoint(path)
    if not isinstance(content, dict) or content.keys() != {"features", "size"}:
        raise ValueError(f"{path} holds no features of images")
    return content


class Loader(DataLoader):
    """A loader whose batches are on a device, targets apart.

    Where that is a CUDA device, workers' batches lie in pinned memory and are copied while the
    process goes on.
    """

    def __init__(self, *args: object, device: torch.device, **settings: object) -> None:
        super().__init__(*args, pin_memory=device.type == "cuda", **settings)
        self.device = device

    def __iter__(self) -> Iterator[Batch]:
        for parts in super().__iter__():
            inputs, padding_mask, targets = (
                part if part is None else part.to(self.device, non_blocking=self.pin_memory)
                for part in parts
            )
            yield inputs, padding_mask, list(targets)


def make_loader(
    dataset: CocoDataset | FeatureDataset,
    batch_size: int,
    *,
    num_workers: int,
    seed: int | None = None,
    process: tuple[int, int] = (0, 1),
    accumulate: int = 1,
    group_by_aspect: bool = False,
    device: torch.device = CPU,
) -> Loader:
    """Batches for training (with a seed: shuffled, whole steps) or evaluation (in order, all).

    Args:
        process: number of this process, and of processes that share the batches of a step.
        accumulate: batches that a process has for each step of training.
        group_by_aspect: whether images of like aspect ratio share a batch of training.
        device: on which batches are wanted.

    Raises:
        ValueError: the data set is smaller than what one step of training needs.
    """
    if seed is None:
        batches = EvalBatches(len(dataset), batch_size, process=process)
    else:
        needed = batch_size * accumulate * process[1]
        if len(dataset) < needed:
            factors = f"{batch_size} x train.accumulate {accumulate} x {process[1]} processes"
            raise ValueError(
                f"{len(dataset)} training images are fewer than a step needs: train.batch_size"
                f" {factors if needed > batch_size else batch_size}"
            )
        aspects = _aspects(getattr(dataset, "source", dataset)) if group_by_aspect else None
        batches = TrainBatches(
            len(dataset), batch_size, seed, process=process, accumulate=accumulate, aspects=aspects
        )
    join = collate_features if isinstance(dataset, FeatureDataset) else collate
    workers = _workers(num_workers)
    return Loader(
        dataset,
        batch_sampler=batches,
        collate_fn=partial(packed, join),
        num_workers=workers,
        persistent_workers=workers > 0,
        device=device,
        # Its own, or starting workers would draw from the stream that dropout draws from.
        generator=torch.Generator(),
    )


def _aspects(dataset: CocoDataset) -> np.ndarray:
    """Width over height of each image, by the annotation file."""
    widths, heights = dataset.image_sizes.T
    unknown = dataset.image_ids[~np.isfinite(widths / heights)]
    if len(unknown):
        raise ValueError(
            f"{dataset.annotations} has no width and height of {len(unknown)} images, such as"
            f" {unknown[0]}, which data.group_by_aspect needs; set it to False"
        )
    return widths / heights


def _workers(wanted: int) -> int:
    """Loader processes: not more than this process's part of the cores that it may use."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # on this machine, says torchrun
    return min(wanted, (cpu_count() or 1) // processes)
