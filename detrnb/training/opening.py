"""A run folder, opened: `load_run` rebuilds the model from its own config.json."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
from PIL import Image
from torch.utils.data import Subset

from detrnb.checkpoints import read_checkpoint
from detrnb.datasets import (
    Classes,
    category_difference,
    class_names,
    fingerprint,
    make_loader,
    open_split,
    read_annotations,
    split_paths,
)
from detrnb.model import DETR, build_criterion, build_detr, load_weights
from detrnb.runs import (
    Mirror,
    RunFolder,
    located,
    log_table,
    of_two_runs,
    read_log,
    this_process,
)
from detrnb.settings import Config
from detrnb.training.device import default_device, from_main, make_accelerator, processes
from detrnb.training.loop import Evaluation, evaluate
from detrnb.training.origin import code_of, other_code
from detrnb.training.predicting import Level, Picture, Predictions, level, predict
from detrnb.training.sources import changed_sources, open_variants
from detrnb.training.thresholds import thresholds

TEST_SPLIT = "test2017"  # nothing is tuned on it
Checkpoint = Literal["last", "best"]
# What a run goes on from; `classes` is missing in runs of before these were kept.
STATE = {"model", "optimizer", "scaler", "epoch", "train_line", "train_time_s"}


@dataclass(frozen=True)
class Run:
    """A run folder, opened.

    Attributes:
        model: on the default device, in evaluation mode.
        classes: label -> category id and name, as trained; None in runs of before these were kept.
        epoch: of the weights, from 0; None where it is not known.
        averaged: whether the weights are the averaged ones of `train.ema_decay`.
    """

    path: Path
    config: Config
    model: DETR
    classes: Classes | None = None
    epoch: int | None = None
    averaged: bool = False

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

    @property
    def thresholds(self) -> dict:
        """Which scores to take for detections: as kept with best.pt, or found by evaluating anew.

        As from `thresholds.thresholds`.
        """
        kept = RunFolder(self.path).read_thresholds()
        if kept and kept["epoch"] == self.epoch and not self.averaged:
            return kept
        evaluation = self.evaluate()
        dataset = open_split(self.config.data, self.config.data.val_split)
        return thresholds(dataset, evaluation.detections, self.epoch)

    def predict(
        self,
        images: Sequence[Picture] | Picture,
        threshold: float | Literal["best", "class"] | Level = "best",
    ) -> Predictions:
        """What the model finds in any images.

        Args:
            images: paths, or pictures of PIL's or as (H, W, 3) uint8; or one of them. Files and
                pictures of PIL's are turned as their EXIF says.
            threshold: the least score that counts: a number; `best`, of the best F1 on the
                validation split; `class`, each class's own; or as from `level`.

        Raises:
            ValueError: a threshold that cannot be had, what is no picture, or none of the images
                can be read.
        """
        one = isinstance(images, str | Path | Image.Image) or hasattr(images, "shape")
        if not isinstance(threshold, Level):
            threshold = level(threshold, self.thresholds if isinstance(threshold, str) else {})
        limits = threshold.of(self.class_names)
        data = self.config.data
        classes = self.classes or open_split(data, data.val_split).classes
        return predict(
            self.model, self.config, [images] if one else images, classes, self.class_names, limits
        )

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

    Processes of a run call it together, and share out the images.

    Args:
        split: the validation split unless named.
        limit: how many images, from the first; None for all.
    """
    dataset = open_split(config.data, split or config.data.val_split)
    if limit is not None:
        dataset = Subset(dataset, range(min(limit, len(dataset))))
    accelerator = make_accelerator(config.train.precision)
    loader = make_loader(
        dataset,
        config.train.batch_size,
        num_workers=config.data.num_workers,
        process=(accelerator.process_index, accelerator.num_processes),
        device=accelerator.device,
    )
    criterion = build_criterion(config.model).to(accelerator.device)
    return evaluate(model, criterion, loader, accelerator)


def keep_test(run: Run) -> None:
    """Evaluate a finished run on TEST_SPLIT, unless that was done, into its folder's test.json.

    Processes of a run call it together.
    """
    folder = RunFolder(run.path)
    if from_main(folder.test_path.exists):  # a network's disk may tell each another thing
        return
    begin = time.perf_counter()
    metrics = run.evaluate(TEST_SPLIT).metrics
    seconds = time.perf_counter() - begin
    if processes().is_main_process:
        last, (_, annotations) = len(run.log) - 1, split_paths(run.config.data, TEST_SPLIT)
        reached = metrics.stats, metrics.per_class, seconds
        folder.write_test(TEST_SPLIT, last, *reached, fingerprint(annotations))
        Mirror(folder).update()


def load_run(
    path: str | Path,
    checkpoint: Checkpoint = "last",
    *,
    averaged: bool = False,
    variants: Iterable[type | str | Path] = (),
) -> Run:
    """Open a run folder; the model is rebuilt from its own config.json. Nothing is written.

    Where its code is not today's, that is said.

    Args:
        path: from the current folder; where that has none, from the project's.
        checkpoint: weights of the last epoch, or of the epoch with the best validation AP.
        averaged: take that checkpoint's averaged weights, which a run with `train.ema_decay` has.
        variants: a user's own that it was trained with: their classes, or files that register
            them. Where they are not as they were trained, that is said.

    Raises:
        ValueError: no run there, none of this version, or no sound checkpoint of it; says whether
            the other one is. A variant that is not known here.
    """
    if checkpoint not in get_args(Checkpoint):
        raise ValueError(
            f"checkpoint is {checkpoint!r}; expected 'last' or 'best', and for averaged weights"
            " averaged=True"
        )
    folder = RunFolder(located(path))
    open_variants(folder, variants)
    config = Config.from_dict(read_settings(folder))
    model = build_detr(config.model, train_backbone=config.train.lr_backbone > 0)
    weights = folder.last if checkpoint == "last" else folder.best
    changed = changed_sources(folder, config)
    try:
        # Where it is missing, `load_weights` says so.
        kept = read_checkpoint(weights, mmap=True) if weights.is_file() else None
        see_run(folder, kept, weights)
        changes = load_weights(model, weights.absolute(), kept).changes
    except ValueError as error:
        raise ValueError(f"{error}{_because(changed) or _other(folder, checkpoint)}") from None
    if changes:
        of_another = f"; it is of another run{_other(folder, checkpoint)}"
        raise ValueError(
            f"{weights} does not hold the model of {folder.config_path} ({'; '.join(changes)})"
            f"{_because(changed) or of_another}"
        )
    if averaged:
        if "ema" not in kept:
            raise ValueError(f"{weights} has no averaged weights; train.ema_decay keeps some")
        model.load_state_dict(kept["ema"])
    other = [other_code(folder.read_provenance(), code_of(config)), *changed]
    if any(other) and processes().is_main_process:
        print(f"{folder.path.name}: {'; '.join(filter(None, other))}", flush=True)
    model = model.place(default_device()).eval()
    classes, epoch = kept.get("classes"), kept.get("epoch")
    return Run(folder.path, config, model, classes, epoch, averaged)


def _because(changed: Sequence[str]) -> str:
    """Which of a user's own classes are not as they were, as an ending of an error."""
    return f". {'; '.join(changed)}" if changed else ""


def read_settings(folder: RunFolder) -> dict:
    """A run's config.json, seen to be one of this version.

    Raises:
        ValueError: it is missing, damaged, or has settings that this version does not know.
    """
    settings = folder.read_config()
    try:
        Config.from_dict(settings)
    except ValueError as error:
        there = folder.read_provenance().get("versions", {}).get("detrnb")
        here = this_process()["versions"]["detrnb"]
        raise ValueError(
            f"{folder.config_path} is of another version of detrnb ({there or 'unknown'} there,"
            f" {here or 'unknown'} here), or was changed by hand: {error}"
        ) from None
    return settings


def read_state_of(folder: RunFolder) -> dict:
    """What a run's last.pt holds, to go on from.

    Raises:
        ValueError: it is damaged, or holds something else; says what can be done.
    """
    try:
        state = read_checkpoint(folder.last, mmap=True)
        lacking = STATE - (state.keys() if isinstance(state, dict) else set())
        if lacking:
            raise ValueError(
                f"{folder.last} is no checkpoint to go on from: it lacks"
                f" {', '.join(sorted(lacking))}"
            )
        see_run(folder, state, folder.last)
    except ValueError as error:
        epoch = _sound_epoch(folder, folder.best)
        remedy = (
            f"best.pt is sound: to go on after epoch {epoch}, copy it over last.pt and keep the"
            f" first {epoch} lines of log.txt"
            if epoch
            else "Bring it back from a copy, or delete the folder to train anew"
        )
        raise ValueError(f"{error}. {remedy}") from None
    return state


def see_run(folder: RunFolder, state: object, path: Path) -> None:
    """See that a checkpoint is of its folder's run, as far as both tell.

    Raises:
        ValueError: it is not.
    """
    if isinstance(state, dict) and of_two_runs(folder.identity, state.get("run")):
        raise ValueError(f"{path} is of another run than {folder.config_path}")


def _other(folder: RunFolder, checkpoint: str) -> str:
    """What to open in place of a checkpoint that cannot be, as an ending of that error."""
    name = "best" if checkpoint == "last" else "last"
    epoch = _sound_epoch(folder, getattr(folder, name))
    return f". {name}.pt is sound, of epoch {epoch}: load_run(path, {name!r})" if epoch else ""


def _sound_epoch(folder: RunFolder, path: Path) -> int | None:
    """The epoch, from 1, of the folder's run whose checkpoint a file is; None where it is none."""
    try:
        state = read_checkpoint(path, mmap=True)
        see_run(folder, state, path)
    except (ValueError, OSError):
        return None
    return state["epoch"] + 1 if isinstance(state, dict) and state.keys() >= STATE else None
