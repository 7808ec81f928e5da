"""What runs left behind, in one form whatever it is: run folders, log files, lines."""

import contextlib
import glob
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import pandas as pd

from detrnb.runs import (
    COCO,
    KNOWN,
    RunFolder,
    foreign_log,
    is_over,
    is_there,
    last_run,
    located,
    log_table,
    read_foreign_log,
    read_log,
    remarks,
)
from detrnb.settings import Config

_RUN_NAME = re.compile(r"(?P<entry>.+?)-s\d+(-[0-9a-f]{8})?( \(\d+\))?")


class HasPath(Protocol):
    """A run folder that is opened, such as what `fit` gives."""

    path: Path


@dataclass(frozen=True)
class Record:
    """What is known of one run; only its log is sure to be there.

    Attributes:
        name: of the folder or file.
        lines: as they stand in the log, keys in their order.
        config, provenance, test, timing: contents of the run folder's files, empty where there is
            none.
        tool: whose log it is, where it is not of DETR's relatives.
        evaluator: who measured AP.
        told: what there is to say of another tool's log.
    """

    name: str
    lines: Sequence[Mapping[str, object]]
    config: Mapping[str, object] = field(default_factory=dict)
    provenance: Mapping[str, object] = field(default_factory=dict)
    test: Mapping[str, object] = field(default_factory=dict)
    timing: Mapping[str, object] = field(default_factory=dict)
    tool: str = ""
    evaluator: str = COCO
    told: tuple[str, ...] = ()

    @cached_property
    def run(self) -> list[dict]:
        """The lines of the run that the log ends with, as from `runs.last_run`."""
        return last_run(self.lines)

    @property
    def remarks(self) -> list[str]:
        """What a reader of the log must know: of another tool's, as from `runs.remarks`, and that
        it ends early.
        """
        missing, train = self.epochs_missing, self.config.get("train", {})
        short = [f"{missing} of its {train['epochs']} epochs are missing"] if missing else []
        return [*self.told, *remarks(self.lines), *short]

    @cached_property
    def log(self) -> pd.DataFrame:
        """One row an epoch, as from `runs.log_table`."""
        return log_table(self.lines)

    @property
    def seed(self) -> int | None:
        """None where it was not recorded."""
        return self.config.get("train", {}).get("seed", self.provenance.get("seed"))

    @property
    def replicate(self) -> int | None:
        """What its pair with another entry's run is found by: of a planned study's run its
        replicate, which data, weights and order were drawn from, else its seed.
        """
        return self.study.get("replicate", self.seed)

    @property
    def study(self) -> Mapping[str, object]:
        """What it is in a planned study: `plan`, the plan's hash, `entry`, `replicate`."""
        return self.provenance.get("study", {})

    @property
    def epochs_missing(self) -> int:
        """Epochs that its config asks for and its log lacks; none where patience ended it."""
        train = self.config.get("train", {})
        if "epochs" not in train or is_over(self.lines, train):
            return 0
        return train["epochs"] - 1 - int(self.log.index[-1])

    @property
    def entry(self) -> str:
        """Of a planned study's run its entry there; else the name without preset, seed and hash:
        `detr` of `toy-detr-s0-1a2b3c4d`.
        """
        if self.study:
            return str(self.study["entry"])
        found = _RUN_NAME.fullmatch(self.name) if self.config else None
        preset = f"{self.config.get('preset_name')}-"
        return found["entry"].removeprefix(preset) if found else self.name


Source = str | os.PathLike[str] | HasPath | Record | Sequence[Mapping[str, object]]


def read_record(source: Source) -> Record:
    """Read what a run left behind.

    Args:
        source: a run folder, a log file of any DETR-family code or of the tools in `runs.KNOWN`, a
            Run, or a log's parsed lines.

    Raises:
        ValueError: there is no log, it cannot be read, holds no finished epoch or is no DETR's.
    """
    if isinstance(source, Record):
        return source
    if isinstance(source, Sequence) and not isinstance(source, str):
        return _checked(Record("log", source))
    path = located(getattr(source, "path", source))
    foreign = foreign_log(path)
    if foreign is not None and not _of_a_relative(foreign):
        return _of_another_tool(path, foreign)
    try:
        lines = read_log(path)
    except ValueError as error:
        other = is_there(path) and not is_there(path / "log.txt")
        raise ValueError(f"{error}; known are {KNOWN}" if other else error) from None
    if path.is_file():
        folder = path.parent.resolve().name if path.name == "log.txt" else ""
        return _checked(Record(folder or path.stem, lines))
    folder = RunFolder(path)
    config = folder.read_config() if is_there(folder.config_path) else {}
    if not {"model", "data", "train"} <= config.keys():  # another code's
        config = {}
    with contextlib.suppress(ValueError):  # a later version's is taken as it stands
        config = Config.completed(config) if config else {}
    name = path.resolve().name
    others = folder.read_provenance(), folder.read_test(), folder.read_timing()
    return _checked(Record(name, lines, config, *others))


def _of_a_relative(file: Path) -> bool:
    """Whether a file of another tool's name is a DETR's log all the same."""
    try:
        lines = read_log(file)
    except ValueError:
        return False
    # A Trainer's state has settings of its own that begin so, such as train_batch_size.
    return bool(lines) and "log_history" not in lines[0] and _is_log(lines[0])


def _of_another_tool(path: Path, file: Path) -> Record:
    """What another tool's log says, by the name of its folder."""
    log = read_foreign_log(file)
    if not log.lines:
        raise ValueError(f"{file} has no finished epoch yet; leave it out, or wait for one")
    folder = path if path.is_dir() else file.parent
    return Record(
        folder.resolve().name, log.lines, tool=log.tool, evaluator=log.evaluator, told=log.told
    )


def _is_log(line: Mapping[str, object]) -> bool:
    return any(re.match("(ema_)?(train|test)_", key) for key in line)


def _checked(record: Record) -> Record:
    if not record.lines:
        raise ValueError(f"{record.name} has no finished epoch yet; leave it out, or wait for one")
    if not _is_log(record.lines[0]):
        raise ValueError(
            f"{record.name} is no DETR's log: expected keys such as train_loss or"
            f" test_coco_eval_bbox, found {', '.join(list(record.lines[0])[:5]) or 'none'}; known"
            f" are {KNOWN}"
        )
    return record


def read_records(sources: Iterable[Source]) -> list[Record]:
    """Read several, under names that are unique.

    Raises:
        ValueError: as for `read_record`, or there are none.
    """
    records = _named([(_place(source), read_record(source)) for source in sources])
    if not records:
        raise ValueError("nothing to compare: give run folders or log files")
    return records


def _place(source: Source) -> Path | None:
    """Where a source lies; None where it is none of the disk."""
    path = getattr(source, "path", source)
    return located(path).resolve() if isinstance(path, str | os.PathLike) else None


def _named(read: Collection[tuple[Path | None, Record]]) -> list[Record]:
    """Records with unique names.

    Logs of one name are called by as much of their paths as tells them apart. Further ones of one
    path are numbered, and so are runs of one name, which says what their entry is.
    """
    records: list[Record] = []
    seen: Counter[str] = Counter()
    for place, record in read:
        alike = {other for other, its in read if its.name == record.name}
        if len(alike) > 1 and None not in alike and not record.config:
            record = replace(record, name=_tail(place, alike))
        seen[record.name] += 1
        number = f" ({seen[record.name]})" if seen[record.name] > 1 else ""
        records.append(replace(record, name=record.name + number))
    return records


def _tail(path: Path, paths: Iterable[Path]) -> str:
    """The end of a path that no other of some paths has."""
    others = [other.parts for other in paths if other != path]
    ends = (path.parts[-length:] for length in range(1, len(path.parts) + 1))
    return "/".join(next(e for e in ends if all(other[-len(e) :] != e for other in others)))


def find_records(patterns: str | Iterable[str], root: Path) -> tuple[list[Record], dict[str, str]]:
    """Read the runs that paths and wildcards name, each once, a wildcard's in order of their names.

    Args:
        patterns: run folders and log files; relative ones start from `root`. A string is one.

    Returns:
        The runs, none where wildcards match nothing; and by path what wildcards matched besides,
        with the reason why it is left out.

    Raises:
        ValueError: a path without wildcards cannot be read, as for `read_record`.
    """
    found: dict[Path, Record] = {}
    left_out: dict[str, str] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        named = root / pattern
        if named.exists() or not set(pattern) & set("*?["):
            found[named.resolve()] = read_record(named)
            continue
        for match in sorted(glob.glob(pattern, root_dir=root, recursive=True)):
            try:
                found[(root / match).resolve()] = read_record(root / match)
            except ValueError as error:
                left_out[match] = str(error).replace(f"{root}{os.sep}", "")
    return _named(found.items()), left_out
