"""Was it trained by the code, and after the plan, that a study states? Trials and judged runs."""

from collections.abc import Collection, Iterable, Mapping

from detrnb.compare import StudyPlan
from detrnb.runs import code_differences, trained_by
from detrnb.study.jobs import Job
from detrnb.training import code_of


def code_of_entries(plan: StudyPlan, labels: Collection[str]) -> dict[str, str]:
    """The hash of each file that computes what entries describe."""
    code: dict[str, str] = {}
    for entry in plan.entries:
        if entry.label in labels:
            code |= code_of(plan.config(entry.label, plan.first, factor=1.0))
    return code


def other_files(code: Mapping[str, str], stated: Mapping[str, str]) -> list[str]:
    """Files of a code that are not as they were stated."""
    return code_differences(code, {file: stated.get(file) for file in code})


def check_judged(job: Job, plan: StudyPlan) -> None:
    """See that a judged run began after the plan and is of its code.

    Raises:
        ValueError: it is not.
    """
    provenance = job.run.read_provenance()
    codes = trained_by(provenance)
    known = [code for code in codes if code is not None]
    other = sorted({file for code in known for file in other_files(code, plan.code)})
    if len(known) < len(codes):
        what = "was trained by code that is not known"
    elif other:
        what = f"was trained by other code than the plan's ({', '.join(other)})"
    elif provenance.get("started", "") < plan.frozen:
        what = f"began at {provenance.get('started')}, before the plan ({plan.frozen})"
    else:
        return
    raise ValueError(f"{job.run.path} {what}: delete it, and it is trained anew")


def check_trials(trials: Iterable[Job], code: Mapping[str, str]) -> None:
    """See that rates were tried with one code.

    Args:
        trials: that are kept.

    Raises:
        ValueError: some were tried with another; names them all.
    """
    others: dict[str, set[str]] = {}
    commits, folder = set(), None
    for trial in trials:
        about = trial.kept.read_provenance()
        for trained in trained_by(about):
            other = ["not known"] if trained is None else other_files(trained, code)
            if other:
                folder = trial.kept.path.parent
                others.setdefault(trial.name, set()).update(other)
                commits.add(str(about.get("git_commit") or "not known"))
    if others:
        files = ", ".join(sorted(set().union(*others.values())))
        raise ValueError(
            f"{len(others)} trials were trained by other code than what is here ({files}):"
            f" {', '.join(sorted(others))}; go on from a clone at their commit"
            f" ({', '.join(sorted(commits))}), or delete them in {folder}, and they are trained"
            " anew"
        )
