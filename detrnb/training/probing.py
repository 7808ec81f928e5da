"""A few steps of a training, to tell how long it will take and how much memory."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import torch
from accelerate.utils import send_to_device

from detrnb.datasets import Batch, CocoDataset, TrainTransform, resize_shape, resolved
from detrnb.settings import Config, DataConfig, cautions, describe
from detrnb.training.device import device_name, make_accelerator, peak_memory_mb, processes
from detrnb.training.epochs import train_epoch
from detrnb.training.loop import train_one_epoch
from detrnb.training.prepare import Prepared, open_data, prepare
from detrnb.training.progress import duration

PROBED_STEPS, PROBED_SHARE = 5, 0.01  # before training: at most so many, and this share of all


@dataclass(frozen=True)
class Probe:
    """What a few steps of a training took.

    Attributes:
        step_s: median seconds of a step, reading its images included.
        peak_memory_mb: of this process so far, or of the CUDA device's tensors, with the largest
            batch there can be.
        largest: that batch, (B, 3, H, W); None where features are trained on.
    """

    step_s: float
    peak_memory_mb: float
    largest: tuple[int, ...] | None


def probe(ready: Prepared, config: Config, steps: int) -> Probe:
    """Time real steps on real batches, after one on the largest batch there can be.

    The training is left as it was: the steps have learning rate 0, and what they leave in the
    optimizer is undone. Processes of a run call it together.

    Args:
        steps: that are timed.

    Raises:
        ValueError: the largest batch does not fit the device's memory.
    """
    loader, train = ready.train_loader, config.train
    device = ready.accelerator.device
    begin = time.perf_counter()
    batches = [
        send_to_device(loader.collate_fn([loader.dataset[index] for index in indices]), device)
        for indices in islice(cycle(loader.batch_sampler), steps * train.accumulate)
    ]
    read_s = (time.perf_counter() - begin) / steps
    first, largest = batches[0], None
    if isinstance(ready.train_set, CocoDataset):
        first = _largest_batch(config.data, ready.train_set, first)
        largest = tuple(first[0].shape)
    ends: list[float] = []
    with _undone(ready):
        try:
            train_one_epoch(
                ready.model,
                ready.criterion,
                [first] * train.accumulate + batches,
                ready.optimizer,
                ready.accelerator,
                epoch=0,
                seed=train.seed,
                accumulate=train.accumulate,
                clip_max_norm=train.clip_max_norm,
                on_step=lambda loss: ends.append(time.perf_counter()),
            )
        except torch.OutOfMemoryError as error:
            size = " x ".join(map(str, first[0].shape))
            raise ValueError(
                f"a batch of {size} does not fit the memory of {device_name(device)}; lower"
                " train.batch_size (and raise train.accumulate for it) or data.max_size"
            ) from error
    step_s = float(np.median(np.diff(ends)))
    # Workers read while the device computes; without them reading comes on top.
    workers = loader.num_workers
    step_s = max(step_s, read_s / workers) if workers else step_s + read_s
    return Probe(step_s, peak_memory_mb(device), largest)


def make_data(config: Config) -> None:
    """Make what runs of a config's data share, and the first of them would: images, features.

    Raises:
        ValueError: as `fit`.
    """
    _ready(config)


def _ready(config: Config) -> tuple[Prepared, Config]:
    """What training of a config needs, and the config as the data complete it."""
    config = resolved(config, processes().num_processes)
    accelerator = make_accelerator(config.train.precision)
    return prepare(config, accelerator, open_data(config, accelerator)), config


def seconds_per_step(config: Config, steps: int = 20) -> float:
    """Median seconds of a training step of a config; no run is begun.

    Raises:
        ValueError: as `fit`.
    """
    return probe(*_ready(config), steps).step_s


def first_epoch(config: Config) -> dict[str, float]:
    """What a run of a config logs of its first epoch's training; no run is begun.

    Raises:
        ValueError: as `fit`.
        TrainingDiverged: something became NaN or infinite.
    """
    ready, config = _ready(config)
    return train_epoch(ready, config.train, 0, lambda loss: None)["train_line"]


def preview(ready: Prepared, config: Config, global_batch: int, epochs: int) -> None:
    """Say what the epochs that are left will take, and what to beware of."""
    tell, steps = ready.accelerator.print, epochs * ready.steps
    size = len(ready.train_set), global_batch
    tell(describe(config, *size))
    for caution in cautions(config, *size):
        tell(f"warning: {caution}")
    if config.train.compile:
        tell(
            "train.compile: the first steps wait for torch's compiler, half a minute to minutes;"
            " losses agree with those of a model that is not compiled to some six digits"
        )
    timed = min(PROBED_STEPS, int(steps * PROBED_SHARE))
    if timed:
        found = probe(ready, config, timed)
        largest = " x ".join(map(str, found.largest or ()))
        tell(
            f"{found.step_s:.2f} s a step, about {duration(steps * found.step_s)} of training,"
            f" evaluation aside; memory peaks at {found.peak_memory_mb:,.0f} MB"
            + (f" with the largest batch, {largest}" if largest else ""),
            flush=True,
        )


@contextmanager
def _undone(ready: Prepared) -> Iterator[None]:
    """Steps inside leave weights, buffers, optimizer and gradient scaler as they were.

    What is drawn at random need not be put back: every epoch seeds anew.
    """
    changing = [x for x in (ready.optimizer, ready.accelerator.scaler) if x is not None]
    before = [copy.deepcopy(x.state_dict()) for x in changing]
    buffers = [(buffer, buffer.clone()) for buffer in ready.core.buffers()]
    for group in ready.optimizer.param_groups:
        group["initial_lr"] = 0.0
    try:
        yield
    finally:
        ready.optimizer.zero_grad()
        for x, state in zip(changing, before, strict=True):
            x.load_state_dict(state)
        with torch.no_grad():  # of a part with running means, which would begin elsewhere
            for buffer, kept in buffers:
                buffer.copy_(kept)


def _largest_batch(data: DataConfig, dataset: CocoDataset, batch: Batch) -> Batch:
    """A batch of black images as large as training can have, with another's targets."""
    images, _, targets = batch
    device, sizes = images.device, dataset.image_sizes
    H, W = largest_size(data, sizes, len(images)) if np.isfinite(sizes).all() else images.shape[2:]
    images = torch.zeros(len(images), 3, H, W, dtype=torch.uint8, device=device)
    return images, torch.zeros(len(images), H, W, dtype=torch.bool, device=device), targets


def largest_size(data: DataConfig, sizes: np.ndarray, batch_size: int) -> tuple[int, int]:
    """Height and width of the largest batch of training that can be.

    A batch is as high as its highest image and as wide as its widest, so that a wide image beside a
    tall one takes more than either (facebookresearch/detr#150).

    Args:
        sizes: (n, 2) width and height of the images as stored.
    """
    shapes = np.unique(sizes.astype(int), axis=0)
    if data.train_sizes is not None:
        if data.crop:  # the most oblong crops, which any image may become
            short, long = TrainTransform.crop
            shapes = np.concatenate([shapes, [(short, long), (long, short)]])
        shapes = np.array(
            [resize_shape(w, h, max(data.train_sizes), data.max_size) for w, h in shapes.tolist()]
        )
    if batch_size == 1:
        shapes = shapes[[shapes.prod(axis=1).argmax()]]
    width, height = shapes.max(axis=0).tolist()
    return height, width
