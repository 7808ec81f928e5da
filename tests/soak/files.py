"""Files: what was spoiled in a run folder is named and refused, or changes nothing that is told."""

import os
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import nasty
import torch

from detrnb import load_run
from detrnb.compare import read_record
from detrnb.runs import RunFolder
from soak.drill import Drill, Try
from soak.runs import difference, outcome, trained, typed

NAMES = ("config.json", "log.txt", "provenance.json", "last.pt", "best.pt", "history.npz")
NAMES += ("thresholds.json", "test.json")
VARIANT = "adaptive_res"  # has a history
PLACES = 50
SEEDS = {"run": 0, "other": 1}


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


class Folder:
    """A finished run, a copy that lacks its last epoch, and another run to exchange files with."""

    def __init__(self, project: Path) -> None:
        self.project = project
        nasty.write(project)
        for name, seed in SEEDS.items():
            line = [*self.line(name, seed), "--test"]
            self.write_test_split()
            child = trained(project, *line)
            if child.code != 0:
                raise RuntimeError(child.said)
        self.run = project / "runs" / "run"
        self.trace = project / "trace"
        self.expected = {name: read(self.run) for name, read in READERS.items()}

    def line(self, name: str, seed: int) -> list[str]:
        return [*typed(name, VARIANT, train__epochs=2), "--seed", str(seed)]

    def write_test_split(self) -> None:
        """The validation split once more, as the one that nothing is tuned on."""
        root = self.project / "data" / "nasty"
        if not (root / "test2017").exists():
            shutil.copytree(root / "val2017", root / "test2017")
            annotations = root / "annotations"
            content = (annotations / "instances_val2017.json").read_bytes()
            (annotations / "instances_test2017.json").write_bytes(content)

    def spoiled(self, name: str, spoil: Callable[[Path], None]) -> Path:
        """A copy of the run with one file spoiled."""
        copy = self.project / "runs" / "spoiled"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.run, copy)
        spoil(copy / name)
        return copy


def _weights(path: Path, checkpoint: str) -> dict:
    run = load_run(path, checkpoint)
    return {"model": run.model.state_dict(), "classes": run.classes, "epoch": run.epoch}


def _record(path: Path) -> dict:
    record = read_record(path)
    told = vars(record).copy()
    # A log whose last line was cut off is one of fewer epochs, and says so.
    if short := [remark for remark in record.remarks if "epochs are missing" in remark]:
        raise ValueError(f"log.txt: {short[0]}")
    return {key: told[key] for key in told if key != "name"}


READERS: dict[str, Callable[[Path], object]] = {
    "last": lambda path: _weights(path, "last"),
    "best": lambda path: _weights(path, "best"),
    "record": _record,
    "history": lambda path: RunFolder(path).read_history(),
    "thresholds": lambda path: RunFolder(path).read_thresholds(),
}
# A file that is left out altogether is not told from one that never was, where that may be.
MAY_LACK = {"thresholds": {}, "history": {}}


def what_is_read(folder: Folder, path: Path, name: str) -> str:
    """What a reader says of a spoiled run that is neither true nor a refusal by name."""
    for reader, read in READERS.items():
        try:
            found = read(path)
        except (ValueError, OSError) as error:
            text = str(error)
            if name not in text and path.name not in text:
                return f"{reader} refuses without naming {name}: {text[:150]}"
            continue
        except Exception as error:
            return f"{reader} ends in {type(error).__name__}: {error}"
        told = difference(found, folder.expected[reader])
        absent = not (path / name).exists() and found == MAY_LACK.get(reader)
        if told and not absent:
            return f"{reader} tells something else: {told}"
    return "what it was given was run" if folder.trace.exists() else ""


def goes_on(folder: Folder, name: str, spoil: Callable[[Path], None]) -> str:
    """The same, of a run that lacks its second epoch and is to go on."""
    path = folder.spoiled("log.txt", lambda log: None)
    lines = (path / "log.txt").read_text().splitlines(keepends=True)
    (path / "log.txt").write_text("".join(lines[:1]))
    (path / "test.json").unlink()
    if (path / name).exists():
        spoil(path / name)
    child = trained(folder.project, *folder.line("spoiled", 0))
    if "Traceback" in child.said or child.code not in (0, 1):
        return f"going on ended with {child.code}: {child.said[-200:]}"
    if child.code == 1:
        named = name in child.said or path.name in child.said
        return "" if named else f"going on refuses without naming {name}: {child.said[-200:]}"
    try:
        told = difference(outcome(folder.project, "spoiled"), outcome(folder.project, "run"))
    except (ValueError, OSError, RuntimeError):  # what fit had no reason to read stays as it was
        return ""
    # Nor has it to mend what it does not read: the readers above refuse it.
    return "" if told.startswith((".best", ".thresholds")) else told


def cut(share: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(share * path.stat().st_size))


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flipped(draw: random.Random) -> Callable[[Path], None]:
    place, bit = draw.random(), draw.randrange(8)

    def spoil(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= 1 << bit
        path.write_bytes(content)

    return spoil


def exchanged(path: Path) -> None:
    shutil.copy(path.parent.with_name("other") / path.name, path)


def folder_of(path: Path) -> None:
    path.unlink()
    path.mkdir()


def circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def bomb(trace: Path, form: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        if form == "pickle":
            path.write_bytes(pickle.dumps(Bomb(trace)))
        else:
            torch.save({"model": Bomb(trace)}, path)

    return spoil


def ways(folder: Folder, draw: random.Random) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Each way to spoil a file, once, but for cuts and flips, of which there are as many places."""
    yield "zeroed", zeroed
    yield "another run's", exchanged
    yield "a folder", folder_of
    yield "a link in a circle", circle
    yield "a pickle that runs code", bomb(folder.trace, "pickle")
    yield "a pickle that runs code", bomb(folder.trace, "torch")
    for place in range(PLACES):
        yield "cut short", cut(place / PLACES)
        yield "one bit flipped", flipped(draw)


def tries(folder: Path, every: int = 8) -> Iterator[Try]:
    """Every way for every file; of one in `every` whether training goes on, too."""
    run, draw = Folder(folder), random.Random(0)
    for number, each in enumerate(zip(*(ways(run, draw) for _ in NAMES), strict=True)):
        for name, (part, spoil) in zip(NAMES, each, strict=True):
            path = run.spoiled(name, spoil)
            why = what_is_read(run, path, name)
            if not why and (number < 4 or number % every == 0):
                why = goes_on(run, name, spoil)
            yield Try(part, not why, why and f"{name}: {why}")


TAUGHT = (
    "a flipped bit, another run's file or a link that led nowhere was read as a result: "
    "runs/test_seal.py, soak/test_spoiled.py::test_run_does_not_go_on_with_another_runs_file;"
    " a spoiled lock.json ended in a KeyError: "
    "runs/test_lock.py::test_lock_that_says_nobody_is_an_unknown_processs_until_it_is_stale; a bit "
    "flipped in the checksum's name left a config unchecked: "
    "runs/test_seal.py::test_checksum_whose_name_is_damaged_is_no_missing_one; a log cut short was "
    "compared without a word: compare/test_records.py::test_run_that_ends_early_says_so"
)
FILES = Drill("Files", tries, TAUGHT)
