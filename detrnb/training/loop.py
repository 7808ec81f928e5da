"""One epoch of training, and evaluation, with things that are ready; no settings, no folders."""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, zip_longest

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import Tensor, nn
from torch.utils.data import Dataset

from detrnb.datasets import CocoDataset, FeatureDataset
from detrnb.loss import NonFiniteError, SetCriterion, Targets
from detrnb.model import DETR, postprocess
from detrnb.training.device import from_main
from detrnb.training.global_batch import GlobalBatch
from detrnb.training.metrics import CocoMetrics, evaluate_coco, load_ground_truth

Batch = tuple[Tensor, Tensor, Targets]  # images or features, padding mask


def _forward(model: nn.Module, core: DETR, inputs: Tensor, padding_mask: Tensor) -> dict:
    """Predictions for images (uint8) or for features computed earlier (any float)."""
    if inputs.dtype == torch.uint8:
        return model(core.normalize(inputs, padding_mask), padding_mask)
    return model(None, padding_mask, features=inputs)


class _Averages:
    """Unweighted means over iterations, as the reference's MetricLogger has; NaN is left out."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            known = not math.isnan(value)
            self.sums[name] = self.sums.get(name, 0.0) + (value if known else 0.0)
            self.counts[name] = self.counts.get(name, 0) + known

    def means(self) -> dict[str, float]:
        """Means over all iterations; NaN of what was never known."""
        counts = self.counts
        return {n: total / counts[n] if counts[n] else math.nan for n, total in self.sums.items()}


def _log_part(prefix: str, means: dict[str, float], weight_dict: dict[str, float]) -> dict:
    """Means under the reference's keys, in its single-process order."""
    head = [name for name in ("lr", "class_error", "loss") if name in means]
    part = {name: means[name] for name in head}
    part |= {name: weight * means[name] for name, weight in weight_dict.items()}
    part |= {f"{name}_unscaled": mean for name, mean in means.items() if name not in ("lr", "loss")}
    return {f"{prefix}_{name}": value for name, value in part.items()}


def _steps(loader: torch.utils.data.DataLoader, accumulate: int) -> Iterator[list[Batch]]:
    """The batches of each step; the loader has them for whole steps."""
    batches = iter(loader)
    while step := list(islice(batches, accumulate)):
        yield step


def _train_step(
    model: nn.Module,
    criterion: SetCriterion,
    batches: list[Batch],
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    clip_max_norm: float,
    where: str,
) -> dict[str, float]:
    """One step on this process's batches; gives the losses of all that the step sees.

    Raises:
        TrainingDiverged: in all processes alike.
    """
    core = accelerator.unwrap_model(model)
    batches = send_to_device(batches, accelerator.device)
    targets = [target for *_, batch_targets in batches for target in batch_targets]
    num_queries = core.query_embed.num_embeddings
    whole = GlobalBatch(criterion, targets, num_queries, accelerator, where)

    def loss_of(inputs: Tensor, padding_mask: Tensor, targets: Targets) -> Tensor:
        with accelerator.autocast():
            outputs = _forward(model, core, inputs, padding_mask)
        # Gradients are averaged over processes, but shares add up.
        return whole.loss_share(outputs, targets) * accelerator.num_processes

    optimizer.zero_grad()
    *first, last = batches
    # A process that fails goes on with the others to where all of them stop.
    for batch in first:
        with accelerator.no_sync(model), suppress(NonFiniteError):
            accelerator.backward(loss_of(*batch))
    with suppress(NonFiniteError):
        loss = loss_of(*last)
    losses = whole.losses()
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(core.parameters(), clip_max_norm or math.inf).item()
    if not math.isfinite(norm) and not _may_overflow(accelerator):
        whole.fail(NonFiniteError("gradient norm", []), targets)
        whole.losses()
    optimizer.step()
    return losses


def _may_overflow(accelerator: Accelerator) -> bool:
    """Whether fp16's loss scale can be why gradients are infinite: the scaler skips that step."""
    return accelerator.scaler is not None and accelerator.scaler.get_scale() > 1


def train_one_epoch(
    model: nn.Module,
    criterion: SetCriterion,
    loader: torch.utils.data.DataLoader,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    epoch: int,
    *,
    accumulate: int = 1,
    clip_max_norm: float = 0.0,
    rate_factor: Callable[[int], float] = lambda step: 1.0,
    on_step: Callable[[float], None] = lambda loss: None,
) -> dict[str, float]:
    """Train over the loader once.

    Args:
        accumulate: batches of the loader a step.
        clip_max_norm: of the gradient; 0 for no clipping.
        rate_factor: what the groups' initial learning rates are multiplied by at a step, counted
            from the first of all epochs.
        on_step: called with the loss of each step.

    Returns:
        The epoch's means under the log's `train_` keys, of the batches of all processes and passes.

    Raises:
        TrainingDiverged: something became NaN or infinite, in whichever process; names step, images
            and tensor.
    """
    averages = _Averages()
    steps = len(loader) // accumulate
    model.train()
    for step, batches in enumerate(_steps(loader, accumulate)):
        factor = rate_factor(epoch * steps + step)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        rate = optimizer.param_groups[0]["lr"]
        where = f"at epoch {epoch + 1}, step {step + 1} (learning rate {rate:.2e})"
        losses = _train_step(
            model, criterion, batches, optimizer, accelerator, clip_max_norm, where
        )
        averages.add({"lr": rate, **losses})
        on_step(losses["loss"])
    return _log_part("train", averages.means(), criterion.weight_dict)


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
    """Losses and COCO metrics over a loader in evaluation mode, each image in one process.

    Raises:
        TrainingDiverged: a prediction or loss is NaN or infinite; names images and tensor.
    """
    core = accelerator.unwrap_model(model)
    dataset = _annotated(loader.dataset)
    num_queries = core.query_embed.num_embeddings
    averages, detections = _Averages(), {}
    model.eval()
    steps = max(gather_object([len(loader)]))  # of the last batch some processes have no part
    for _, batch in zip_longest(range(steps), loader):
        inputs, padding_mask, targets = send_to_device(batch, accelerator.device) or ([], [], [])
        whole = GlobalBatch(criterion, targets, num_queries, accelerator, "in evaluation")
        if targets:
            with accelerator.autocast():
                outputs = _forward(core, core, inputs, padding_mask)
            with suppress(NonFiniteError):  # all processes stop, next
                whole.loss_share(outputs, targets)
        averages.add(whole.losses())
        if targets:
            for target, found in zip(targets, _detect(outputs, targets), strict=True):
                found["category_ids"] = dataset.to_category_ids(found["labels"])
                detections[target["image_id"]] = found
    detections = dict(sorted(gather_object([*detections.items()])))
    metrics = from_main(lambda: evaluate_coco(load_ground_truth(dataset), detections))
    log = _log_part("test", averages.means(), criterion.weight_dict)
    return Evaluation(log, metrics, detections)


def _detect(outputs: dict, targets: Targets) -> list[dict[str, Tensor]]:
    """Detections of each image, on the CPU."""
    sizes = torch.tensor([target["orig_size"] for target in targets])
    # To the host once a batch, not once an image.
    on_host = {name: outputs[name].float().cpu() for name in ("pred_logits", "pred_boxes")}
    # Not views: they would take their whole batch along when processes exchange them.
    return [{k: v.clone() for k, v in found.items()} for found in postprocess(on_host, sizes)]
