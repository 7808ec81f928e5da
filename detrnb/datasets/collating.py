"""Samples put together: a batch as few tensors, which is what workers hand over and devices copy.

Each tensor that a worker hands over is a file of shared memory, and each one that a device gets a
copy of its own. So the targets of a batch travel as one.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from detrnb.datasets.coco import Target

Sample = tuple[Tensor, Target]
Batch = tuple[Tensor, Tensor | None, list[Target]]


class PackedTargets:
    """The targets of a batch, boxes and labels of all in one tensor; iterated over, each by itself.

    Not a sequence by its class: what pins memory would else take it apart.
    """

    def __init__(self, packed: Tensor, counts: list[int], others: list[Target]) -> None:
        """Take what `pack` makes.

        Args:
            packed: (5 · G,) float32: the boxes (G, 4) of all images, then their labels.
            counts: boxes of each image.
            others: what else is in each image's target.
        """
        self.packed, self.counts, self.others = packed, counts, others

    @classmethod
    def pack(cls, targets: list[Target]) -> "PackedTargets":
        """Put boxes and labels together; a label, at most 2^16, is exact in float32."""
        boxes = [target["boxes"].flatten() for target in targets]
        labels = [target["labels"].float() for target in targets]
        others = [{k: t[k] for k in t if k not in ("boxes", "labels")} for t in targets]
        return cls(torch.cat([*boxes, *labels]), [len(labels_) for labels_ in labels], others)

    def __len__(self) -> int:
        return len(self.counts)

    def __iter__(self) -> Iterator[Target]:
        boxes, labels = self.packed.split([4 * sum(self.counts), sum(self.counts)])
        apart = boxes.view(-1, 4).split(self.counts), labels.long().split(self.counts)
        for boxes, labels, other in zip(*apart, self.others, strict=True):
            yield {"boxes": boxes, "labels": labels, **other}

    def pin_memory(self) -> "PackedTargets":
        """The same in memory from which a device can copy while the process goes on."""
        return PackedTargets(self.packed.pin_memory(), self.counts, self.others)

    def to(self, device: torch.device, non_blocking: bool = False) -> "PackedTargets":
        """The same on a device."""
        packed = self.packed.to(device, non_blocking=non_blocking)
        return PackedTargets(packed, self.counts, self.others)


def packed(
    join: Callable[[list[Sample]], Batch], samples: list[Sample]
) -> tuple[Tensor, Tensor | None, PackedTargets]:
    """What `join` makes of samples, its targets packed."""
    inputs, padding_mask, targets = join(samples)
    return inputs, padding_mask, PackedTargets.pack(targets)


def collate(batch: list[Sample]) -> Batch:
    """Pad images at the bottom and right to one batch.

    Args:
        batch: B samples, images (3, H, W) uint8.

    Returns:
        Images (B, 3, Hmax, Wmax) uint8, channels last, zero where padded; padding mask
        (B, Hmax, Wmax) bool, True on padding, None where nothing is padded; the targets.
    """
    images, targets = zip(*batch, strict=True)
    height = max(image.shape[1] for image in images)
    width = max(image.shape[2] for image in images)
    # By NumPy: torch would spread copies over threads, slower where the cores are busy.
    padded = np.empty((len(images), height, width, 3), dtype=np.uint8)
    padding_mask = np.empty((len(images), height, width), dtype=bool)
    for pixels, mask, image in zip(padded, padding_mask, images, strict=True):
        _, h, w = image.shape
        pixels[:h, :w], pixels[h:], pixels[:h, w:] = image.permute(1, 2, 0), 0, 0
        mask[:h, :w], mask[h:], mask[:h, w:] = False, True, True
    # Told here, where looking costs no wait for a device.
    mask = torch.from_numpy(padding_mask) if padding_mask.any() else None
    return torch.from_numpy(padded).permute(0, 3, 1, 2), mask, list(targets)


def collate_features(batch: list[Sample]) -> Batch:
    """Features (B, C, h, w), no padding mask, since images are of one size, and the targets."""
    features, targets = zip(*batch, strict=True)
    return torch.stack(features), None, list(targets)
