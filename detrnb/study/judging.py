"""Does an idea help? Train what is missing of it and of the baseline, and give the verdict."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from detrnb.compare import (
    DELTA,
    LEVEL,
    Record,
    Ruling,
    Verdicts,
    detectable_difference,
    paired_by_epoch,
    read_records,
    rule,
    verdicts,
)
from detrnb.datasets import has_split, open_split, resolved
from detrnb.plots import plot_forest, plot_paired_curves
from detrnb.runs import RunFolder, is_over, project_root, write_whole
from detrnb.settings import BASELINE, Config, resolve
from detrnb.study.engine import SPLIT, keep_test
from detrnb.training import TrainingDiverged, duration, fit, folder_of, seconds_per_step

FACTORS = (0.5, 1.0, 2.0)  # of the preset's learning rate, tried where rates are tuned
TRIALS = (100, 101)  # seeds of these trials, which are judged nowhere
TIMED_STEPS = 5


@dataclass(frozen=True)
class Plan:
    """What was settled when a judgement was first asked for, in runs/judged/.

    Attributes:
        looks: numbers of seeds at which a verdict is or was given; the last is still to be reached
            or was reached.
        rates: entry -> factor of the preset's learning rate; empty where both take the preset's.
    """

    name: str
    baseline: str
    preset: str
    looks: tuple[int, ...]
    rates: Mapping[str, float]

    @property
    def path(self) -> Path:
        return _plan_path(self.name, self.baseline, self.preset)

    @property
    def seeds(self) -> int:
        return self.looks[-1]

    def write(self) -> None:
        text = json.dumps(asdict(self), indent=2) + "\n"
        write_whole(self.path, lambda file: file.write(text.encode()))

    def config(self, entry: str, seed: int, rate: float | None = None) -> Config:
        """The settings of one run; `rate` in place of the entry's own factor."""
        stated = Config.preset(self.preset, variant=entry, seed=seed)
        factor = self.rates.get(entry, 1.0) if rate is None else rate
        if factor == 1:
            return stated
        lr = {"train.lr": stated.train.lr * factor}
        return Config.preset(self.preset, variant=entry, seed=seed, overrides=lr)


@dataclass(frozen=True)
class Judgement:
    """What is known of an idea against its baseline; a notebook shows it as text.

    Attributes:
        records: the finished runs of both.
        ruling: the verdict; None before the planned number of seeds is reached.
        found: the comparison that it is made of, with what each costs; None likewise.
    """

    plan: Plan
    records: tuple[Record, ...]
    ruling: Ruling | None = None
    found: Verdicts | None = None

    @property
    def figure(self) -> Figure:
        """The difference with its interval; before a verdict, the curves of pairs so far."""
        if self.found is not None:
            return plot_forest(self.found.table, self.found.metric)
        pairs = paired_by_epoch(list(self.records), "AP", self.plan.baseline)
        return plot_paired_curves(pairs, "validation AP")

    def __str__(self) -> str:
        name, plan = f"{self.plan.name} against {self.plan.baseline}", self.plan
        if self.ruling is None:
            there = f"{len(self.records)} of {2 * plan.seeds} runs are there"
            return f"{name}: {there}; no verdict before all are"
        row = self.found.table.iloc[0]
        if row.forbidden:
            return f"{name}: {row.text}"
        return f"{name}: {self.ruling}. {self.found.metric}; {row.text}. " + " ".join(self._notes)

    def _repr_markdown_(self) -> str:
        return str(self)

    @property
    def _notes(self) -> list[str]:
        """Every condition that a reader must know."""
        plan = self.plan
        if plan.rates:
            rates = ", ".join(f"{entry} {factor:g}" for entry, factor in plan.rates.items())
            notes = [f"Rates were tuned for both alike (times the preset's: {rates})."]
        else:
            notes = ["Both take the preset's learning rate, which was found for DETR."]
        if len(plan.looks) > 1:
            looks = " and ".join(map(str, plan.looks))
            notes.append(f"Looked at after {looks} seeds, so each look counts half.")
        if "test" not in self.found.metric:
            notes.append("On validation images, for want of a test split.")
        return notes

    def to_latex(self) -> str:
        """The comparison as a tabular, with booktabs' rules; captions are the author's."""
        rows = []
        base = self.found.values[self.found.baseline]
        row = self.found.table.iloc[0]
        rows.append(
            f"{_tex(self.plan.baseline)} & {base.mean():.3f} $\\pm$ {base.std():.3f} & & \\\\"
        )
        rows.append(
            f"{_tex(self.plan.name)} & {row['mean']:.3f} $\\pm$ {row['spread']:.3f} &"
            f" ${self.ruling.mean:+.3f}$ $[{self.ruling.low:+.3f}, {self.ruling.high:+.3f}]$ &"
            f" {self.ruling.verdict} \\\\"
        )
        return "\n".join(
            [
                "\\begin{tabular}{lccl}",
                "\\toprule",
                "model & AP & difference, 95\\,\\% interval & verdict \\\\",
                "\\midrule",
                *rows,
                "\\bottomrule",
                "\\end{tabular}",
            ]
        )

    def methods(self) -> str:
        """A paragraph for a paper that says what was done."""
        plan, level = self.plan, LEVEL / len(self.plan.looks)
        config = plan.config(plan.name, 0)
        return (
            f"{plan.name} and {plan.baseline} were each trained {self.ruling.pairs} times with"
            f" detrnb's preset {plan.preset} ({config.train.epochs} epochs,"
            f" {config.train.batch_size} images a step); runs of equal seed share the order of the"
            f" data and the initial weights of shared parts. The number of seeds was fixed before"
            f" the first run. {self.found.metric} after the last epoch was compared in pairs:"
            f" Student's t test at {100 * level:g} %, and two one-sided tests against ±{DELTA:g}."
            f" {' '.join(self._notes)}"
        )


def judge(
    name: str,
    baseline: str = BASELINE,
    seeds: int = 6,
    preset: str = "toy",
    *,
    tune: bool = False,
) -> Judgement:
    """Judge a variant: train what is missing on both sides, then say whether it helps.

    The number of seeds is written down at the first call; until it is reached there are curves and
    no verdict, for who looks after each seed and stops when it suits finds differences that are
    none. One extension is possible, after which each look counts half. Stopped, it goes on where it
    was by the same call.

    Args:
        name: a variant as `Config.preset` takes it, one of your own too.
        baseline: what it is compared with.
        seeds: pairs of runs, 0 to seeds - 1.
        preset: of both.
        tune: try learning rates for both alike first, on seeds that are not judged.

    Raises:
        ValueError: another number of seeds was settled, or a variant is unknown.
    """
    for variant in (name, baseline):
        resolve(variant)
    if name == baseline:
        raise ValueError(f"{name!r} against itself has no difference; name another baseline")
    plan = _settled(Plan(name, baseline, preset, (seeds,), {}), tune)
    missing = [run for run in _runs(plan) if not _is_there(run)]
    if missing:
        print(_announcement(plan, missing), flush=True)
    for number, (entry, config) in enumerate(missing, start=1):
        print(f"{entry}, seed {config.train.seed}: {number} of {len(missing)}", flush=True)
        _train(config)
    return _judged(plan)


def _plan_path(name: str, baseline: str, preset: str) -> Path:
    return project_root() / "runs" / "judged" / f"{preset}-{name}-against-{baseline}.json"


def _settled(asked: Plan, tune: bool) -> Plan:
    """The plan as it was settled, extended if that is what is asked; written down."""
    path = asked.path
    if not path.exists():
        plan = replace(asked, rates=_tuned(asked) if tune else {})
        plan.write()
        return plan
    there = json.loads(path.read_text())
    plan = Plan(**{**there, "looks": tuple(there["looks"])})
    if tune != bool(plan.rates):
        how = "tuned rates" if plan.rates else "the preset's rates"
        raise ValueError(
            f"{path.stem} was begun with {how}; ask with tune={bool(plan.rates)}, or delete {path}"
            " to begin anew with other seeds"
        )
    if asked.seeds == plan.seeds:
        return plan
    reached = all(_is_there(run) for run in _runs(plan))
    if asked.seeds < plan.seeds or not reached or len(plan.looks) > 1:
        raise ValueError(
            f"{path.stem} was planned with {plan.seeds} seeds"
            + (" after its one extension" if len(plan.looks) > 1 else "")
            + f", now {asked.seeds} are asked for: a number that follows the results finds"
            " differences that are none. "
            + ("" if reached else "Reach the planned number first; then ")
            + ("" if len(plan.looks) > 1 else "one extension to more is possible")
        )
    plan = replace(plan, looks=(*plan.looks, asked.seeds))
    plan.write()
    return plan


def _runs(plan: Plan) -> Iterator[tuple[str, Config]]:
    """Every run of a plan, seed by seed, so that pairs are complete early."""
    for seed in range(plan.seeds):
        for entry in (plan.baseline, plan.name):
            yield entry, plan.config(entry, seed)


def _is_there(run: tuple[str, Config]) -> bool:
    """Whether a run is finished, and evaluated where there is a split for that."""
    config = run[1]
    folder = folder_of(config)
    if not is_over(folder.read_log(), config.train.model_dump()):
        return False
    return folder.test_path.exists() or not has_split(config.data, SPLIT)


def _train(config: Config) -> None:
    """One run, and what it reaches on the split that nothing is tuned on."""
    run = fit(config)
    if has_split(config.data, SPLIT):
        keep_test(run, RunFolder(run.path))


def _announcement(plan: Plan, missing: list[tuple[str, Config]]) -> str:
    """How many runs are missing, how long they take, and what so many seeds can see."""
    seconds = sum(_seconds(config) for _, config in missing)
    told = (
        f"{plan.name} against {plan.baseline}: {len(missing)} of {2 * plan.seeds} runs are missing,"
        f" about {duration(seconds)}"
    )
    spread = _kept_spread(plan)
    if spread is None:
        return f"{told}; no kept study of preset {plan.preset} tells how far runs spread"
    seen = detectable_difference(spread, plan.seeds) if plan.seeds > 1 else float("inf")
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
    steps = len(open_split(about.data, about.data.train_split)) // about.train.global_batch(1)
    return seconds_per_step(config, TIMED_STEPS) * steps * about.train.epochs


def _kept_spread(plan: Plan) -> float | None:
    """How far paired differences of the kept study spread, in the median over its entries."""
    kept = sorted((project_root() / "data" / "study" / plan.preset).glob("*/"))
    try:
        spreads = verdicts(kept).table["difference_spread"].dropna()
    except ValueError:
        return None
    return float(spreads.median()) if len(spreads) else None


def _tuned(plan: Plan) -> dict[str, float]:
    """The factor of the preset's rate that serves each side best on seeds not judged."""
    return {entry: _best_factor(plan, entry) for entry in (plan.baseline, plan.name)}


def _best_factor(plan: Plan, entry: str) -> float:
    """By mean validation AP; further outwards while the best lies at an edge."""
    reached: dict[float, float] = {}
    factors = list(FACTORS)
    while True:
        for factor in factors:
            if factor not in reached:
                print(f"{entry}: trying {factor:g} times the preset's rate", flush=True)
                reached[factor] = float(np.mean([_trial(plan, entry, factor, s) for s in TRIALS]))
        best = max(reached, key=reached.get)
        if best == min(reached):
            factors = [best / 2]
        elif best == max(reached):
            factors = [best * 2]
        else:
            return best


def _trial(plan: Plan, entry: str, factor: float, seed: int) -> float:
    """Validation AP at the end of a trial; 0 where it diverges."""
    try:
        return float(fit(plan.config(entry, seed, factor)).log["AP"].iloc[-1])
    except TrainingDiverged:
        return 0.0


def _judged(plan: Plan) -> Judgement:
    """What the finished runs say, once they are as many as planned."""
    there = [run for run in _runs(plan) if _is_there(run)]
    records = []
    for entry, config in there:
        (record,) = read_records([folder_of(config).path])
        records.append(replace(record, name=f"{entry}-s{config.train.seed}"))
    if len(there) < 2 * plan.seeds:
        return Judgement(plan, tuple(records))
    found = verdicts(records, plan.baseline)
    differences = (found.values[plan.name] - found.values[plan.baseline]).dropna()
    ruling = rule(differences.to_numpy(), level=LEVEL / len(plan.looks))
    return Judgement(plan, tuple(records), ruling, found)


def _tex(text: str) -> str:
    return text.replace("_", "\\_")
