"""A smoke study by SLURM, cut off in the middle, against the same study run here.

    tools/cluster_check.py FOLDER

Of four runs one is cancelled in the middle and submitted again, and one is queued again by SLURM
itself, as after a preemption. Both must end with the logs of a study that nothing disturbed, but
for times. SLURM_CONF names the cluster (tools/slurm_here.sh starts one).
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from detrnb.compare import Family, PlannedEntry, StudyPlan
from detrnb.training import code_of

TINY = {"data.toy.num_images": [128, 8, 8], "train.epochs": 6}
PLANNED, PRESET = "second-smoke", "smoke"
LONGEST = 3600  # seconds to wait for anything


def main(folder: Path) -> None:
    plan = _plan()
    studies = {where: folder / where for where in ("here", "slurm")}
    for home in studies.values():
        plan.write(home / "data" / "study" / PLANNED / "plan.json")
    environment = {"OMP_NUM_THREADS": "1"}  # as many as a task of the cluster's has
    print(_detrnb(studies["here"], **environment))

    home = studies["slurm"]
    dry = _detrnb(home, "--on", "slurm", "--dry-run")
    assert "#SBATCH --requeue" in dry and not (home / "runs").exists(), dry
    number = _submit(home)
    cancelled, preempted = "detr-s200", "adaptive_res-s200"  # lines 1 and 2
    for name, task, verb in (
        (cancelled, 1, ["scancel"]),
        (preempted, 2, ["scontrol", "requeue"]),
    ):
        log = home / "runs" / PLANNED / "200" / "runs" / name / "log.txt"
        _wait(f"a first epoch of {name}", lambda log=log: log.exists() and _epochs(log) >= 1)
        epochs = _epochs(log)
        assert epochs < TINY["train.epochs"], f"{name} was over before it could be disturbed"
        print(_said([*verb, f"{number}_{task}"]), f"{name}: {verb[-1]} after {epochs} epochs")
    # A task that is queued again waits two minutes, unless it is told not to.
    waiting = ["squeue", "--noheader", "--states", "PENDING", "--format", "%i"]
    # It is completing at first.
    _wait("the preempted task", lambda: f"{number}_2" in _said(waiting).split())
    subprocess.run(["scontrol", "update", f"JobId={number}_2", "StartTime=now"], check=False)
    _wait("the array job", _queue_is_empty)
    print(_detrnb(home, "--status"))
    kept = home / "data" / "study" / PLANNED / "judged"
    assert not (kept / cancelled / "test.json").exists(), "the cancelled run was not cut off"
    assert (kept / preempted / "test.json").exists(), "the preempted run did not go on"
    _submit(home)
    _wait("the job submitted again", _queue_is_empty)
    print(_detrnb(home, "--status"))

    undisturbed = studies["here"] / "data" / "study" / PLANNED / "judged"
    names = sorted(path.name for path in undisturbed.iterdir())
    assert len(names) == 4, f"expected the runs of two entries and two replicates, found {names}"
    assert names == sorted(path.name for path in kept.iterdir()), "a run is missing on one side"
    for name in names:
        here, there = (
            _log(root / "data/study" / PLANNED / "judged" / name) for root in studies.values()
        )
        assert here == there, f"{name}: the logs differ"
        print(f"{name}: {len(here) - 1} epochs and the test's AP are equal")


def _plan() -> StudyPlan:
    """Two entries, two replicates, settled without trials."""
    entries = tuple(
        PlannedEntry(label=name, variant=name, replicates=2, overrides=TINY, rate=1.0, tried=(1.0,))
        for name in ("detr", "adaptive_res")
    )
    families = (Family(name="ideas", baseline="detr", entries=("adaptive_res",)),)
    plan = StudyPlan(
        name=PLANNED,
        preset=PRESET,
        entries=entries,
        families=families,
        frozen="2020-01-01T00:00:00+00:00",
    )
    code = code_of(plan.config("detr", 200)) | code_of(plan.config("adaptive_res", 200))
    return plan.model_copy(update={"code": code})


def _detrnb(home: Path, *words: str, **environment: str) -> str:
    command = [sys.executable, "-m", "detrnb", "study", "--preset", PRESET, *words]
    return _said(command, DETRNB_HOME=str(home), **environment)


def _submit(home: Path) -> str:
    """Submit what is missing; gives the array job's number."""
    told = _detrnb(home, "--on", "slurm")
    print(told)
    return told.split(";")[0].rpartition(" ")[2]


def _said(command: list[str], **environment: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def _wait(what: str, there: Callable[[], bool]) -> None:
    begin = time.monotonic()
    while not there():
        if time.monotonic() - begin > LONGEST:
            sys.exit(f"{what} did not come within {LONGEST} seconds")
        time.sleep(0.2)


def _queue_is_empty() -> bool:
    return not _said(["squeue", "--noheader"])


def _epochs(log: Path) -> int:
    return len(log.read_text().splitlines())


def _log(kept: Path) -> list[dict]:
    """A kept run's log and its test, without times."""
    lines = [json.loads(line) for line in (kept / "log.txt").read_text().splitlines()]
    lines.append(json.loads((kept / "test.json").read_text()))
    timed = ("seconds", "crc32")  # and what is made of times
    return [{k: v for k, v in line.items() if "time" not in k and k not in timed} for line in lines]


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
