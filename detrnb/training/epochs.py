"""One epoch of a run: trained, evaluated, and what its folder keeps of it."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from accelerate.utils import gather_object
from torch.optim.swa_utils import AveragedModel

from detrnb.datasets import CocoDataset
from detrnb.model import added_parameters
from detrnb.runs import RunFolder
from detrnb.settings import Config, TrainConfig
from detrnb.training.device import from_main, sum_over_hosts
from detrnb.training.global_batch import TrainingDiverged
from detrnb.training.loop import annotated, evaluate, train_one_epoch
from detrnb.training.prepare import Prepared
from detrnb.training.thresholds import thresholds
from detrnb.training.tracking import Trackers

HISTORY_SIZE = 65_536  # numbers in a parameter; larger ones are not kept for every epoch


def train_epoch(
    ready: Prepared, train: TrainConfig, epoch: int, on_step: Callable[[float], None]
) -> dict:
    """Train one epoch and return what its checkpoint holds."""
    begin = time.perf_counter()
    accelerator = ready.accelerator
    # Seeded anew each epoch, so that a resumed run draws what the unbroken one draws; processes
    # draw different dropout.
    torch.manual_seed(train.seed * 1_000_003 + epoch + accelerator.process_index * 2**40)
    ready.train_loader.batch_sampler.set_epoch(epoch)
    if isinstance(ready.train_set, CocoDataset):
        ready.train_set.set_epoch(epoch)
    line = train_one_epoch(
        ready.model,
        ready.criterion,
        ready.train_loader,
        ready.optimizer,
        accelerator,
        epoch,
        seed=train.seed,
        accumulate=train.accumulate,
        clip_max_norm=train.clip_max_norm,
        rate_factor=ready.rate_factor,
        on_step=on_step,
    )
    weights = ready.core.state_dict()
    bad = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if sum_over_hosts(len(bad)):  # asked by all, or the others would wait for one that ended
        found = gather_object(bad[:1]) if accelerator.num_processes > 1 else bad
        raise TrainingDiverged(
            f"{found[0]} is not finite after epoch {epoch + 1}; the last checkpoint is kept; lower"
            " train.lr"
        )
    return {
        "model": weights,
        "optimizer": ready.optimizer.state_dict(),
        "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
        "epoch": epoch,
        "classes": ready.classes,
        "train_line": line,
        "train_time_s": time.perf_counter() - begin,
    }


def keep_trained(ready: Prepared, folder: RunFolder, state: dict) -> None:
    """Write what an epoch's training led to, for the run to go on from."""
    from_main(folder.lock.check)
    keep_history(ready, folder, state["epoch"] + 1)  # first: no checkpoint is without it
    if ready.accelerator.is_main_process:
        folder.write_last(partial(torch.save, state))


def evaluate_epoch(
    ready: Prepared,
    folder: RunFolder,
    state: dict,
    mean: AveragedModel | None,
    trackers: Trackers,
) -> None:
    """Evaluate the model, keep it if it is the best, tell trackers, write the epoch's log line.

    Averaged weights are evaluated too; which epoch is the best, the weights themselves say.
    """
    begin = time.perf_counter()
    result = evaluate(ready.model, ready.criterion, ready.val_loader, ready.accelerator)
    of_mean = {}
    if mean is not None:
        other = evaluate(mean.module, ready.criterion, ready.val_loader, ready.accelerator)
        of_mean = other.log | {"test_coco_eval_bbox": other.metrics.stats}
    line = {
        **state["train_line"],
        **result.log,
        "test_coco_eval_bbox": result.metrics.stats,
        "epoch": state["epoch"],
        "n_parameters": sum(p.numel() for p in ready.core.parameters() if p.requires_grad),
        "test_coco_eval_bbox_per_class": result.metrics.per_class,
        "train_time_s": state["train_time_s"],
        "test_time_s": time.perf_counter() - begin,
        **{f"ema_{key}": value for key, value in of_mean.items()},
    }
    from_main(folder.lock.check)
    if not ready.accelerator.is_main_process:
        return
    best = max((e["test_coco_eval_bbox"][0] for e in folder.read_log()), default=-math.inf)
    dataset = annotated(ready.val_loader.dataset)
    better = result.metrics.stats[0] > best
    if better or trackers.open:
        kept = thresholds(dataset, result.detections, state["epoch"])
        trackers.epoch(line, dataset, result.detections, kept["overall"]["threshold"])
    if better:
        folder.keep_last_as_best()
        folder.write_thresholds(kept)
    folder.append_log(line)


@contextmanager
def failed_step_kept(ready: Prepared, config: Config, folder: RunFolder) -> Iterator[None]:
    """Of a step inside that fails, the process that failed first writes what it began with."""
    try:
        yield
    except TrainingDiverged as error:
        if error.process is None:
            raise
        if error.process == ready.accelerator.process_index:
            folder.nonfinite.unlink(missing_ok=True)  # of an earlier failure
            # The step did not count, so the weights are still those that it began with.
            weights = {"config": config.model_dump(mode="json"), "model": ready.core.state_dict()}
            try:
                folder.write_nonfinite(partial(torch.save, error.begun | weights))
            except OSError as full:  # must not hide why training ended
                print(f"warning: {full}", flush=True)
        ready.accelerator.wait_for_everyone()  # a process that ends takes the others with it
        told = f"{error}"
        if folder.nonfinite.exists():
            told += f". `detrnb train --replay {folder.nonfinite}` names the first module of it"
        raise TrainingDiverged(told) from error


def keep_history(ready: Prepared, folder: RunFolder, epochs: int) -> None:
    """Add to the run folder's history what the variant's own parameters are by now."""
    added = {name for _, _, names in added_parameters(ready.core) for name in names}
    small = {
        name: parameter.detach().cpu().numpy()
        for name, parameter in ready.core.named_parameters()
        if name in added and parameter.numel() <= HISTORY_SIZE
    }
    if small and ready.accelerator.is_main_process:
        folder.append_history(epochs, small)
