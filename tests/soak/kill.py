"""Kill: a process that ends at any moment goes on by the same command to the unbroken run's end."""

import itertools
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import nasty

from detrnb.commands import main
from soak.drill import Drill, Try
from soak.forking import Child
from soak.hooks import Hook, killing, noting
from soak.runs import VARIANTS, difference, outcome, train, trained, typed

# One keeps averaged weights too, one reads by workers.
CHANGES = {"detr": {"train__ema_decay": 0.9}, "dn_dab": {"data__num_workers": 1}}


class Project:
    """A folder with a data set and the unbroken runs that others are held against."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        nasty.write(folder)
        (folder / "runs").mkdir()  # or the first run has operations that others lack
        self.unbroken: dict[str, dict] = {}
        self.operations: dict[str, list[str]] = {}
        self.seconds: dict[str, float] = {}
        self._numbers = itertools.count()

    def line(self, name: str, variant: str) -> list[str]:
        return typed(name, variant, **CHANGES.get(variant, {}))

    def know(self, variant: str) -> None:
        """Have the unbroken run of a variant, with the operations it takes."""
        if variant in self.unbroken:
            return
        name, told = f"unbroken-{variant}", self.folder / f"operations-{variant}.txt"
        begin = time.monotonic()
        child = self.hooked(name, variant, noting(told))
        if child.wait() != 0:
            raise RuntimeError(child.said)
        self.seconds[variant] = time.monotonic() - begin
        self.unbroken[variant] = outcome(self.folder, name)
        self.operations[variant] = told.read_text().splitlines()

    def hooked(self, name: str, variant: str, act: object, torn: int = 0) -> Child:
        """Start a run whose operations on its own files are hooked."""

        def do() -> int:
            Hook(self.folder / "runs" / name, act, torn).install()
            return main(self.line(name, variant))

        return Child(do, self.folder)

    def new(self) -> str:
        return f"run-{next(self._numbers)}"

    def goes_on(self, name: str, variant: str) -> str:
        """Run the same command again; what is not as it should be, in words."""
        again = trained(self.folder, *self.line(name, variant))
        if again.code != 0:
            return f"the same command ended with {again.code}: {again.said[-300:]}"
        told = difference(outcome(self.folder, name), self.unbroken[variant])
        if not told:
            os.system(f"rm -rf '{self.folder}/runs/{name}' '{self.folder}'/said-* 2>/dev/null")
        return told


def between_operations(project: Project, variant: str, number: int, torn: bool) -> Try:
    """Killed just before an operation; torn: in the middle of it, where it is a write."""
    project.know(variant)
    operations = project.operations[variant]
    at = number % len(operations) + 1
    name = project.new()
    code = project.hooked(name, variant, killing(at), at if torn else 0).wait()
    where = f"{variant}, operation {at} of {len(operations)}, {operations[at - 1]}"
    why = "" if code == -signal.SIGKILL else f"ended with {code}, not killed"
    why = why or project.goes_on(name, variant)
    part = "SIGKILL within a write" if torn else "SIGKILL between file operations"
    return Try(part, not why, why and f"{where}: {why}")


def at_a_moment(project: Project, variant: str, share: float, number: int, part: str) -> Try | None:
    """Sent a signal after a share of the time that the run takes; None where it had ended."""
    project.know(variant)
    name = project.new()
    child = train(project.folder, *project.line(name, variant))
    time.sleep(share * project.seconds[variant])
    if not child.signal(number):
        return None
    code = child.wait()
    expected = {signal.SIGKILL: (-9,), signal.SIGTERM: (143, -15), signal.SIGINT: (130, -2)}
    why = "" if code in (0, *expected[number]) else f"ended with {code}: {child.said[-300:]}"
    # A loader's worker complains where the process that it reads for was killed.
    if number != signal.SIGKILL and "Traceback" in child.said:
        why = why or f"showed a traceback: {child.said[-300:]}"
    why = why or project.goes_on(name, variant)
    return Try(part, not why, why and f"{variant}, after {share:.0%}: {why}")


def stopped(project: Project, variant: str, share: float, seconds: float) -> Try | None:
    """A laptop's lid closed for a while."""
    project.know(variant)
    name = project.new()
    child = train(project.folder, *project.line(name, variant))
    time.sleep(share * project.seconds[variant])
    if not child.signal(signal.SIGSTOP):
        return None
    time.sleep(seconds)
    child.signal(signal.SIGCONT)
    code = child.wait()
    why = "" if code == 0 else f"ended with {code}: {child.said[-300:]}"
    why = why or difference(outcome(project.folder, name), project.unbroken[variant])
    return Try(f"SIGSTOP for {seconds:g} s", not why, why and f"{variant}: {why}")


def overtaken(project: Project, variant: str) -> Try:
    """Stopped for longer than its lock lasts, while another takes the run over; then woken."""
    project.know(variant)
    name = project.new()
    child = train(project.folder, *project.line(name, variant))
    lock = project.folder / "runs" / name / "lock.json"
    log = lock.with_name("log.txt")
    while child.poll() is None and not (lock.exists() and log.exists()):
        time.sleep(0.005)
    if not child.signal(signal.SIGSTOP):
        return Try("overtaken while stopped", None, "it was over before it could be stopped")
    if lock.exists():
        os.utime(lock, (1, 1))
    why = project_run = trained(project.folder, *project.line(name, variant))
    why = "" if project_run.code == 0 else f"the second: {project_run.said[-300:]}"
    child.signal(signal.SIGCONT)
    code = child.wait()
    if code == 1 and "has lost its lock.json" not in child.said:
        why = why or f"the first: {child.said[-300:]}"
    why = why or difference(outcome(project.folder, name), project.unbroken[variant])
    return Try("overtaken while stopped", not why, why)


def tries(folder: Path) -> Iterator[Try]:
    """All kinds, mixed, for ever."""
    project, draw = Project(folder), random.Random(0)
    orders = {v: draw.sample(range(997), 997) for v in VARIANTS}
    for number in itertools.count():
        variant = VARIANTS[number % 4]
        yield between_operations(project, variant, orders[variant][number // 4 % 997], False)
        more = [
            at_a_moment(project, variant, draw.random(), signal.SIGKILL, "SIGKILL at any moment"),
        ]
        if number % 2 == 0:
            torn = _writes(project, variant, draw)
            more.append(between_operations(project, variant, torn - 1, True))
        if number % 4 == 1:
            more.append(at_a_moment(project, variant, draw.random(), signal.SIGTERM, "SIGTERM"))
            part = "SIGINT, a notebook's stop button"
            more.append(at_a_moment(project, variant, draw.random(), signal.SIGINT, part))
        if number % 16 == 3:
            more.append(stopped(project, variant, draw.random(), 60 if number % 32 == 3 else 2))
            more.append(overtaken(project, variant))
        yield from filter(None, more)


def _writes(project: Project, variant: str, draw: random.Random) -> int:
    """The number of some operation that is a write."""
    found = [n for n, told in enumerate(project.operations[variant], 1) if told.startswith("write")]
    return draw.choice(found)


TAUGHT = (
    "a process killed while it changed a lock held up the next one for five minutes, in "
    "silence: runs/test_lock.py::test_process_killed_while_it_changes_a_lock_holds_up_nobody; one "
    "killed after its run's last word left its lock: "
    "runs/test_lock.py::test_what_a_process_left_that_was_killed_at_its_end_is_removed"
)
KILL = Drill("Kill", tries, TAUGHT)
