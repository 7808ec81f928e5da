"""Runs: `Config` in, run folder out.

A run folder is all that is kept: `fit` goes on from what it finds there, `load_run` rebuilds the
model from it.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Literal

import torch
from torch.optim.swa_utils import AveragedModel

from detrnb.datasets import CocoDataset, resolved, with_classes
from detrnb.model import added_parameters
from detrnb.runs import (
    Mirror,
    RunFolder,
    bring_back,
    config_differences,
    is_over,
    is_project,
    project_root,
    run_name,
    what_counts,
)
from detrnb.settings import Config, cautions, describe
from detrnb.training.averaging import averaged, kept_of
from detrnb.training.device import from_main, make_accelerator, peak_memory_mb, processes
from detrnb.training.global_batch import TrainingDiverged
from detrnb.training.loop import evaluate, train_one_epoch
from detrnb.training.opening import Run, load_run, read_settings, read_state_of
from detrnb.training.origin import origin
from detrnb.training.prepare import Prepared, open_data, prepare
from detrnb.training.probing import probe
from detrnb.training.progress import Progress, duration
from detrnb.training.sources import changed_sources, keep_sources, stated_sources
from detrnb.training.thresholds import thresholds
from detrnb.training.tracking import Trackers

PROBED_STEPS, PROBED_SHARE = 5, 0.01  # before training: at most so many, and this share of all
HISTORY_SIZE = 65_536  # numbers in a parameter; larger ones are not kept for every epoch


def _is_finished(folder: RunFolder, config: Config, resume: str) -> bool:
    """Whether the folder holds this config's run, with nothing left to train.

    Raises:
        ValueError: it holds another config's run, or this one's and only a new one is wanted.
    """
    if not folder.config_path.exists():
        return False
    kept = what_counts(Config.completed(folder.read_config()))
    differing = config_differences(kept, what_counts(config.model_dump(mode="json")))
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
    changes = changed_sources(folder, config)
    if changes:
        raise ValueError(
            f"{folder.path} holds another run: {'; '.join(changes)}. Give this one another name, or"
            " delete that folder"
        )
    if resume == "never":
        raise ValueError(
            f"{folder.path} holds this run already and resume is 'never'; delete the folder to"
            " start over, give another name, or resume='auto' to go on"
        )
    return _is_over(folder, config)


def _open_folder(folder: RunFolder, config: Config) -> None:
    """Make the run folder, or leave one that is there as its run began."""
    if not folder.config_path.exists():
        folder.create(config.model_dump(mode="json"))
        for missing in keep_sources(folder, config):
            print(f"warning: {missing}")
    folder.clean_up()


def _checkpoint(folder: RunFolder) -> dict | None:
    """What a run goes on from, if there is anything: the same in all processes."""
    state = read_state_of(folder) if folder.last.exists() else None
    trained = 0 if state is None else state["epoch"] + 1
    logged = from_main(partial(_epochs, folder))
    if logged not in (trained, trained - 1):  # the last epoch may lack its evaluation
        raise ValueError(
            f"{folder.path}: log.txt holds {logged} epochs, last.pt {trained}; they are not of one"
            " run. Bring back what is missing, or delete the folder"
        )
    told = from_main(lambda: trained)
    if told != trained:
        raise ValueError(
            f"{folder.last} is of {trained} epochs to this process and of {told} to the main one:"
            " all processes must see one folder runs/"
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
    would with batches as large as theirs together. `torchrun -m detrnb train` starts them, or in a
    notebook, before anything uses a GPU there, `accelerate.notebook_launcher(train,
    num_processes=2)` with a function that calls this one and returns nothing.

    One of them at a time trains a run: its folder is locked meanwhile. The folder is copied after
    each epoch to where mirror.py says, and brought back from there.

    Args:
        resume: `never` refuses a folder that holds the run already.
        name: of the folder; preset, variant, seed and a hash of the config unless given.

    Raises:
        ValueError: the folder holds another config's run, or is being trained elsewhere; or the
            data cannot be read.
        TrainingDiverged: something became NaN or infinite; the last checkpoint is kept.
    """
    config = from_main(partial(with_classes, config))
    folder = folder_of(config, name)
    from_main(partial(bring_back, folder, resume))
    config = from_main(partial(_resolved, config, folder))
    if from_main(partial(_is_finished, folder, config, resume)):
        if processes().is_main_process:
            began = folder.read_provenance().get("started", "an unknown time")
            copy = Mirror(folder).copy
            also = f" and its copy {copy}" if copy is not None and copy.exists() else ""
            print(
                f"{folder.path.name}: opened the finished run of {began}; delete it{also} to train"
                " anew"
            )
        return load_run(folder.path)
    try:
        from_main(folder.lock.acquire)
        # What another process did before it gave the lock back.
        if not from_main(partial(_is_finished, folder, config, resume)):
            from_main(partial(_open_folder, folder, config))
            _train(config, folder, _checkpoint(folder))
    finally:
        folder.lock.release()
    return load_run(folder.path)


def folder_of(config: Config, name: str | None = None) -> RunFolder:
    """Where the run of a config is or would be.

    Args:
        name: of the folder; preset, variant, seed and a hash of the config unless given.
    """
    config = with_classes(config)
    # Without defaults: a setting that is added later leaves the names of earlier runs as they are.
    stated = config.model_dump(mode="json", exclude_defaults=True)
    own = stated_sources(config)
    stated |= {"variants": own} if own else {}  # changed in its cell, it is another run
    name = name or run_name(config.preset_name, config.model.variant, config.train.seed, stated)
    return RunFolder(project_root() / "runs" / name)


def first_epoch(config: Config) -> dict[str, float]:
    """What a run of this config logs of its first epoch's training; no run is begun.

    Raises:
        ValueError: as `fit`.
    """
    config = resolved(config, processes().num_processes)
    accelerator = make_accelerator(config.train.precision)
    ready = prepare(config, accelerator, open_data(config, accelerator))
    return _train_epoch(ready, config, 0, lambda loss: None)["train_line"]


def _resolved(config: Config, folder: RunFolder) -> Config:
    """The config with what it leaves to the data: as the folder's run began, or as planned now."""
    if folder.config_path.exists():
        config = config.as_begun(read_settings(folder))
    return resolved(config, processes().num_processes)


def _train(config: Config, folder: RunFolder, state: dict | None) -> None:
    """The epochs that are missing in a run folder."""
    before, begin = folder.read_provenance().get("wall_time_s", 0.0), time.perf_counter()
    accelerator = make_accelerator(config.train.precision)
    datasets = open_data(config, accelerator)
    about = from_main(partial(origin, config, folder, accelerator, datasets))
    ready = prepare(config, accelerator, datasets, state)
    decay = config.train.ema_decay
    mean = None if decay is None else averaged(ready.core, decay, state)
    about["steps_per_epoch"] = ready.steps

    def write_provenance() -> None:
        if accelerator.is_main_process:
            taken = before + time.perf_counter() - begin
            peak = peak_memory_mb(accelerator.device)
            folder.write_provenance(about | {"wall_time_s": taken, "peak_memory_mb": peak})

    write_provenance()
    if state is None:
        _keep_history(ready, folder, 0)
    if not is_project(project_root()):  # where nobody would look for it
        accelerator.print(f"{folder.path.name}: trained in {folder.path.parent}")
    trained = 0 if state is None else state["epoch"] + 1
    if trained < config.train.epochs:
        with _failed_step_kept(ready, config, folder):
            _preview(ready, config, about["global_batch"], config.train.epochs - trained)
    mirror = Mirror(folder)
    logged = from_main(partial(_epochs, folder))
    first = 0 if state is None else state["epoch"]
    with (
        _failed_step_kept(ready, config, folder),
        closing(Trackers(config, folder, logged, accelerator.is_main_process)) as trackers,
        closing(Progress(folder.path.name, config.train.epochs, ready.steps)) as progress,
    ):

        def after_step(loss: float) -> None:
            if mean is not None:
                mean.update_parameters(ready.core)
            progress.step(loss)

        for epoch in range(first, config.train.epochs):
            start = time.perf_counter()
            if state is None or epoch != state["epoch"]:
                state = _train_epoch(ready, config, epoch, after_step) | kept_of(mean)
                from_main(folder.lock.check)
                _keep_history(ready, folder, epoch + 1)  # first: no checkpoint is without it
                if accelerator.is_main_process:
                    folder.write_last(partial(torch.save, state))
            elif epoch < logged:  # trained and evaluated before
                continue
            _evaluate_epoch(ready, folder, state, mean, trackers)
            write_provenance()
            if accelerator.is_main_process:
                taken = time.perf_counter() - start
                mirror.update()
                left = taken * (config.train.epochs - epoch - 1)
                progress.epoch(folder.read_log(), taken, left)
            if from_main(partial(_is_over, folder, config)):
                if epoch + 1 < config.train.epochs:
                    accelerator.print(f"no better AP for {config.train.patience} epochs: done")
                break
    accelerator.wait_for_everyone()  # until the main process has written the last of it


def _train_epoch(
    ready: Prepared, config: Config, epoch: int, on_step: Callable[[float], None]
) -> dict:
    """Train one epoch and return what its checkpoint holds."""
    begin = time.perf_counter()
    accelerator, train = ready.accelerator, config.train
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
    if bad:
        raise TrainingDiverged(
            f"{bad[0]} is not finite after epoch {epoch + 1}; the last checkpoint is kept; lower"
            " train.lr"
        )
    state = {
        "model": weights,
        "optimizer": ready.optimizer.state_dict(),
        "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
        "epoch": epoch,
        "classes": ready.classes,
        "train_line": line,
        "train_time_s": time.perf_counter() - begin,
    }
    return state


def _evaluate_epoch(
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
    dataset = getattr(ready.val_loader.dataset, "source", ready.val_loader.dataset)
    kept = thresholds(dataset, result.detections, state["epoch"])
    if result.metrics.stats[0] > best:
        folder.keep_last_as_best()
        folder.write_thresholds(kept)
    trackers.epoch(line, dataset, result.detections, kept["overall"]["threshold"])
    folder.append_log(line)


@contextmanager
def _failed_step_kept(ready: Prepared, config: Config, folder: RunFolder) -> Iterator[None]:
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


def _keep_history(ready: Prepared, folder: RunFolder, epochs: int) -> None:
    """Add to the run folder's history what the variant's own parameters are by now."""
    added = {name for _, _, names in added_parameters(ready.core) for name in names}
    small = {
        name: parameter.detach().cpu().numpy()
        for name, parameter in ready.core.named_parameters()
        if name in added and parameter.numel() <= HISTORY_SIZE
    }
    if small and ready.accelerator.is_main_process:
        folder.append_history(epochs, small)


def _preview(ready: Prepared, config: Config, global_batch: int, epochs: int) -> None:
    """Say what the epochs that are left will take, and what to beware of."""
    tell, steps = ready.accelerator.print, epochs * ready.steps
    size = len(ready.train_set), global_batch
    tell(describe(config, *size))
    for caution in cautions(config, *size):
        tell(f"warning: {caution}")
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
