"""What there is of a study: kept, diverged, begun, missing; of which code; how long it takes."""

from collections import Counter

import numpy as np

from detrnb.compare import FEWEST_SEEDS, STUDIES, aa_splits, simulated
from detrnb.runs import RunFolder, trained_by
from detrnb.study.engine import Study
from detrnb.study.jobs import Job
from detrnb.study.origin import other_files
from detrnb.study.rates import chosen, further
from detrnb.training import code_of, duration, other_code


def state_of(study: Study) -> str:
    """What there is, what is missing, of which code, how long it takes."""
    return "\n".join(_judged(study) if study.is_settled else _trials(study))


def simulation(study: Study, spread: float) -> str:
    """How often each verdict would come in the study's plan, and between runs of its baseline.

    Args:
        spread: standard deviation of paired differences, as measured.
    """
    table = simulated(study.plan, spread)
    parts = [
        f"{STUDIES} made-up studies of each true difference, pairs spreading by {spread:g}; false:"
        " of families, one better or worse without a difference; of entries, one within it at"
        f" {study.plan.delta:g} or more",
        table.round(3).to_string(),
    ]
    baseline = study.plan.entries[0].label
    runs = study.judged_jobs if study.is_settled else {}
    jobs = [job for (label, _), job in runs.items() if label == baseline]
    tests = [job.kept.read_test() for job in jobs]
    reached = [test["coco_eval_bbox"][0] for test in tests if test]
    if len(reached) >= 2 * FEWEST_SEEDS:
        parts += [
            f"{baseline} against itself, its {len(reached)} runs split at random",
            aa_splits(reached, delta=study.plan.delta).round(3).to_string(),
        ]
    return "\n\n".join(parts)


def _trials(study: Study) -> list[str]:
    lines = [f"{study.plan.name}: no plan is settled; trials of learning rates"]
    for entry in (e for e in study.plan.tuned if e.label in study.only):
        left = study.trials_left(entry)
        tried = ", ".join(f"{factor:g}" for factor in sorted(study.reached(entry))) or "none"
        state = f"{len(left)} runs are missing" if left else "settled"
        lines.append(f"  {entry.label}: {state}; rates tried, times the preset's: {tried}")
        lines += [f"    {_begun(job)}" for job in left if job.run.config_path.exists()]
    lines += _lost_by_half(study.plan.preset)
    spent = [
        RunFolder(path).read_provenance().get("wall_time_s", 0.0)
        for path in (study.folder / "trials").glob("*/")
    ]
    lines += [f"{duration(sum(spent))} of trials so far"] * bool(spent)
    if not any(study.trials_left(entry) for entry in study.plan.tuned):
        lines.append("all are there: `detrnb study --plan` settles the plan, to be committed")
    return lines


def _lost_by_half(preset: str) -> list[str]:
    """What the rates that half-length trials choose lose at full length, where both are there."""
    half, full = Study(preset), Study(preset, full=True)
    lines = []
    for entry in half.plan.tuned:
        short, long = half.reached(entry), full.reached(entry)
        if short and long and not further(short) and not further(long):
            factor = chosen(short)
            lost = f"{max(long.values()) - long[factor]:.3f} AP" if factor in long else "untried"
            lines.append(
                f"  {entry.label}: half-length trials choose {factor:g}; lost by it at full length:"
                f" {lost}"
            )
    return lines


def _judged(study: Study) -> list[str]:
    plan = study.plan
    jobs = {run: job for run, job in study.judged_jobs.items() if run[0] in study.only}
    kept = {run for run, job in jobs.items() if job.is_kept}
    failed = {run for run in kept if jobs[run].has_failed}
    begun = [j for run, j in jobs.items() if run not in kept and j.run.config_path.exists()]
    lines = [
        f"{plan.name}, plan {plan.hash} of {plan.frozen}: {len(kept)} of {len(jobs)} runs are kept,"
        f" {len(failed)} of them diverged; {len(begun)} begun"
    ]
    seconds = {run: jobs[run].kept.read_provenance().get("wall_time_s", np.nan) for run in kept}
    overall = np.nanmean(list(seconds.values())) if kept else np.nan
    total = 0.0
    for entry in (e for e in plan.entries if e.label in study.only):
        wanted = [run for run in jobs if run[0] == entry.label]
        there = [run for run in wanted if run in kept]
        missing = [str(replicate) for label, replicate in wanted if (label, replicate) not in kept]
        each = np.nanmean([seconds[run] for run in there]) if there else overall
        total += each * len(missing) if missing else 0.0
        diverged = sum(run in failed for run in there)
        lines.append(
            f"  {entry.label}: {len(there)} of {len(wanted)}"
            + f", {diverged} diverged" * bool(diverged)
            + (f"; {duration(each)} each" if np.isfinite(each) and there else "")
            + (f"; missing: {', '.join(missing)}" if missing else "")
        )
    lines += [f"  {_begun(job)}" for job in begun]
    if kept:
        lines.append(f"{duration(np.nansum([*seconds.values()]))} of training so far")
    if len(kept) < len(jobs):
        lines.append(
            f"about {duration(total)} left, one run at a time"
            if np.isfinite(total)
            else "how long is not known before the first run is kept"
        )
    lines += _code(study, kept)
    if all(job.is_kept for job in study.judged_jobs.values()):
        if study.is_timed:
            lines.append("all are there; verdicts: compare.read_ladder, notebook 07")
        else:
            lines.append(
                "all are there, but steps are not timed yet: `detrnb study`, with nothing beside it"
            )
    return lines


def _begun(job: Job) -> str:
    epochs, log = job.config.train.epochs, job.run.read_log()
    return f"{job.name}: {len(log)} of {epochs} epochs, in {job.run.path}"


def _code(study: Study, kept: set[tuple[str, int]]) -> list[str]:
    """Of which code kept runs are, and whether it is today's."""
    said: Counter[str] = Counter()
    for run in kept:
        job = study.judged_jobs[run]
        provenance = job.kept.read_provenance()
        planned = all(
            code is not None and not other_files(code, study.plan.code)
            for code in trained_by(provenance)
        )
        other = other_code(provenance, code_of(job.config))
        said[
            ("of the plan's code" if planned else "of other code than the plan's")
            + (f", {other}" if other else "")
        ] += 1
    return [f"{number} of them {what}" for what, number in said.items()]
