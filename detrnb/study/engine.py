"""The study: every planned run under equal conditions, replicate by replicate.

    detrnb study          the trials of learning rates, before there is a plan
    detrnb study --plan   settles the plan, to be committed
    detrnb study          the judged runs, then the time of a step of each entry

It goes on where it was stopped. Kept, small enough to commit, is `data/study/<name>/`: `plan.json`;
`trials/<entry>-x<factor>-e<epochs>-s<replicate>/` (without `e` where as long as judged runs) and
`judged/<entry>-s<replicate>/` with config, log, provenance (which carries the plan's hash), the
variant's own parameters by epoch, and of judged runs the last epoch's result on test2017. A
replicate's runs train in `runs/<name>/<replicate>/`, where images, features and weights go once all
its runs are kept.
"""

import fcntl
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np

from detrnb.compare import PlannedEntry, StudyPlan, judging_files
from detrnb.runs import RunFolder, is_uncommitted, log_table, project_root
from detrnb.study.entries import FEW, second_study
from detrnb.study.here import in_process, run_here
from detrnb.study.jobs import Job, clear, home_of
from detrnb.study.origin import check_judged, check_trials, code_of_entries, other_files
from detrnb.study.rates import chosen, further
from detrnb.study.slurm import Slurm
from detrnb.training import make_data, seconds_per_step

TIMED_STEPS = 40


class Busy(ValueError):
    """Another process trains the study here."""


class Study:
    """A study on disk, before or after its plan was settled.

    Args:
        preset: of all runs.
        full: whether trials are as long as judged runs; a settled plan says so itself.
        only: labels of entries to see to; all where there are none.

    Raises:
        ValueError: no such entry, or what is kept as a plan is none.
    """

    def __init__(
        self, preset: str = "toy", *, full: bool = False, only: Sequence[str] = ()
    ) -> None:
        draft = second_study(preset, full=full)
        self.folder = project_root() / "data" / "study" / draft.name
        self.plan_path = self.folder / "plan.json"
        self.plan = StudyPlan.read(self.plan_path) if self.plan_path.exists() else draft
        labels = [entry.label for entry in self.plan.entries]
        if unknown := sorted(set(only) - set(labels)):
            raise ValueError(f"no entry {', '.join(unknown)}; there are {', '.join(labels)}")
        self.only = set(only) or set(labels)

    @property
    def is_settled(self) -> bool:
        return self.plan.frozen is not None

    def trial(self, entry: PlannedEntry, factor: float, replicate: int) -> Job:
        plan, epochs = self.plan, self.plan.trials.epochs
        short = f"-e{epochs}" if epochs else ""
        name = f"{entry.label}-x{factor:g}{short}-s{replicate}"
        return Job(
            name,
            plan.config(entry.label, replicate, factor, epochs),
            home_of(plan.name, replicate),
            RunFolder(self.folder / "trials" / name),
            tested=False,
        )

    def judged(self, label: str, replicate: int) -> Job:
        name = f"{label}-s{replicate}"
        return Job(
            name,
            self.plan.config(label, replicate),
            home_of(self.plan.name, replicate),
            RunFolder(self.folder / "judged" / name),
        )

    @cached_property
    def judged_jobs(self) -> dict[tuple[str, int], Job]:
        """Every judged run, by entry and replicate, in the order they are trained in."""
        return {run: self.judged(*run) for run in self.plan.runs()}

    def _of(self, replicate: int) -> list[Job]:
        """The judged runs of a replicate."""
        return [job for (_, number), job in self.judged_jobs.items() if number == replicate]

    def reached(self, entry: PlannedEntry) -> dict[float, float]:
        """Factor -> mean AP of its trials, of those factors whose trials are all kept."""
        found: dict[float, float] = {}
        factors = list(self.plan.trials.factors)
        while factors:
            for factor in factors:
                trials = [self.trial(entry, factor, r) for r in self.plan.trials.replicates]
                if not all(trial.is_kept for trial in trials):
                    return found
                found[factor] = float(np.mean([_end(trial) for trial in trials]))
            factors = further(found, self.plan.trials.factors)
        return found

    def trials_left(self, entry: PlannedEntry) -> list[Job]:
        """The trials of an entry that can be run by now."""
        factors = further(self.reached(entry), self.plan.trials.factors)
        jobs = [self.trial(entry, f, r) for f in factors for r in self.plan.trials.replicates]
        return [job for job in jobs if not job.is_kept]

    def _kept_trials(self) -> Iterator[Job]:
        """The trials that rates are chosen by."""
        for entry in self.plan.tuned:
            for factor, replicate in product(self.reached(entry), self.plan.trials.replicates):
                yield self.trial(entry, factor, replicate)

    def left(self) -> list[Job]:
        """The runs that can be trained by now, replicate by replicate."""
        if self.is_settled:
            wanted = [job for (label, _), job in self.judged_jobs.items() if label in self.only]
            return [job for job in wanted if not job.is_kept]
        jobs = [j for e in self.plan.tuned if e.label in self.only for j in self.trials_left(e)]
        return sorted(jobs, key=lambda job: int(job.home.name))

    def collect(self) -> None:
        """Keep what has ended where it trains; what a study that trains here does itself."""
        with suppress(Busy), self._alone():
            self._collect()

    def _collect(self) -> dict[str, str]:
        """Gives by name why runs that have ended are refused; others are kept all the same."""
        refused = {}
        for job in self.left():
            if job.is_trained:
                try:
                    self.keep(job)
                except ValueError as error:
                    refused[job.name] = str(error)
                    print(f"not kept: {error}", flush=True)
        return refused

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other process keep, clear or train runs of the study here meanwhile.

        Raises:
            Busy: one does. The system frees the lock when its process ends.
        """
        path = project_root() / "runs" / self.plan.name / "study.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(
                    f"another `detrnb study` trains {self.plan.name} here: wait for it, or end it"
                ) from None
            except OSError as error:  # a file system without locks
                print(f"warning: {path} cannot be locked ({error}): start no second study here")
            yield

    def keep(self, job: Job) -> None:
        """Keep one that has ended, and clear its replicate's data once nothing else needs them.

        Raises:
            ValueError: a judged run began before the plan, or by other code than the plan's.
        """
        plan, study = self.plan, {}
        replicate = int(job.home.name)
        if job.tested:
            entry = job.name.rpartition("-s")[0]
            study = {"plan": plan.hash, "entry": entry, "replicate": replicate}
            check_judged(job, plan)
        job.keep(study)
        if job.tested and all(x.is_kept for x in self._of(replicate)):
            clear(job.home)

    def check(self) -> None:
        """See that the plan is committed, and the code is its code; before there is one, that of
        the trials which are there.

        Raises:
            ValueError: it is not.
        """
        if not self.is_settled:
            tried = {entry.label for entry in self.plan.tuned}
            check_trials(self._kept_trials(), code_of_entries(self.plan, tried))
            return
        uncommitted = is_uncommitted(self.plan_path)
        if uncommitted is None:
            print(
                f"warning: {self.plan_path} is in no repository, or one that ignores it: nobody"
                " will see that the plan came before its runs",
                file=sys.stderr,  # apart from what a shell is to run
            )
        if uncommitted:
            raise ValueError(
                f"{self.plan_path} is not committed as it is; commit it before the judged runs, so"
                " that anybody can see that it came first"
            )
        if other := other_files(code_of_entries(self.plan, self.only), self.plan.code):
            raise ValueError(
                f"the code is not that of {self.plan_path}: {', '.join(other)} differ; train from a"
                " clone at the commit that the plan was settled at:"
                f" git log -1 --format=%h -- {self.plan_path.name}, in {self.plan_path.parent}"
            )

    def settle(self) -> StudyPlan:
        """Write plan.json, with the rates that the trials chose.

        Raises:
            Busy: another process trains the study here.
            ValueError: there is one already, or trials are missing, or of other code.
        """
        with self._alone():
            return self._settle()

    def _settle(self) -> StudyPlan:
        if self.is_settled:
            raise ValueError(
                f"{self.plan_path} is settled, of {self.plan.frozen}; nothing in it changes once"
                " judged runs may have begun. To begin anew, delete its folder"
            )
        if left := [entry.label for entry in self.plan.tuned if self.trials_left(entry)]:
            raise ValueError(f"trials are missing of {', '.join(left)}: run `detrnb study` first")
        found = {entry.label: self.reached(entry) for entry in self.plan.tuned}
        for label, reached in found.items():
            if not max(reached.values()):
                print(f"warning: no trial of {label} reached an AP above 0", flush=True)
        rates = {
            label: {"tried": tuple(sorted(reached)), "rate": chosen(reached)}
            for label, reached in found.items()
        }
        entries = [e.model_copy(update=rates.get(e.label, {})) for e in self.plan.entries]
        stated = self.plan.model_copy(update={"entries": tuple(entries)})
        frozen = datetime.now(UTC).isoformat(timespec="seconds")
        code = code_of_entries(stated, {entry.label for entry in stated.entries})
        check_trials(self._kept_trials(), code)
        origin = {"code": code, "judged_by": judging_files(), "frozen": frozen}
        stated = stated.model_copy(update=origin)
        self.plan = StudyPlan.of(stated.model_dump(mode="json"))
        self.plan.write(self.plan_path)
        for replicate in self.plan.trials.replicates:
            clear(home_of(self.plan.name, replicate))
        return self.plan

    def run(self, workers: int = 1) -> dict[str, str]:
        """Train what is missing, here; gives by name why runs ended otherwise.

        Raises:
            Busy: another process trains the study here.
            ValueError: as for `check`.
        """
        self.check()
        everything = self.only >= {entry.label for entry in self.plan.entries}
        with self._alone():
            failed = self._collect()
            while jobs := [job for job in self.left() if job.name not in failed]:
                print(f"{self.plan.name}: {len(jobs)} runs to train", flush=True)
                failed |= run_here(jobs, workers, self.keep)
            if self.is_settled and everything and not failed:
                self.time_steps()
        return failed

    def submit(self, slurm: Slurm) -> str:
        """Hand what is missing to a cluster; gives the array job's number.

        Raises:
            ValueError: as for `check` and `Slurm.submit`; nothing is missing.
        """
        self.check()
        self.collect()
        return slurm.submit(self._left_to_submit(), self._slurm_folder)

    def script(self, slurm: Slurm) -> str:
        """What `submit` would hand over: the script, and the first of its lines.

        Raises:
            ValueError: nothing is missing.
        """
        jobs = self._left_to_submit()
        first = "\n".join(f"# {line}" for line in slurm.lines(jobs[:3]))
        script = slurm.script(len(jobs), self._slurm_folder)
        return f"{script}# lines, {len(jobs)} of them:\n{first}"

    def _left_to_submit(self) -> list[Job]:
        if not (jobs := self.left()):
            raise ValueError(f"nothing of {self.plan.name} is left to train")
        return jobs

    @property
    def _slurm_folder(self) -> Path:
        return project_root() / "runs" / self.plan.name / "slurm"

    def _untimed(self, place: int) -> list[Job]:
        """The runs of the first, second, ... replicate where the step of one is not timed yet."""
        jobs = [job for job in self._of(self.plan.first + place) if not job.has_failed]
        return [] if all(job.kept.timing_path.exists() for job in jobs) else jobs

    @property
    def is_timed(self) -> bool:
        """Whether the steps of all entries are timed."""
        return not any(self._untimed(place) for place in range(FEW))

    def time_steps(self) -> None:
        """Keep how long a step of each entry takes, entry after entry, in a few replicates.

        Trainings are hours apart, and a machine's speed drifts; nothing else should run meanwhile.
        """
        for place in range(FEW):
            if not (jobs := self._untimed(place)):
                continue
            in_process(jobs[0].home, make_data, jobs[0].config)
            turn = place * len(jobs) // FEW  # another entry first each time
            for job in jobs[turn:] + jobs[:turn]:
                step_s = in_process(job.home, seconds_per_step, job.config, TIMED_STEPS)
                job.kept.write_timing(step_s, TIMED_STEPS)
                print(f"{job.name}: {step_s:.3f} s a step", flush=True)
            clear(jobs[0].home)


def _end(trial: Job) -> float:
    """Validation AP at a trial's end; 0 where it diverged."""
    return 0.0 if trial.has_failed else float(log_table(trial.kept.read_log())["AP"].iloc[-1])
