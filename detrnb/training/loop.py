"""One epoch of training, and evaluation, with things that are ready; no settings, no folders."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import Dataset

from detrnb.datasets import Batch, CocoDataset, FeatureDataset
from detrnb.loss import SetCriterion, Targets
from detrnb.model import DETR
from detrnb.training.device import device_name, from_main
from detrnb.training.global_batch import GlobalBatch
from detrnb.training.metrics import CocoMetrics, evaluate_coco, load_ground_truth


def forward(
    model: nn.Module,
    core: DETR,
    inputs: Tensor,
    padding_mask: Tensor | None,
    targets: Targets | None = None,
) -> dict:
    """Predictions for images (uint8) or for features computed earlier (any float)."""
    if inputs.dtype == torch.uint8:
        return model(core.normalize(inputs, padding_mask), padding_mask, targets=targets)
    return model(None, padding_mask, features=inputs, targets=targets)


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


def _log_part(prefix: str, means: dict[str, float], weights: dict[str, float]) -> dict:
    """Means under the reference's keys, in its single-process order.

    Args:
        weights: in the total, of the losses that are part of it.
    """
    head = [name for name in ("lr", "class_error", "loss") if name in means]
    part = {name: means[name] for name in head}
    part |= {name: weight * means[name] for name, weight in weights.items()}
    part |= {f"{name}_unscaled": mean for name, mean in means.items() if name not in ("lr", "loss")}
    return {f"{prefix}_{name}": value for name, value in part.items()}


def _steps(loader: torch.utils.data.DataLoader, accumulate: int) -> Iterator[list[Batch]]:
    """The batches of each step; the loader has them for whole steps."""
    batches = iter(loader)
    while step := list(islice(batches, accumulate)):
        yield step


@dataclass(frozen=True)
class _Stepper:
    """What takes a step: gradients of this process's batches, and the weights' change.

    Attributes:
        model: as the processes share it; `core` is the DETR inside.
        trained: its parameters that train, in its order.
    """

    model: nn.Module
    core: DETR
    trained: list[nn.Parameter]
    criterion: SetCriterion
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    clip_max_norm: float

    def __call__(self, batches: list[Batch], where: str) -> tuple[dict[str, float], bool]:
        """One step; gives the losses of all that it sees, and whether fp16's scale skipped it.

        Beside each pass's matching the device is waited for once, before the weights change.

        Raises:
            TrainingDiverged: in all processes alike.
        """
        accelerator, layout = self.accelerator, self.core.layout
        passes = [(targets, layout(targets)) for *_, targets in batches]
        begun = _begun(batches, accelerator, training=True)
        whole = GlobalBatch(self.criterion, passes, accelerator, where, begun)

        def loss_of(inputs: Tensor, padding_mask: Tensor | None, targets: Targets) -> Tensor:
            with accelerator.autocast():
                outputs = forward(self.model, self.core, inputs, padding_mask, targets)
            # Gradients are averaged over processes, but shares add up.
            return whole.loss_share(outputs, targets, layout(targets)) * accelerator.num_processes

        def add_gradient(*batch: object) -> None:
            accelerator.backward(loss_of(*batch))

        self.optimizer.zero_grad()
        *first, last = batches
        for batch in first:
            with accelerator.no_sync(self.model):
                whole.attempt(add_gradient, batch)
        loss = whole.attempt(loss_of, last)
        whole.agree()
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(self.trained, self.clip_max_norm or math.inf)
        losses = whole.losses(norm)
        self.optimizer.step()
        return losses, whole.overflows


def _begun(batches: list[Batch], accelerator: Accelerator, *, training: bool) -> dict:
    """What this process's part of a step begins with, weights aside; `replay` does it again."""
    random, device = [torch.get_rng_state()], accelerator.device
    if device.type != "cpu":
        random.append(torch.get_device_module(device).get_rng_state())
    return {
        "batches": batches,
        "training": training,
        "random": random,
        "precision": accelerator.mixed_precision,
        "device": device_name(device),
    }


def train_one_epoch(
    model: nn.Module,
    criterion: SetCriterion,
    loader: torch.utils.data.DataLoader,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    epoch: int,
    *,
    seed: int = 0,
    accumulate: int = 1,
    clip_max_norm: float = 0.0,
    rate_factor: Callable[[int], float] = lambda step: 1.0,
    on_step: Callable[[float], None] = lambda loss: None,
) -> dict[str, float]:
    """Train over the loader once.

    Args:
        seed: of what parts draw at random for an image in an epoch (`draws` in its target).
        accumulate: batches of the loader a step.
        clip_max_norm: of the gradient; 0 for no clipping.
        rate_factor: what the groups' initial learning rates are multiplied by at a step, counted
            from the first of all epochs.
        on_step: called with the loss of each step.

    Returns:
        The epoch's means under the log's `train_` keys, of the batches of all processes and passes;
        with fp16 `train_skipped_steps` too, how many changed no weight, for its scale was too high.

    Raises:
        TrainingDiverged: something became NaN or infinite, in whichever process; names step, images
            and tensor.
    """
    averages, skipped = _Averages(), 0
    steps = len(loader) // accumulate
    core = accelerator.unwrap_model(model)
    trained = [parameter for parameter in core.parameters() if parameter.requires_grad]
    take_step = _Stepper(model, core, trained, criterion, optimizer, accelerator, clip_max_norm)
    model.train()
    for step, batches in enumerate(_steps(loader, accumulate)):
        factor = rate_factor(epoch * steps + step)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        rate = optimizer.param_groups[0]["lr"]
        where = f"at epoch {epoch + 1}, step {step + 1} (learning rate {rate:.2e})"
        batches = [_with_draws(batch, seed, epoch) for batch in batches]
        losses, overflows = take_step(batches, where)
        skipped += overflows
        averages.add({"lr": rate, **losses})
        on_step(losses["loss"])
    means = averages.means()
    line = _log_part("train", means, criterion.weights_of(means))
    return line if accelerator.scaler is None else line | {"train_skipped_steps": skipped}


def _with_draws(batch: Batch, seed: int, epoch: int) -> Batch:
    """The batch, each target with `draws`: an integer of its own for (seed, epoch, image id).

    So what a part draws for an image depends on neither its batch nor processes nor resuming.
    """
    inputs, padding_mask, targets = batch

    def draws(image_id: int) -> int:
        digest = hashlib.blake2b(f"{seed} {epoch} {image_id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) >> 1

    # Not in place: data sets may hand out the same targets every epoch.
    return inputs, padding_mask, [{**t, "draws": draws(t["image_id"])} for t in targets]


@dataclass(frozen=True)
class Evaluation:
    """What a model does on a split.

    Attributes:
        log: losses under the log's `test_` keys.
        metrics: COCO's 12 numbers and AP of each class.
        detections: image id -> `scores` (n,), `labels` (n,), `category_ids` (n,), `boxes` (n, 4)
            xyxy in pixels of the original image, and the `queries` (n,) that they come from, on
            the CPU.
    """

    log: dict[str, float]
    metrics: CocoMetrics
    detections: dict[int, dict[str, Tensor]]


def annotated(dataset: Dataset) -> CocoDataset:
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
    dataset = annotated(loader.dataset)
    averages, detections = _Averages(), {}
    model.eval()
    layout = core.layout()
    steps = max(gather_object([len(loader)]))  # of the last batch some processes have no part
    for _, batch in zip_longest(range(steps), loader):
        batches = [] if batch is None else [batch]
        targets = [target for *_, batch_targets in batches for target in batch_targets]
        begun = _begun(batches, accelerator, training=False)
        passes = [(targets, layout)]
        whole = GlobalBatch(criterion, passes, accelerator, "in evaluation", begun)
        predict = partial(_predict, core, accelerator, whole)
        predicted = [whole.attempt(predict, given) for given in batches]
        whole.agree()
        averages.add(whole.losses())
        for outputs in predicted:
            sizes = [target["orig_size"] for target in targets]
            for target, found in zip(targets, detect(criterion, outputs, sizes), strict=True):
                found["category_ids"] = dataset.to_category_ids(found["labels"])
                detections[target["image_id"]] = found
    detections = dict(sorted(gather_object([*detections.items()])))
    metrics = from_main(lambda: evaluate_coco(load_ground_truth(dataset), detections))
    means = averages.means()
    log = _log_part("test", means, criterion.weights_of(means))
    return Evaluation(log, metrics, detections)


def _predict(
    core: DETR,
    accelerator: Accelerator,
    whole: GlobalBatch,
    inputs: Tensor,
    padding_mask: Tensor | None,
    targets: Targets,
) -> dict:
    """Predictions, their losses added to the batch's."""
    with accelerator.autocast():
        outputs = forward(core, core, inputs, padding_mask)
    whole.loss_share(outputs, targets, core.layout())
    return outputs


def detect(
    criterion: SetCriterion, outputs: dict, sizes: list[tuple[int, int]]
) -> list[dict[str, Tensor]]:
    """Detections of each image, on the CPU.

    Args:
        sizes: height and width of each, pixels.
    """
    # To the host once a batch, not once an image.
    on_host = {name: outputs[name].float().cpu() for name in ("pred_logits", "pred_boxes")}
    # Not views: they would take their whole batch along when processes exchange them.
    found = criterion.detections(on_host, torch.tensor(sizes))
    return [{name: values.clone() for name, values in image.items()} for image in found]
