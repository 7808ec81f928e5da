"""Which images make a batch: each process's part of what all processes see in a step.

A step of training sees `processes · accumulate` batches. Which ones depends on seed and epoch
alone, so that processes and passes share out what one process with one large batch would see.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

SORTED_BATCHES = 64  # as many batches' images are sorted by aspect ratio at a time


class TrainBatches(Sampler[list[int]]):
    """This process's batches for an epoch: whole ones, `accumulate` for each whole step.

    The images, shuffled, are cut into batches, which the processes take in turns; those that do not
    fill a step are left out, as the reference leaves out images that do not fill a batch. With
    aspect ratios, stretches of the shuffled images are sorted by them before they are cut, and the
    batches shuffled after.

    Args:
        length: images in all.
        batch_size: of one process and pass.
        process: this process's number, and the number of processes.
        accumulate: passes a step.
        aspects: (length,) width over height of each image, for batches of like images.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        *,
        process: tuple[int, int] = (0, 1),
        accumulate: int = 1,
        aspects: np.ndarray | None = None,
    ) -> None:
        self.length, self.batch_size, self.seed, self.epoch = length, batch_size, seed, 0
        (self.process, self.processes), self.accumulate = process, accumulate
        self.aspects = aspects

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose batches are given next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // (self.batch_size * self.processes * self.accumulate) * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.length, generator=generator).numpy()
        whole = order[: self.length // self.batch_size * self.batch_size]
        batches = whole.reshape(-1, self.batch_size)
        if self.aspects is not None:
            stretch = SORTED_BATCHES * self.batch_size
            stretches = (whole[i : i + stretch] for i in range(0, len(whole), stretch))
            ordered = [s[np.argsort(self.aspects[s], kind="stable")] for s in stretches]
            batches = np.concatenate(ordered).reshape(-1, self.batch_size)
            batches = batches[torch.randperm(len(batches), generator=generator).numpy()]
        mine = batches[self.process :: self.processes][: len(self)]
        return iter(mine.tolist())


class EvalBatches(Sampler[list[int]]):
    """This process's part of all images in their order, each in one batch of one process.

    Batches of all processes together are `processes · batch_size` images in a row; of the last,
    some processes may have fewer images, or none and so a batch less.

    Args: as for `TrainBatches`.
    """

    def __init__(self, length: int, batch_size: int, *, process: tuple[int, int] = (0, 1)) -> None:
        self.length, self.batch_size, (self.process, self.processes) = length, batch_size, process

    def _starts(self) -> range:
        return range(self.process * self.batch_size, self.length, self.processes * self.batch_size)

    def __len__(self) -> int:
        return len(self._starts())

    def __iter__(self) -> Iterator[list[int]]:
        for start in self._starts():
            yield list(range(start, min(start + self.batch_size, self.length)))
