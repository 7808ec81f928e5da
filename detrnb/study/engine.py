"""The study: the variants and their pairs, each with several seeds, under equal conditions.

    detrnb study

It trains one run after the other and goes on where it was stopped. What a verdict needs of each run
is kept in `data/study/<preset>/<entry>-s<seed>/`, small enough to commit: config, log, provenance,
the variant's own parameters by epoch, and the last epoch's result on test2017. For a seed all
entries share the order of the data and the initial weights of the parts they share. At the end a
training step of each is timed: trainings are hours apart, and a machine's speed drifts.
"""

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from threading import Thread

from detrnb.runs import RunFolder, config_differences, project_root, what_counts
from detrnb.settings import Config
from detrnb.study.entries import Entry, plan
from detrnb.training import Run, code_of, duration, fit, other_code, seconds_per_step

TIMED_STEPS = 40
GRACE = 10  # seconds that a child takes to end in order
SPLIT = "test2017"  # nothing is tuned on it


def run_study(preset: str = "toy") -> Path:
    """Train what is missing; gives the folder of what is kept.

    Raises:
        ValueError: a run that is kept has another config than the study's now; its folder is named.
    """
    kept_in = project_root() / "data" / "study" / preset
    runs = [
        (entry, config, RunFolder(kept_in / f"{entry.label}-s{config.train.seed}"))
        for entry, config in plan(preset)
    ]
    missing = [run for run in runs if not _is_kept(run[2], run[1])]
    print(f"{len(runs) - len(missing)} of {len(runs)} runs are there", flush=True)
    _say_of_which_code([run for run in runs if run not in missing])
    begin = time.monotonic()
    for number, (entry, config, kept) in enumerate(missing):
        left = ""
        if number:
            each = (time.monotonic() - begin) / number
            left = f", about {duration(each * (len(missing) - number))} left"
        name = f"{entry.label}, seed {config.train.seed}"
        print(f"{name}: {number + 1} of {len(missing)}{left}", flush=True)
        # Of its own, so that the peak of memory it reports is this run's.
        with _process() as process:
            process.submit(_train_and_keep, config, kept.path).result()
    for seed in sorted({config.train.seed for _, config, _ in runs}):
        _time([run for run in runs if run[1].train.seed == seed])
    return kept_in


def _say_of_which_code(kept: Sequence[tuple[Entry, Config, RunFolder]]) -> None:
    """Say where kept runs were trained by other code: they are compared among themselves."""
    said: Counter[tuple[str, str]] = Counter()
    for _, config, run in kept:
        provenance = run.read_provenance()
        said[other_code(provenance, code_of(config)), provenance.get("precision", "unknown")] += 1
    for (other, precision), number in said.items():
        if other:
            print(f"{number} of them: {other} (precision {precision})", flush=True)


def _process() -> ProcessPoolExecutor:
    """A process that ends with this one, however this one ends."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_end_with_the_parent)


def _end_with_the_parent() -> None:
    def wait() -> None:
        connection.wait([parent_process().sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(1)  # the pool's loop goes on after what SIGTERM raises

    Thread(target=wait, daemon=True).start()


def _time(runs: list[tuple[Entry, Config, RunFolder]]) -> None:
    """Keep how long a training step takes, of all runs of a seed or of none."""
    if all(kept.timing_path.exists() for *_, kept in runs):
        return
    with _process() as process:
        taken = [process.submit(seconds_per_step, run[1], TIMED_STEPS).result() for run in runs]
    for (entry, config, kept), step_s in zip(runs, taken, strict=True):
        kept.write_timing(step_s, TIMED_STEPS)
        print(f"{entry.label}, seed {config.train.seed}: {step_s:.3f} s a step", flush=True)


def _is_kept(kept: RunFolder, config: Config) -> bool:
    """Whether a run is finished and evaluated, and by this config."""
    if not kept.test_path.exists():
        return False
    settings = kept.read_config()
    stated = config.as_begun(settings).model_dump(mode="json")
    differing = config_differences(what_counts(Config.completed(settings)), what_counts(stated))
    if differing:
        raise ValueError(
            f"{kept.path} is of another config ({', '.join(differing)} differ); a study compares"
            " runs under equal conditions: delete the folder to train it anew"
        )
    return True


def _train_and_keep(config: Config, folder: Path) -> None:
    """Train, evaluate, copy what a verdict needs; test.json last, which marks the run as kept."""
    run, kept = fit(config), RunFolder(folder)
    kept.path.mkdir(parents=True, exist_ok=True)
    source = RunFolder(run.path)
    for path in (source.config_path, source.log_path, source.provenance_path, source.history_path):
        if path.exists():
            shutil.copy(path, kept.path)
    keep_test(run, kept)


def keep_test(run: Run, kept: RunFolder) -> None:
    """Evaluate a finished run on the split that nothing is tuned on, and keep what it reached.

    Args:
        kept: the folder that test.json goes to.
    """
    begin = time.perf_counter()
    metrics = run.evaluate(SPLIT).metrics
    seconds = time.perf_counter() - begin
    kept.write_test(SPLIT, len(run.log) - 1, metrics.stats, metrics.per_class, seconds)
