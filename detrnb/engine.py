"""Runs: `Config` in, run folder out.

A run folder is all that is kept: `fit` goes on from what it finds there, `load_run` rebuilds the
model from it.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Subset

from detrnb.config import Config
from detrnb.datasets.annotations import (
    Classes,
    category_difference,
    class_names,
    read_annotations,
)
from detrnb.datasets.loader import make_loader
from detrnb.datasets.splits import open_split, resolved, split_paths, with_classes
from detrnb.detr import DETR, build_criterion, build_detr
from detrnb.device import default_device, from_main, make_accelerator, processes
from detrnb.epoch import Evaluation, evaluate
from detrnb.logs import is_over, log_table, read_log
from detrnb.mirror import Mirror, bring_back
from detrnb.planning import cautions, describe
from detrnb.probe import probe
from detrnb.progress import Progress, duration
from detrnb.runs import RunFolder, config_differences, project_root, run_name
from detrnb.training import Training
from detrnb.weights import load_weights

PROBED_STEPS, PROBED_SHARE = 5, 0.01  # before training: at most so many, and this share of all


@dataclass(frozen=True)
class Run:
    """A run folder, opened.

    Attributes:
        model: on the default device, in evaluation mode.
        classes: label -> category id and name, as trained; None in runs of before these were kept.
    """

    path: Path
    config: Config
    model: DETR
    classes: Classes | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Label -> name; "N/A" for a label without category. Needs no data where these are kept."""
        data = self.config.data
        classes = self.classes or open_split(data, data.val_split).classes
        return class_names(classes, self.config.model.num_classes)

    @property
    def log(self) -> pd.DataFrame:
        """One row an epoch; COCO's numbers also as columns AP, AP50, ..."""
        return log_table(read_log(self.path))

    @property
    def history(self) -> dict[str, np.ndarray]:
        """The variant's own parameters, by name: before training and after each epoch, stacked."""
        return RunFolder(self.path).read_history()

    @property
    def provenance(self) -> dict:
        """How the run was made: versions, device, seed, data, time, memory."""
        return RunFolder(self.path).read_provenance()

    def evaluate(self, split: str | None = None) -> Evaluation:
        """As `evaluate_split`; refuses a split of other categories than the run was trained on."""
        split = split or self.config.data.val_split
        if self.classes is not None:
            _, annotations = split_paths(self.config.data, split)
            difference = category_difference(
                read_annotations(annotations).categories, self.classes.values()
            )
            if difference:
                raise ValueError(
                    f"{annotations} has other categories than {self.path} was trained on"
                    f" ({difference}); it must list the same"
                )
        return evaluate_split(self.model, self.config, split)


def evaluate_split(
    model: DETR, config: Config, split: str | None = None, *, limit: int | None = None
) -> Evaluation:
    """Losses, metrics and detections of a model on a split of its data.

    Args:
        split: the validation split unless named.
        limit: how many images, from the first; None for all.
    """
    dataset = open_split(config.data, split or config.data.val_split)
    if limit is not None:
        dataset = Subset(dataset, range(min(limit, len(dataset))))
    accelerator = make_accelerator(config.train.precision)
    loader = make_loader(dataset, config.train.batch_size, num_workers=config.data.num_workers)
    criterion = build_criterion(config.model).to(accelerator.device)
    return evaluate(model, criterion, loader, accelerator)


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
    weights = folder.last if checkpoint == "last" else folder.best
    changes = load_weights(model, weights.absolute()).changes
    if changes:
        raise ValueError(
            f"{weights} does not hold the model of {folder.config_path} ({'; '.join(changes)}); it"
            " is of another run"
        )
    kept = torch.load(weights, map_location="cpu", weights_only=True, mmap=True)
    model = model.place(default_device()).eval()
    return Run(folder.path, config, model, kept.get("classes"))


def _open_folder(folder: RunFolder, config: Config, resume: str) -> None:
    """Make the run folder or see that it is this config's."""
    settings = config.model_dump(mode="json")
    if folder.config_path.exists():
        differing = config_differences(Config.completed(folder.read_config()), settings)
        if differing:
            weights = (
                f", and to start from that one's weights train.init_from='runs/{folder.path.name}'"
            )
            start = weights if folder.best.exists() else ""
            changes = "; ".join(f"{k}: {a!r} there, {b!r} now" for k, (a, b) in differing.items())
            raise ValueError(
                f"{folder.path} holds a run of another config ({changes}). Give this one another"
                f" name{start}; or delete that folder"
            )
        if resume == "never":
            raise ValueError(
                f"{folder.path} holds this run already and resume is 'never'; delete the folder to"
                " start over, give another name, or resume='auto' to go on"
            )
    folder.create(settings)
    folder.repair_log()


def _checkpoint(folder: RunFolder) -> dict | None:
    """What a run goes on from, if there is anything."""
    state = None
    if folder.last.exists():
        state = torch.load(folder.last, map_location="cpu", weights_only=True)
    trained, logged = 0 if state is None else state["epoch"] + 1, _epochs(folder)
    if logged not in (trained, trained - 1):  # the last epoch may lack its evaluation
        raise ValueError(
            f"{folder.path}: log.txt holds {logged} epochs, last.pt {trained}; they are not of one"
            " run. Bring back what is missing, or delete the folder"
        )
    return state


def _epochs(folder: RunFolder) -> int:
    """Epochs that are logged."""
    log = folder.read_log()
    return log[-1]["epoch"] + 1 if log else 0


def _is_over(folder: RunFolder, config: Config) -> bool:
    """Whether nothing is left to train."""
    return is_over(folder.read_log(), config.train.model_dump())


def fit(config: Config, resume: Literal["auto", "never"] = "auto", name: str | None = None) -> Run:
    """Train and evaluate what a config describes, into `runs/<name>/`.

    A finished run is opened, not trained again; an interrupted one goes on and ends with the log of
    an unbroken one. Of several processes each calls it alike; they train one run, as one process
    would with batches as large as theirs together. torchrun starts them (`detrnb.train`), or in a
    notebook, before anything uses a GPU there, `accelerate.notebook_launcher(train,
    num_processes=2)` with a function that calls this one and returns nothing.

    The folder is copied after each epoch to where mirror.py says, and brought back from there.

    Args:
        resume: `never` refuses a folder that holds the run already.
        name: of the folder; preset, variant, seed and a hash of the config unless given.

    Raises:
        ValueError: the folder holds another config's run, or the data cannot be read.
        TrainingDiverged: something became NaN or infinite; the last checkpoint is kept.
    """
    config = from_main(partial(with_classes, config))
    # Without defaults: a setting that is added later leaves the names of earlier runs as they are.
    stated = config.model_dump(mode="json", exclude_defaults=True)
    name = name or run_name(config.preset_name, config.model.variant, config.train.seed, stated)
    folder = RunFolder(project_root() / "runs" / name)
    from_main(partial(bring_back, folder))
    config = from_main(partial(_resolved, config, folder))
    from_main(partial(_open_folder, folder, config, resume))
    if not _is_over(folder, config):
        _train(config, folder, _checkpoint(folder))
    elif processes().is_main_process:
        began = folder.read_provenance().get("started", "an unknown time")
        print(f"{folder.path.name}: opened the finished run of {began}; delete it to train anew")
    return load_run(folder.path)


def _resolved(config: Config, folder: RunFolder) -> Config:
    """The config with what it leaves to the data: as the folder's run began, or as planned now."""
    if folder.config_path.exists():
        config = config.as_begun(folder.read_config())
    return resolved(config, processes().num_processes)


def _train(config: Config, folder: RunFolder, state: dict | None) -> None:
    """The epochs that are missing in a run folder."""
    before = folder.read_provenance().get("wall_time_s", 0.0)
    begin = time.perf_counter()
    training = Training(config, folder, state)
    training.write_provenance(before)
    accelerator = training.accelerator
    trained = 0 if state is None else state["epoch"] + 1
    if trained < config.train.epochs:
        _preview(training, config.train.epochs - trained)
    mirror = Mirror(folder)
    progress = Progress(folder.path.name, config.train.epochs, training.steps)
    logged = _epochs(folder)
    first = 0 if state is None else state["epoch"]
    try:
        for epoch in range(first, config.train.epochs):
            start = time.perf_counter()
            if state is None or epoch != state["epoch"]:
                state = training.train_epoch(epoch, progress)
            elif epoch < logged:  # trained and evaluated before
                continue
            training.evaluate_epoch(state)
            now = time.perf_counter()
            training.write_provenance(before + now - begin)
            if accelerator.is_main_process:
                mirror.update()
                left = (now - start) * (config.train.epochs - epoch - 1)
                progress.epoch(folder.read_log(), now - start, left)
            if from_main(partial(_is_over, folder, config)):
                if epoch + 1 < config.train.epochs:
                    accelerator.print(f"no better AP for {config.train.patience} epochs: done")
                break
    finally:
        progress.close()
    accelerator.wait_for_everyone()  # until the main process has written the last of it


def _preview(training: Training, epochs: int) -> None:
    """Say what the epochs that are left will take, and what to beware of."""
    tell, steps = training.accelerator.print, epochs * training.steps
    size = len(training.train_set), training.provenance["global_batch"]
    tell(describe(training.config, *size))
    for caution in cautions(training.config, *size):
        tell(f"warning: {caution}")
    timed = min(PROBED_STEPS, int(steps * PROBED_SHARE))
    if timed:
        found = probe(training, timed)
        largest = " x ".join(map(str, found.largest or ()))
        tell(
            f"{found.step_s:.2f} s a step, about {duration(steps * found.step_s)} of training,"
            f" evaluation aside; memory peaks at {found.peak_memory_mb:,.0f} MB"
            + (f" with the largest batch, {largest}" if largest else ""),
            flush=True,
        )
