"""Runs: `Config` in, run folder out.

A run folder is all that is kept: `fit` goes on from what it finds there, `load_run` rebuilds the
model from it.
"""

import time
from contextlib import closing
from functools import partial
from typing import Literal, get_args

from detrnb.datasets import TOY_SETTINGS, resolved, with_classes
from detrnb.runs import (
    Mirror,
    RunFolder,
    bring_back,
    is_over,
    is_project,
    is_there,
    located,
    project_root,
    run_name,
)
from detrnb.settings import Config
from detrnb.training.averaging import averaged, kept_of
from detrnb.training.device import (
    begin_peak_memory,
    from_main,
    make_accelerator,
    peak_memory_mb,
    processes,
)
from detrnb.training.epochs import (
    evaluate_epoch,
    failed_step_kept,
    keep_history,
    keep_trained,
    train_epoch,
)
from detrnb.training.global_batch import TrainingDiverged
from detrnb.training.opening import Run, load_run, read_settings, read_state_of
from detrnb.training.origin import origin, other_settings
from detrnb.training.prepare import open_data, prepare
from detrnb.training.probing import preview
from detrnb.training.progress import Progress
from detrnb.training.sources import changed_sources, keep_sources, see_placed, stated_sources
from detrnb.training.tracking import Trackers

Resume = Literal["auto", "never"]


def fit(config: Config, resume: Resume = "auto", name: str | None = None) -> Run:
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
            data cannot be read, or are others than the preset draws; `resume` is neither.
        TrainingDiverged: something became NaN or infinite; the last checkpoint is kept.
    """
    if resume not in (choices := get_args(Resume)):
        raise ValueError(f"resume is {resume!r}; expected {' or '.join(map(repr, choices))}")
    config = from_main(partial(with_classes, config))
    folder = folder_of(config, name)
    from_main(partial(bring_back, folder, resume))
    config = from_main(partial(_resolved, config, folder))
    if from_main(partial(_is_finished, folder, config, resume)):
        from_main(folder.lock.remove_dead)
        _say_opened(folder)
        return load_run(folder.path)
    try:
        from_main(folder.lock.acquire)
        # What another process did before it gave the lock back.
        if not from_main(partial(_is_finished, folder, config, resume)):
            from_main(partial(_open_folder, folder, config))
            _train(config, folder, _checkpoint(folder))
    except TrainingDiverged as error:
        if processes().is_main_process:
            folder.write_failed(str(error))
            Mirror(folder).update()
        raise
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


def _train(config: Config, folder: RunFolder, state: dict | None) -> None:
    """The epochs that are missing in a run folder."""
    before, begin = folder.read_provenance().get("wall_time_s", 0.0), time.perf_counter()
    accelerator = make_accelerator(config.train.precision)
    datasets = open_data(config, accelerator)
    about = from_main(partial(origin, config, folder, accelerator, datasets))
    ready = prepare(config, accelerator, datasets, state)
    see_placed(ready.core, config.model)
    begin_peak_memory(accelerator.device)  # who comes first makes the features for all
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
        keep_history(ready, folder, 0)
    if not is_project(project_root()):  # where nobody would look for it
        accelerator.print(f"{folder.path.name}: trained in {folder.path.parent}")
    trained = 0 if state is None else state["epoch"] + 1
    if trained < config.train.epochs:
        with failed_step_kept(ready, config, folder):
            preview(ready, config, about["global_batch"], config.train.epochs - trained)
    mirror = Mirror(folder)
    logged = from_main(partial(_epochs, folder))
    first = 0 if state is None else state["epoch"]
    with (
        failed_step_kept(ready, config, folder),
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
                state = train_epoch(ready, config.train, epoch, after_step) | kept_of(mean)
                state |= from_main(partial(_marks, folder, epoch))
                keep_trained(ready, folder, state)
            elif epoch < logged:  # trained and evaluated before
                continue
            evaluate_epoch(ready, folder, state, mean, trackers)
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


def _resolved(config: Config, folder: RunFolder) -> Config:
    """The config with what it leaves to the data: as the folder's run began, or as planned now."""
    if folder.config_path.exists():
        config = config.as_begun(read_settings(folder))
    else:
        _see_drawn(config)
    return resolved(config, processes().num_processes)


def _see_drawn(config: Config) -> None:
    """See that a preset which draws its images is not given a folder of somebody's own.

    Raises:
        ValueError: it is: other images than those would be trained on.
    """
    path = located(config.data.path)
    if config.data.toy is None or not path.is_dir() or (path / TOY_SETTINGS).exists():
        return
    if names := sorted(file.name for file in path.iterdir() if not file.name.startswith(".")):
        raise ValueError(
            f"preset {config.preset_name} draws its own images, and data.path={config.data.path!r}"
            f" holds others ({', '.join(names[:4])}), which it would not train on. For these:"
            f" --preset finetune data.path={config.data.path}; for drawn ones another data.path"
        )


def _say_opened(folder: RunFolder) -> None:
    """Say of a finished run that nothing is trained, and what to do where that was not meant."""
    if not processes().is_main_process:
        return
    began = folder.read_provenance().get("started", "an unknown time")
    copy = Mirror(folder).copy
    also = f" and its copy {copy}" if copy is not None and copy.exists() else ""
    print(f"{folder.path.name}: opened the finished run of {began}; delete it{also} to train anew")


def _is_finished(folder: RunFolder, config: Config, resume: str) -> bool:
    """Whether the folder holds this config's run, with nothing left to train.

    Raises:
        ValueError: it holds another config's run, or this one's and only a new one is wanted.
    """
    if not folder.config_path.exists():
        return False
    # The same for each process, or for all of them together: their number may be another now.
    now = processes().num_processes
    if other_settings(folder, config) and (differing := other_settings(folder, config, now)):
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
    folder.failed_path.unlink(missing_ok=True)  # of an earlier try
    folder.clean_up()


def _checkpoint(folder: RunFolder) -> dict | None:
    """What a run goes on from, if there is anything: the same in all processes."""
    state = read_state_of(folder) if is_there(folder.last) else None
    trained = 0 if state is None else state["epoch"] + 1
    logged = from_main(partial(_epochs, folder))
    if logged not in (trained, trained - 1):  # the last epoch may lack its evaluation
        raise ValueError(
            f"{folder.path}: log.txt holds {logged} epochs, last.pt {trained}; they are not of one"
            " run. Bring back what is missing, or delete the folder"
        )
    if state is not None:
        from_main(partial(_see_log, folder, state, logged))
    told = from_main(lambda: trained)
    if told != trained:
        raise ValueError(
            f"{folder.last} is of {trained} epochs to this process and of {told} to the main one:"
            " all processes must see one folder runs/"
        )
    return state


def _marks(folder: RunFolder, epoch: int) -> dict[str, int | None]:
    """What a checkpoint keeps so that it goes on in no other run's folder."""
    return {"run": folder.identity, "log_before": folder.log_checksum(epoch)}


def _see_log(folder: RunFolder, state: dict, logged: int) -> None:
    """See that the log is what went before a checkpoint.

    Raises:
        ValueError: it is of another run, or was changed.
    """
    before = state["epoch"]
    same = state.get("log_before") in (None, folder.log_checksum(before))
    if same and logged > before:
        line = folder.read_log()[before]
        kept = state["train_line"].items()
        same = all(line.get(k) == v or v != v for k, v in kept)
    if not same:
        raise ValueError(
            f"{folder.log_path} is not the log that {folder.last} goes on from: it is of another"
            " run, or was changed. Bring back the right one, or delete the folder"
        )


def _epochs(folder: RunFolder) -> int:
    """Epochs that are logged."""
    log = folder.read_log()
    return log[-1]["epoch"] + 1 if log else 0


def _is_over(folder: RunFolder, config: Config) -> bool:
    """Whether nothing is left to train."""
    return is_over(folder.read_log(), config.train.model_dump())
