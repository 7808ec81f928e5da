"""What a judgement takes: said before its runs are trained, timed once they are."""

import json

from detrnb.compare import FEWEST_SEEDS, detectable_difference
from detrnb.datasets import open_split, resolved
from detrnb.runs import RunFolder, is_over, project_root, write_text
from detrnb.settings import Config, steps_per_epoch
from detrnb.study.entries import FEW
from detrnb.study.judgement import Plan
from detrnb.study.lending import kept_spread
from detrnb.training import duration, folder_of, seconds_per_step

PROBED_STEPS = 5  # for an estimate
TIMED_STEPS = 20  # for what an entry costs, twice


def announcement(plan: Plan, missing: list[tuple[str, Config]]) -> str:
    """How many runs are missing, how long they take, and what so many seeds can see."""
    seconds = sum(_seconds(config) for _, config in missing)
    told = (
        f"{plan.name} against {plan.baseline}: {len(missing)} of {2 * plan.seeds} runs are missing,"
        f" about {duration(seconds)}"
    )
    spread = kept_spread(plan.preset)
    if spread is None:
        return f"{told}; no kept study of preset {plan.preset} tells how far runs spread"
    if plan.seeds < FEWEST_SEEDS:
        return f"{told}; fewer than {FEWEST_SEEDS} pairs are described, not judged"
    seen = detectable_difference(spread, plan.seeds)
    return (
        f"{told}; {plan.seeds} seeds would see a difference of {seen:.3f} AP with a chance of 80 %"
        f" (pairs of the kept study spread by {spread:.3f})"
    )


def _seconds(config: Config) -> float:
    """What a run of this config will take: as a finished one of it took, else by a few steps."""
    pattern = f"{config.preset_name}-{config.model.variant}-s*"
    for path in sorted((project_root() / "runs").glob(pattern)):
        folder = RunFolder(path)
        taken = folder.read_provenance().get("wall_time_s")
        settings = folder.read_config() if folder.config_path.exists() else {}
        same = settings.get("train", {}).get("epochs") == config.train.epochs
        if taken and same and is_over(folder.read_log(), settings["train"]):
            return taken
    about = resolved(config, 1)
    images = len(open_split(about.data, about.data.train_split))
    steps = steps_per_epoch(images, about.train.global_batch(1))
    return seconds_per_step(config, PROBED_STEPS) * steps * about.train.epochs


def timed(plan: Plan) -> dict[str, dict[str, float]]:
    """Number of a pair -> entry -> seconds of a step, of a few pairs; measured once and kept.

    Trainings lie hours apart, and a machine's speed drifts.
    """
    path = plan.path.with_suffix(".times")
    times = json.loads(path.read_text()) if path.exists() else {}
    for number in plan.numbers[:FEW]:
        if str(number) not in times:
            pair = {e: plan.config(e, number) for e in (plan.baseline, plan.name)}
            if any(folder_of(config).failed_path.exists() for config in pair.values()):
                continue
            found: dict[str, list[float]] = {entry: [] for entry in pair}
            for entry in (*pair, *reversed(pair)):  # there and back, so that a drift falls out
                found[entry].append(seconds_per_step(pair[entry], TIMED_STEPS))
            times[str(number)] = {entry: min(seconds) for entry, seconds in found.items()}
            write_text(path, json.dumps(times, indent=1) + "\n")
    return times
