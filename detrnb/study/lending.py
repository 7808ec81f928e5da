"""What the kept study lends a judgement: its baseline's runs, and how far pairs spread."""

import torch

from detrnb.compare import read_ladder
from detrnb.runs import RunFolder, parts_of, project_root, trained_by
from detrnb.study.entries import study_name
from detrnb.study.judgement import Plan
from detrnb.training import (
    TrainingDiverged,
    code_of,
    first_epoch,
    make_accelerator,
    other_settings,
)

FOLDER = "data", "study"


def lent(plan: Plan, seed: int) -> RunFolder:
    """Where the kept study has the baseline's run of a seed, if it has one."""
    folder = project_root().joinpath(*FOLDER, study_name(plan.preset))
    return RunFolder(folder / "judged" / f"{plan.baseline}-s{seed}")


def seeds_lent(plan: Plan) -> tuple[int, ...]:
    """Seeds whose baseline need not be trained, since the kept study has an equal run.

    Settings, code and the processor's instruction set must be equal, and an epoch trained here must
    give that run's line, to the last digit: then this machine computes what that one did, from the
    same images. It vouches for runs of as many threads. Whether data and precision of each pair are
    equal, the verdict's audit sees besides.
    """
    made = {seed: _made_by(lent(plan, seed)) for seed in plan.numbers if _is_equal(plan, seed)}
    if not made:
        return ()
    here = torch.backends.cpu.get_cpu_capability()
    fitting = [seed for seed, by in made.items() if {name for name, _ in by} <= {here, None}]
    if not fitting:
        print(
            f"{plan.baseline} is trained here: the kept study's runs of these seeds are of"
            f" processors with other instructions than {here}",
            flush=True,
        )
        return ()
    fitting = [seed for seed in fitting if made[seed] == made[fitting[0]]]
    first = lent(plan, fitting[0])
    print(f"{plan.baseline}: an epoch is trained to see whether {first.path.parent} serves")
    line = first.read_log()[0]
    try:
        again = first_epoch(plan.config(plan.baseline, fitting[0]))
    except TrainingDiverged:
        again = {}
    if again and again == {key: line.get(key) for key in again}:
        print(
            f"it does: {len(fitting)} of {plan.seeds} of its runs need not be trained", flush=True
        )
        return tuple(fitting)
    print("it does not: the epoch's numbers differ, so the baseline is trained here", flush=True)
    return ()


def _made_by(kept: RunFolder) -> set[tuple[str | None, int | None]]:
    """The instruction sets and numbers of threads that trained a run, which decide its rounding."""
    parts = parts_of(kept.read_provenance())
    return {(part.get("instruction_set"), part.get("threads")) for part in parts}


def _is_equal(plan: Plan, seed: int) -> bool:
    """Whether the kept study has the baseline's run, of these settings and this code."""
    kept = lent(plan, seed)
    if not kept.test_path.exists():
        return False
    stated = plan.config(plan.baseline, seed)
    here = make_accelerator(stated.train.precision).mixed_precision
    if kept.read_provenance().get("precision") == here:  # whatever each of them calls it
        precision = kept.read_config()["train"]["precision"]
        train = stated.train.model_copy(update={"precision": precision})
        stated = stated.model_copy(update={"train": train})
    same = not other_settings(kept, stated, 1)
    return same and trained_by(kept.read_provenance()) == [code_of(stated)]


def kept_spread(preset: str) -> float | None:
    """How far paired differences of the kept study spread, in the median over what its families
    judge; None before all of its runs are there.
    """
    try:
        table = read_ladder(project_root().joinpath(*FOLDER, study_name(preset))).table
    except ValueError:
        return None
    return float(table["difference_spread"].median())
