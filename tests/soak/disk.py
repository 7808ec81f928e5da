"""Disk: full, read-only, limited or failing, at each kind of file; then there is room again."""

import errno
import os
import random
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detrnb.commands import main
from soak.drill import Drill, Try
from soak.forking import Child
from soak.hooks import failing
from soak.kill import Project

VARIANT = "adaptive_res"  # has a history
ERRORS = {"full": errno.ENOSPC, "quota": errno.EDQUOT, "failing": errno.EIO}
ERRORS |= {"read-only": errno.EROFS, "stalled network": errno.ESTALE}
KINDS = ("open", "write", "fsync", "replace")  # what a disk refuses where it has no room


def judged(project: Project, name: str, child: Child, file: str = "") -> str:
    """What is wrong with how a run ended whose disk failed, and with how it went on after."""
    code, said = child.wait(), child.said
    told = project.goes_on(name, VARIANT)
    if "Traceback" in said or code not in (0, 1):
        return f"ended with {code}: {said[-300:]}"
    if code == 1 and (file or f"runs/{name}") not in said:
        return f"ended without naming {file or 'a file'}: {said[-300:]}"
    return told and f"there was room again, but {told}"


def at_an_operation(project: Project, number: int, kind: str) -> Try:
    """The error at one operation and at all of its kind on that file."""
    project.know(VARIANT)
    at = number + 1
    operation, file = project.operations[VARIANT][number].split()
    name = project.new()
    child = project.hooked(name, VARIANT, failing(at, ERRORS[kind]))
    why = judged(project, name, child)
    return Try(f"{kind}, at an operation", not why, why and f"{operation} of {file}: {why}")


def at_a_size(project: Project, limit: int) -> Try:
    """No file may be longer than so many bytes, which is what the system itself refuses."""
    project.know(VARIANT)
    name = project.new()
    reading, writing = os.pipe()  # the limit would hold for a file with its words too

    def do() -> int:
        for stream in (1, 2):
            os.dup2(writing, stream)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return main(project.line(name, VARIANT))

    child = Child(do, project.folder)
    os.close(writing)
    child.wait()
    with os.fdopen(reading, "rb") as said:
        child.output.write_bytes(said.read())
    why = judged(project, name, child)
    return Try("files limited in size", not why, why and f"{limit} bytes: {why}")


@contextmanager
def mounted(place: Path, kilobytes: int) -> Iterator[bool]:
    """A file system of so many kilobytes at a place; False where this process may mount none."""
    place.mkdir(parents=True)
    asked = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
    try:
        yield subprocess.run(asked, capture_output=True).returncode == 0
    finally:
        subprocess.run(["umount", "-l", str(place)], capture_output=True)


def on_a_full_one(project: Project, kilobytes: int) -> Try:
    """The run's folder on a file system too small for it, which then is made larger."""
    project.know(VARIANT)
    part, name = "a full file system", project.new()
    place = project.folder / "runs" / name
    with mounted(place, kilobytes) as there:
        if not there:
            return Try(part, None, "needs root, to mount a small file system")
        child = Child(lambda: main(project.line(name, VARIANT)), project.folder)
        code, said = child.wait(), child.said
        why = "" if code == 1 and str(place) in said else f"ended with {code}: {said[-200:]}"
        remount = ["mount", "-o", "remount,size=64m", str(place)]
        subprocess.run(remount, capture_output=True)
        why = why or project.goes_on(name, VARIANT)
    return Try(part, not why, why and f"{kilobytes} kB: {why}")


def on_a_read_only_one(project: Project) -> Try:
    """The run's folder becomes read-only after its first epoch."""
    project.know(VARIANT)
    part, name = "a read-only file system", project.new()
    place = project.folder / "runs" / name
    with mounted(place, 65536) as there:
        if not there:
            return Try(part, None, "needs root, to mount a file system")
        child = Child(lambda: main(project.line(name, VARIANT)), project.folder)
        while child.poll() is None and not (place / "last.pt").exists():
            os.sched_yield()
        changed = ["mount", "-o", "remount,ro", str(place)]
        frozen = subprocess.run(changed, capture_output=True).returncode == 0
        code, said = child.wait(), child.said
        why = "" if not frozen or code == 1 and str(place) in said else f"{code}: {said[-200:]}"
        subprocess.run(["mount", "-o", "remount,rw", str(place)], capture_output=True)
        why = why or project.goes_on(name, VARIANT)
    return Try(part, not why, why)


def tries(folder: Path) -> Iterator[Try]:
    project, draw = Project(folder), random.Random(1)
    project.know(VARIANT)
    size = max(file.stat().st_size for file in (folder / f"runs/unbroken-{VARIANT}").iterdir())
    told = project.operations[VARIANT]
    kinds = [n for n, line in enumerate(told) if line.split()[0] in KINDS]
    first = {told[n].split(".")[0] + told[n][-5:]: n for n in reversed(kinds)}  # one of each kind
    order = [*first.values(), *draw.sample(kinds, len(kinds))]
    for turn, number in enumerate(order):
        yield at_an_operation(project, number, [*ERRORS][turn % len(ERRORS)])
        if turn % 4 == 0:
            yield at_a_size(project, draw.choice([0, 100, 700, 3000, size // 2, size - 1]))
        if turn % 4 == 2:
            yield on_a_full_one(project, draw.choice([8, 64, size // 2048, size // 700]))
        if turn % 16 == 6:
            yield on_a_read_only_one(project)


TAUGHT = (
    "a lock was not given back where a full disk had no room for its claim, then the claim stayed "
    "that a full disk had cut short: "
    "runs/test_lock.py::test_lock_is_given_back_where_a_full_disk_has_no_room_for_a_claim, "
    "test_lock_that_finds_no_room_is_named_and_leaves_nothing"
)
DISK = Drill("Disk", tries, TAUGHT)
