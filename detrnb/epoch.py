"""One epoch of training, and evaluation."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from detrnb.config import TrainConfig
from detrnb.criterion import SetCriterion, Targets
from detrnb.datasets.coco import CocoDataset
from detrnb.datasets.loader import FeatureDataset
from detrnb.detr import DETR, postprocess
from detrnb.evaluate import CocoMetrics, evaluate_coco, load_ground_truth
from detrnb.matcher import NonFiniteError


class TrainingDiverged(ValueError):
    """A loss, prediction or gradient became NaN or infinite; the last checkpoint is sound."""


def _forward(model: nn.Module, core: DETR, inputs: Tensor, padding_mask: Tensor) -> dict:
    """Predictions for images (uint8) or for features computed earlier (any float)."""
    if inputs.dtype == torch.uint8:
        return model(core.normalize(inputs, padding_mask), padding_mask)
    return model(None, padding_mask, features=inputs)


class _Averages:
    """Unweighted means over iterations, as the reference's MetricLogger reports."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, values: dict[str, float]) -> None:
        self.count += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Means over all iterations of all processes."""
        sums = torch.tensor([*self.sums.values(), self.count], dtype=torch.float64)
        if accelerator.num_processes > 1:
            sums = accelerator.reduce(sums.to(accelerator.device), "sum").cpu()
        *totals, count = sums.tolist()
        return {name: total / count for name, total in zip(self.sums, totals, strict=True)}


def _log_part(prefix: str, means: dict[str, float], weight_dict: dict[str, float]) -> dict:
    """Means under the reference's keys, in its single-process order."""
    head = [name for name in ("lr", "class_error", "loss") if name in means]
    part = {name: means[name] for name in head}
    part |= {name: weight * means[name] for name, weight in weight_dict.items()}
    part |= {f"{name}_unscaled": mean for name, mean in means.items() if name not in ("lr", "loss")}
    return {f"{prefix}_{name}": value for name, value in part.items()}


def _checked_values(loss: Tensor, losses: dict[str, Tensor]) -> dict[str, float]:
    """The losses as numbers, in one copy to the host.

    Raises:
        NonFiniteError: one is NaN or infinite; names the last of them, which is a single loss where
            the total is infinite because of it.
    """
    numbers = torch.stack([loss, *losses.values()]).detach().tolist()
    values = dict(zip(["loss", *losses], numbers, strict=True))
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise NonFiniteError(bad[-1], [])
    return values


def _diverged(error: NonFiniteError, where: str, targets: Targets) -> TrainingDiverged:
    """The error that tells the user what became NaN or infinite, where, and on which images."""
    ids = [target["image_id"] for target in targets]
    images = [ids[i] for i in error.images] or ids
    return TrainingDiverged(
        f"{error.tensor} is not finite {where}, image ids {images}. The last checkpoint is kept;"
        " lower train.lr, or look at these images' boxes"
    )


def learning_rate_factor(train: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """What the learning rates are multiplied by at a step: warm-up, then drop or cosine to 0."""
    total = train.epochs * steps_per_epoch
    warmup = round(train.warmup * total)
    if step < warmup:
        return (step + 1) / warmup
    if train.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
    return 0.1 ** (step // steps_per_epoch // train.lr_drop)


def build_optimizer(model: DETR, train: TrainConfig) -> torch.optim.AdamW:
    """AdamW in the reference's two groups: all but the backbone, then the backbone's part."""
    groups = [
        {
            "params": [p for n, p in model.named_parameters() if wanted(n) and p.requires_grad],
            "lr": rate,
            "initial_lr": rate,
        }
        for wanted, rate in (
            (lambda name: "backbone" not in name, train.lr),
            (lambda name: "backbone" in name, train.lr_backbone),
        )
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], weight_decay=train.weight_decay, fused=True
    )


def train_one_epoch(
    model: nn.Module,
    criterion: SetCriterion,
    loader: torch.utils.data.DataLoader,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    train: TrainConfig,
    epoch: int,
    on_step: Callable[[float], None] = lambda loss: None,
) -> dict[str, float]:
    """Train over the loader once.

    Returns:
        The epoch's means under the log's `train_` keys.

    Raises:
        TrainingDiverged: something became NaN or infinite; names step, images and tensor.
    """
    core = accelerator.unwrap_model(model)
    num_queries = core.query_embed.num_embeddings
    averages = _Averages()
    model.train()
    for step, (inputs, padding_mask, targets) in enumerate(loader):
        factor = learning_rate_factor(train, epoch * len(loader) + step, len(loader))
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        normalizers = criterion.normalizers(targets, num_queries)
        if accelerator.num_processes > 1:  # gradients are averaged over processes
            normalizers = accelerator.reduce(normalizers, "mean")
        try:
            with accelerator.autocast():
                outputs = _forward(model, core, inputs, padding_mask)
            losses = criterion(outputs, targets, normalizers)
            loss = criterion.total(losses)
            values = _checked_values(loss, losses)
            optimizer.zero_grad()
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(
                core.parameters(), train.clip_max_norm or math.inf
            ).item()
            # With a gradient scaler an infinite norm is a skipped step, not the end.
            if accelerator.scaler is None and not math.isfinite(norm):
                raise NonFiniteError("gradient norm", [])
        except NonFiniteError as error:
            rate = optimizer.param_groups[0]["lr"]
            where = f"at epoch {epoch + 1}, step {step + 1} (learning rate {rate:.2e})"
            raise _diverged(error, where, targets) from error
        optimizer.step()
        averages.add({"lr": optimizer.param_groups[0]["lr"], **values})
        on_step(values["loss"])
    return _log_part("train", averages.means(accelerator), criterion.weight_dict)


@dataclass(frozen=True)
class Evaluation:
    """What a model does on a split.

    Attributes:
        log: losses under the log's `test_` keys.
        metrics: COCO's 12 numbers and AP of each class.
        detections: image id -> `scores` (Q,), `labels` (Q,), `category_ids` (Q,), `boxes` (Q, 4)
            xyxy in pixels of the original image, on the CPU.
    """

    log: dict[str, float]
    metrics: CocoMetrics
    detections: dict[int, dict[str, Tensor]]


def _annotated(dataset: Dataset) -> CocoDataset:
    """The data set that features or a subset are of."""
    while not isinstance(dataset, CocoDataset):
        dataset = dataset.source if isinstance(dataset, FeatureDataset) else dataset.dataset
    return dataset


@torch.no_grad()
def evaluate(
    model: nn.Module,
    criterion: SetCriterion,
    loader: torch.utils.data.DataLoader,
    accelerator: Accelerator,
) -> Evaluation:
    """Losses and COCO metrics over a loader in evaluation mode.

    Raises:
        TrainingDiverged: a prediction or loss is NaN or infinite; names images and tensor.
    """
    core = accelerator.unwrap_model(model)
    dataset = _annotated(loader.dataset)
    averages, detections = _Averages(), {}
    model.eval()
    for inputs, padding_mask, targets in loader:
        with accelerator.autocast():
            outputs = _forward(model, core, inputs, padding_mask)
        try:
            losses = criterion(outputs, targets)
            averages.add(_checked_values(criterion.total(losses), losses))
        except NonFiniteError as error:
            raise _diverged(error, "in evaluation", targets) from error
        sizes = torch.tensor([t["orig_size"] for t in targets])
        # To the host once a batch, not once an image.
        on_host = {name: outputs[name].float().cpu() for name in ("pred_logits", "pred_boxes")}
        for target, found in zip(targets, postprocess(on_host, sizes), strict=True):
            category_ids = dataset.to_category_ids(found["labels"])
            detections[target["image_id"]] = found | {"category_ids": category_ids}
    if accelerator.num_processes > 1:
        gathered = [None] * accelerator.num_processes
        torch.distributed.all_gather_object(gathered, detections)
        detections = {image_id: found for part in gathered for image_id, found in part.items()}
    metrics = evaluate_coco(load_ground_truth(dataset.annotations), detections)
    log = _log_part("test", averages.means(accelerator), criterion.weight_dict)
    return Evaluation(log, metrics, detections)
