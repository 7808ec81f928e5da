"""A run folder, opened: `load_run` rebuilds the model from its own config.json."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Subset

from detrnb.datasets import (
    Classes,
    category_difference,
    class_names,
    make_loader,
    open_split,
    read_annotations,
    split_paths,
)
from detrnb.model import DETR, build_criterion, build_detr, load_weights
from detrnb.runs import RunFolder, log_table, read_log
from detrnb.settings import Config
from detrnb.training.device import default_device, make_accelerator
from detrnb.training.loop import Evaluation, evaluate
from detrnb.training.sources import changed_sources, open_variants


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


def load_run(
    path: str | Path,
    checkpoint: Literal["last", "best"] = "last",
    *,
    variants: Iterable[type | str | Path] = (),
) -> Run:
    """Open a run folder; the model is rebuilt from its own config.json.

    Args:
        checkpoint: weights of the last epoch, or of the epoch with the best validation AP.
        variants: a user's own that it was trained with: their classes, or files that register
            them. Where they are not as they were trained, that is said.

    Raises:
        ValueError: no run there, or no checkpoint in it; a variant that is not known here.
    """
    folder = RunFolder(path)
    open_variants(folder, variants)
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
    for change in changed_sources(folder, config):
        print(f"warning: {change}")
    model = model.place(default_device()).eval()
    return Run(folder.path, config, model, kept.get("classes"))
