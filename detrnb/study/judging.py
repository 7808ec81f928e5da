"""Does an idea help? Train what is missing of it and of the baseline, and give the verdict."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from detrnb.compare import (
    FIRST_REPLICATE,
    LEVEL,
    Record,
    read_records,
    verdicts,
)
from detrnb.datasets import has_split
from detrnb.runs import (
    RunFolder,
    bring_back_file,
    hash_of_text,
    is_over,
    project_root,
    write_text,
)
from detrnb.settings import BASELINE, Config, name_of, own_sources, resolve
from detrnb.study.bench import Bench
from detrnb.study.costs import TIMED_STEPS, announcement, timed
from detrnb.study.jobs import Job
from detrnb.study.judgement import Judgement, Plan
from detrnb.study.lending import lent, seeds_lent
from detrnb.study.rates import TRIALS, chosen, further
from detrnb.study.slurm import Slurm
from detrnb.training import (
    TEST_SPLIT,
    TrainingDiverged,
    fit,
    folder_of,
    keep_test,
    see_placed,
)


def judge(
    name: str | type,
    baseline: str = BASELINE,
    seeds: int = 6,
    preset: str = "toy",
    *,
    tune: bool = False,
    on: Literal["here", "slurm"] | Slurm = "here",
) -> Judgement:
    """Judge a variant: train what is missing on both sides, then say whether it helps.

    The number of seeds is written down at the first call; until it is reached there are curves and
    no verdict, for who looks after each seed and stops when it suits finds differences that are
    none. Fewer than FEWEST_SEEDS are described, and are no look. Beyond that one extension is
    possible, after which each look counts half. Stopped, it goes on where it was by the same call.
    A class of your own that has changed since is judged anew, and the verdict tells how often.

    Where the preset's data are generated, pairs are numbered from 200 and each has scenes of its
    own, which nobody has seen while an idea was made. The baseline's runs of the kept study serve
    where they are equal to what would be trained here. What a step costs is timed at the end, of
    both sides one after the other.

    Args:
        name: a variant as `Config.preset` takes it, one of your own too, or its class.
        baseline: what it is compared with.
        seeds: pairs of runs.
        preset: of both.
        tune: try learning rates for both alike first, on seeds that are not judged.
        on: `slurm`, or a `Slurm` with what is asked of it (`Slurm(time="2:00:00", gpus=1)`), hands
            the runs that are missing to a cluster and does not wait for them, with the source of a
            variant of your own; called again it judges, or submits what is missing still. Rates are
            tried here.

    Raises:
        ValueError: another number of seeds was settled, or a variant is unknown, or its source
            cannot be kept for the cluster's processes; `on` is neither of these. What the class
            itself raises in a small step of training, before anything is settled.
    """
    name = name if isinstance(name, str) else name_of(name)
    for variant in (name, baseline):
        resolve(variant)
    if name == baseline:
        raise ValueError(f"{name!r} against itself has no difference; name another baseline")
    generated = Config.preset(preset).data.toy is not None
    if not isinstance(on, Slurm) and on not in ("here", "slurm"):
        raise ValueError(f"on is {on!r}; expected 'here', 'slurm' or a Slurm")
    for variant in (name, baseline):
        _see_sound(variant, alone=on == "here")
    first = FIRST_REPLICATE if generated else 0
    asked = Plan(name, baseline, preset, (seeds,), {}, first, sources=_sources(name, baseline))
    plan = _settled(asked, tune)
    missing = [(entry, config) for entry, config in _runs(plan) if not _is_there(plan, config)]
    if missing:
        print(announcement(plan, missing), flush=True)
    if on != "here":
        if missing:
            slurm = on if isinstance(on, Slurm) else Slurm()
            _submit(plan, [config for _, config in missing], slurm)
        return _judged(plan)
    for number, (entry, config) in enumerate(missing, start=1):
        print(f"{entry}, seed {config.train.seed}: {number} of {len(missing)}", flush=True)
        _train(config)
    return _judged(plan, timed(plan))


def _see_sound(variant: str, *, alone: bool) -> None:
    """See that variants of a user's own can be trained, before anything is settled or tuned.

    Args:
        alone: whether this process trains them; others need their source.

    Raises:
        ValueError: their source is not whole. What their own code raises in a small step is raised.
    """
    own = own_sources(variant)
    if not own:
        return
    bench = Bench(variant)
    model = bench.built().train()
    see_placed(model, bench.settings)
    bench.loss(model, bench.targets(3, 1)).backward()
    for name, source in own.items():
        if not (alone or source.is_whole):
            raise ValueError(
                f"the cluster's processes cannot train {name}, as its source is not whole:"
                f" {'; '.join(source.missing)}; put all of it into one file, and load that here by"
                " `load_variants`"
            )


def _settled(asked: Plan, tune: bool) -> Plan:
    """The plan as it was settled, extended if that is what is asked; written down."""
    path = asked.path
    bring_back_file(path)
    plan = Plan.read(path) if path.exists() else None
    if plan is not None and plan.sources and plan.sources != asked.sources:
        print(
            f"{asked.name} or {asked.baseline} has changed since {path} was written: it is judged"
            " anew, and the verdict says so",
            flush=True,
        )
        asked, plan = replace(asked, earlier=plan.earlier + 1), None
    if plan is None:
        path.with_suffix(".times").unlink(missing_ok=True)  # of another version, or plan
        plan = replace(asked, rates=_tuned(asked) if tune else {})
        plan = replace(plan, kept=seeds_lent(plan))
        plan.write()
        return plan
    if tune != bool(plan.rates):
        how = "tuned rates" if plan.rates else "the preset's rates"
        raise ValueError(
            f"{path.stem} was begun with {how}, now tune={tune} is asked for: ask with"
            f" tune={bool(plan.rates)}; or delete {path} to begin anew, and say so where you report"
            " it, for nothing else will tell that this is a second judgement"
        )
    if asked.seeds == plan.seeds:
        return plan
    reached = all(_is_there(plan, config) for _, config in _runs(plan))
    if asked.seeds < plan.seeds or not reached or len(plan.judged) > 1:
        raise ValueError(
            f"{path.stem} was planned with {plan.seeds} seeds"
            + (" after its one extension" if len(plan.judged) > 1 else "")
            + f", now {asked.seeds} are asked for: a number that follows the results finds"
            " differences that are none. "
            + ("" if reached else "Reach the planned number first; then ")
            + ("" if len(plan.judged) > 1 else "one extension to more is possible")
        )
    plan = replace(plan, looks=(*plan.looks, asked.seeds))
    plan = replace(plan, kept=seeds_lent(plan) if plan.kept else ())
    plan.write()
    return plan


def _runs(plan: Plan) -> Iterator[tuple[str, Config]]:
    """Every run of a plan, seed by seed, so that pairs are complete early."""
    for seed in plan.numbers:
        for entry in (plan.baseline, plan.name):
            yield entry, plan.config(entry, seed)


def _sources(name: str, baseline: str) -> dict[str, str]:
    """By name, hashes of the source of a user's own variants on either side."""
    known = own_sources(name) | own_sources(baseline)
    return {own: hash_of_text(source.text) for own, source in known.items()}


def _folder(plan: Plan, config: Config) -> RunFolder:
    """Where a run is: where `fit` has it, or in the kept study."""
    seed = config.train.seed
    if config.model.variant == plan.baseline and seed in plan.kept:
        return lent(plan, seed)
    return folder_of(config)


def _is_there(plan: Plan, config: Config) -> bool:
    """Whether a run is finished, and evaluated where there is a split for that; or diverged."""
    folder = _folder(plan, config)
    if folder.failed_path.exists():
        return True
    log = folder.read_log()
    # By its own config, in which the data may have said how long it trains.
    if not log or not is_over(log, folder.read_config()["train"]):
        return False
    return folder.test_path.exists() or not has_split(config.data, TEST_SPLIT)


def _train(config: Config) -> None:
    """One run, and what it reaches on the split that nothing is tuned on; or that it diverged."""
    try:
        run = fit(config)
    except TrainingDiverged as error:
        print(f"{folder_of(config).path.name} diverged: {error}", flush=True)
        return
    if has_split(config.data, TEST_SPLIT):
        keep_test(run)


def _submit(plan: Plan, configs: Sequence[Config], slurm: Slurm) -> None:
    """Hand runs to a cluster."""
    folder = plan.path.with_suffix(".slurm")
    files = {name: _written(name, folder) for name in {c.model.variant for c in configs}}
    jobs = []
    for config in configs:
        run, tested = folder_of(config), has_split(config.data, TEST_SPLIT)
        own = files[config.model.variant]
        jobs.append(Job(run.path.name, config, project_root(), run, tested, own))
    slurm = replace(slurm, name=slurm.name or f"detrnb-{plan.path.stem}")
    number = slurm.submit(jobs, folder)
    print(f"array job {number} trains {len(jobs)} runs; ask again when they are there", flush=True)


def _written(variant: str, folder: Path) -> tuple[Path, ...]:
    """Files with the source of a user's own variants, for processes that cannot ask a notebook.

    Each text has a file of its own: tasks of an earlier one may be queued still.
    """
    files = []
    for name, source in own_sources(variant).items():
        path = folder / f"{name}_{hash_of_text(source.text)[:8]}.py"
        write_text(path, source.text)
        files.append(path)
    return tuple(files)


def _tuned(plan: Plan) -> dict[str, float]:
    """The factor of the preset's rate that serves each side best on seeds not judged."""
    return {entry: _best_factor(plan, entry) for entry in (plan.baseline, plan.name)}


def _best_factor(plan: Plan, entry: str) -> float:
    """By mean validation AP."""
    reached: dict[float, float] = {}
    while factors := further(reached):
        for factor in factors:
            print(f"{entry}: trying {factor:g} times the preset's rate", flush=True)
            found = [_trial(plan, entry, factor, seed) for seed in TRIALS.replicates]
            reached[factor] = float(np.mean(found))
    return chosen(reached)


def _trial(plan: Plan, entry: str, factor: float, seed: int) -> float:
    """Validation AP at the end of a trial; 0 where it diverges."""
    try:
        return float(fit(plan.config(entry, seed, factor)).log["AP"].iloc[-1])
    except TrainingDiverged:
        return 0.0


def _judged(plan: Plan, times: Mapping[str, Mapping[str, float]] | None = None) -> Judgement:
    """What the finished runs say, once they are as many as planned.

    Args:
        times: as `timed` gives; without, the logs' times count.
    """
    there = [(entry, config) for entry, config in _runs(plan) if _is_there(plan, config)]
    records: list[Record] = []
    diverged: Counter[str] = Counter()
    for entry, config in there:
        folder, number = _folder(plan, config), config.train.seed
        if folder.failed_path.exists():
            diverged[entry] += 1
            continue
        (record,) = read_records([folder.path])
        step_s = (times or {}).get(str(number), {}).get(entry)
        timing = {} if step_s is None else {"step_s": step_s, "steps": TIMED_STEPS}
        # A lent run has its own study's place; and a name may not tell the entry.
        place = {"plan": plan.path.stem, "entry": entry, "replicate": number}
        about = {**record.provenance, "study": place}
        name = f"{entry}-s{number}"
        records.append(replace(record, name=name, timing=timing, provenance=about))
    if len(there) < 2 * plan.seeds or plan.seeds in diverged.values():  # all of a side
        return Judgement(plan, tuple(records), diverged=diverged)
    found = verdicts(
        records,
        plan.baseline,
        accept=("learning rate",) if plan.rates else (),
        failed=diverged,
        level=LEVEL / max(1, len(plan.judged)),
    )
    return Judgement(plan, tuple(records), found, diverged)
