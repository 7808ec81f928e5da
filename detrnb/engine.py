"""Training and evaluation: `Config` in, run folder out.

A run folder is all that is kept: `fit` goes on from what it finds there, `load_run` rebuilds the
model from it.
"""

import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from detrnb.backbone import load_backbone_weights
from detrnb.config import Config, DataConfig
from detrnb.datasets.coco import CocoDataset, data_paths, fingerprint
from detrnb.datasets.loader import compute_features, make_loader
from detrnb.datasets.toy import make_toy
from detrnb.datasets.transforms import EvalTransform, TrainTransform
from detrnb.detr import DETR, build_criterion, build_detr, load_weights
from detrnb.epoch import Evaluation, build_optimizer, evaluate, train_one_epoch
from detrnb.progress import Progress
from detrnb.runs import (
    RunFolder,
    config_differences,
    log_table,
    project_root,
    provenance,
    read_log,
    run_name,
)


def make_accelerator(precision: str) -> Accelerator:
    """The device, precision and processes to run with; the only place that chooses a device.

    `auto` is bf16 where the hardware computes in it, fp16 on other CUDA devices (a T4 only emulates
    bf16), else fp32.
    """
    if precision == "auto":
        if torch.cuda.is_available():
            native = torch.cuda.is_bf16_supported(including_emulation=False)
            precision = "bf16" if native else "fp16"
        else:
            # Only newer torch tells what the processor can do.
            capabilities = getattr(torch.cpu, "get_capabilities", dict)()
            precision = "bf16" if capabilities.get("amx_bf16") else "fp32"
    # accelerate keeps one state a process and refuses another precision; a notebook may want it.
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision="no" if precision == "fp32" else precision)


def _place(model: DETR, accelerator: Accelerator) -> DETR:
    """The model on its device, the backbone's weights laid out as its images come."""
    model.to(accelerator.device)
    model.backbone[0].to(memory_format=torch.channels_last)
    return model


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def open_split(data: DataConfig, split: str, *, train: bool = False, seed: int = 0) -> CocoDataset:
    """One split of a config's data set, generated first where it is the toy set.

    Args:
        split: such as `val2017`.
        train: whether images are augmented as in training.
        seed: of the augmentation.

    Raises:
        ValueError: folder or annotations are missing or malformed.
    """
    root = project_root() / data.path
    if data.toy is not None:
        make_toy(root, **data.toy.model_dump())
    if train and data.train_sizes is not None:
        transform = TrainTransform(
            data.train_sizes, data.max_size, (384, 600) if data.crop else None, data.flip
        )
    else:
        size = None if train else data.eval_size
        transform = EvalTransform(size, data.max_size)
    images, annotations = data_paths(root, split)
    return CocoDataset(images, annotations, transform, seed=seed, contiguous=data.contiguous_labels)


def _require_classes(dataset: CocoDataset, num_classes: int) -> None:
    if dataset.num_classes != num_classes:
        raise ValueError(
            f"{dataset.annotations} has {dataset.num_classes} classes, model.num_classes is"
            f" {num_classes}; set model.num_classes={dataset.num_classes}"
        )


@dataclass(frozen=True)
class Run:
    """A run folder, opened. `model` is on the default device, in evaluation mode."""

    path: Path
    config: Config
    model: DETR

    @property
    def log(self) -> pd.DataFrame:
        """One row an epoch; COCO's numbers also as columns AP, AP50, ..."""
        return log_table(read_log(self.path))

    @property
    def provenance(self) -> dict:
        """How the run was made: versions, device, seed, data, time, memory."""
        return RunFolder(self.path).read_provenance()

    def evaluate(self, split: str | None = None) -> Evaluation:
        """Losses, metrics and detections on a split, the validation split unless named."""
        dataset = open_split(self.config.data, split or self.config.data.val_split)
        accelerator = make_accelerator(self.config.train.precision)
        loader = make_loader(dataset, self.config.train.batch_size, num_workers=0)
        criterion = build_criterion(self.config.model).to(accelerator.device)
        return evaluate(self.model, criterion, accelerator.prepare(loader), accelerator)


def load_run(path: str | Path, checkpoint: Literal["last", "best"] = "last") -> Run:
    """Open a run folder; the model is rebuilt from its own config.json.

    Args:
        checkpoint: weights of the last epoch, or of the epoch with the best validation AP.

    Raises:
        ValueError: no run there, or no checkpoint in it.
    """
    folder = RunFolder(path)
    config = Config.from_dict(folder.read_config())
    model = build_detr(config.model, train_backbone=config.train.lr_backbone > 0)
    load_weights(model, folder.last if checkpoint == "last" else folder.best)
    return Run(folder.path, config, _place(model, make_accelerator("fp32")).eval())


def _save(path: Path, content: dict) -> None:
    """Write a checkpoint wholly or not at all."""
    beside = path.with_suffix(".tmp")
    torch.save(content, beside)
    os.replace(beside, path)


def _open_folder(folder: RunFolder, config: Config, resume: str) -> dict | None:
    """Make the run folder or see that it is this config's; the checkpoint to go on from, if any."""
    settings = config.model_dump(mode="json")
    if folder.config_path.exists():
        differing = config_differences(folder.read_config(), settings)
        if differing:
            changes = "; ".join(f"{k}: {a!r} there, {b!r} now" for k, (a, b) in differing.items())
            raise ValueError(
                f"{folder.path} holds a run of another config ({changes}). Give this one another"
                " name, or delete that folder"
            )
        if resume == "never":
            raise ValueError(
                f"{folder.path} holds this run already and resume is 'never'; delete the folder to"
                " start over, give another name, or resume='auto' to go on"
            )
    folder.create(settings)
    folder.repair_log()
    if not folder.last.exists():
        return None
    return torch.load(folder.last, map_location="cpu", weights_only=True)


class _Training:
    """What `fit` holds while it trains: data, model, optimizer, and the run folder it writes."""

    def __init__(self, config: Config, folder: RunFolder, state: dict | None) -> None:
        self.config, self.folder = config, folder
        self.accelerator = make_accelerator(config.train.precision)
        train, data = config.train, config.data
        datasets = [
            open_split(data, data.train_split, train=True, seed=train.seed),
            open_split(data, data.val_split),
        ]
        for dataset in datasets:
            _require_classes(dataset, config.model.num_classes)
        torch.manual_seed(train.seed)
        model = build_detr(config.model, train_backbone=train.lr_backbone > 0)
        if state is not None:
            model.load_state_dict(state["model"])
        elif train.init_from is not None:
            start = Path(train.init_from)
            load_weights(model, RunFolder(start).best if start.is_dir() else start)
        else:
            load_backbone_weights(
                model.backbone[0], config.model.backbone, config.model.backbone_weights
            )
        _place(model, self.accelerator)
        self.provenance = {
            **provenance(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "precision": self.accelerator.mixed_precision,
            "seed": train.seed,
            "data": {d.annotations.stem: fingerprint(d.annotations) for d in datasets},
            "global_batch": train.batch_size * self.accelerator.num_processes,
        }
        if train.cache_features:
            datasets = [compute_features(d, self._encoder(model)) for d in datasets]
        pin = self.accelerator.device.type == "cuda"
        loaders = [
            make_loader(
                d, train.batch_size, num_workers=data.num_workers, seed=seed, pin_memory=pin
            )
            for d, seed in zip(datasets, (train.seed, None), strict=True)
        ]
        self.num_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self.criterion = build_criterion(config.model).to(self.accelerator.device)
        self.train_set = datasets[0]
        self.model, self.optimizer, self.train_loader, self.val_loader = self.accelerator.prepare(
            model, build_optimizer(model, train), *loaders
        )
        self.provenance["steps_per_epoch"] = len(self.train_loader)
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(state["scaler"])

    def _encoder(self, model: DETR) -> Callable[[Tensor, Tensor], Tensor]:
        """What turns images into features once and for all."""

        @torch.no_grad()
        def encode(images: Tensor, padding_mask: Tensor) -> Tensor:
            device = self.accelerator.device
            images, padding_mask = images.to(device), padding_mask.to(device)
            with self.accelerator.autocast():
                return model.backbone[0](model.normalize(images, padding_mask))

        model.eval()
        return encode

    def train_epoch(self, epoch: int, progress: Progress) -> dict:
        """Train one epoch and write its checkpoint."""
        # Seeded anew each epoch, so that a resumed run draws what the unbroken one draws.
        torch.manual_seed(self.config.train.seed * 1_000_003 + epoch)
        self.train_loader.set_epoch(epoch)
        if isinstance(self.train_set, CocoDataset):
            self.train_set.set_epoch(epoch)
        line = train_one_epoch(
            self.model,
            self.criterion,
            self.train_loader,
            self.optimizer,
            self.accelerator,
            self.config.train,
            epoch,
            progress.step,
        )
        scaler = self.accelerator.scaler
        state = {
            "model": self.accelerator.unwrap_model(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "epoch": epoch,
            "train_line": line,
        }
        if self.accelerator.is_main_process:
            _save(self.folder.last, state)
        return line

    def evaluate_epoch(self, epoch: int, train_line: dict) -> None:
        """Evaluate the model, keep it if it is the best, write the epoch's log line."""
        result = evaluate(self.model, self.criterion, self.val_loader, self.accelerator)
        line = {
            **train_line,
            **result.log,
            "test_coco_eval_bbox": result.metrics.stats,
            "epoch": epoch,
            "n_parameters": self.num_parameters,
            "test_coco_eval_bbox_per_class": result.metrics.per_class,
        }
        if not self.accelerator.is_main_process:
            return
        best = max((e["test_coco_eval_bbox"][0] for e in self.folder.read_log()), default=-math.inf)
        if result.metrics.stats[0] > best:
            beside = self.folder.best.with_suffix(".tmp")
            shutil.copyfile(self.folder.last, beside)
            os.replace(beside, self.folder.best)
        self.folder.append_log(line)

    def write_provenance(self, seconds: float) -> None:
        """Say how the run was made, with what it took so far."""
        if self.accelerator.is_main_process:
            peak = _peak_memory_mb(self.accelerator.device)
            measured = {"wall_time_s": seconds, "peak_memory_mb": peak}
            self.folder.write_provenance(self.provenance | measured)


def fit(config: Config, resume: Literal["auto", "never"] = "auto", name: str | None = None) -> Run:
    """Train and evaluate what a config describes, into `runs/<name>/`.

    A finished run is opened, not trained again; an interrupted one goes on and ends with the log of
    an unbroken one.

    Args:
        resume: `never` refuses a folder that holds the run already.
        name: of the folder; preset, variant, seed and a hash of the config unless given.

    Raises:
        ValueError: the folder holds another config's run, or the data cannot be read.
        TrainingDiverged: something became NaN or infinite; the last checkpoint is kept.
    """
    settings = config.model_dump(mode="json")
    name = name or run_name(config.preset_name, config.model.variant, config.train.seed, settings)
    folder = RunFolder(project_root() / "runs" / name)
    state = _open_folder(folder, config, resume)
    done = len(folder.read_log())
    if done < config.train.epochs:
        _train(config, folder, state)
    return load_run(folder.path)


def _train(config: Config, folder: RunFolder, state: dict | None) -> None:
    """The epochs that are missing in a run folder."""
    before = folder.read_provenance().get("wall_time_s", 0.0)
    begin = time.perf_counter()
    training = _Training(config, folder, state)
    progress = Progress(folder.path.name, config.train.epochs, len(training.train_loader))
    logged = len(folder.read_log())
    first = 0 if state is None else state["epoch"]
    try:
        for epoch in range(first, config.train.epochs):
            start = time.perf_counter()
            if state is not None and epoch == state["epoch"]:
                if epoch < logged:  # trained and evaluated before
                    continue
                line = state["train_line"]
            else:
                line = training.train_epoch(epoch, progress)
            training.evaluate_epoch(epoch, line)
            now = time.perf_counter()
            training.write_provenance(before + now - begin)
            if training.accelerator.is_main_process:
                left = (now - start) * (config.train.epochs - epoch - 1)
                progress.epoch(folder.read_log(), now - start, left)
    finally:
        progress.close()
