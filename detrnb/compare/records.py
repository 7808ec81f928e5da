"""What runs left behind, in one form whatever it is: run folders, log files, lines."""

import contextlib
import glob
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import Protocol

import pandas as pd

from detrnb.runs import (
    COCO,
    KNOWN,
    RunFolder,
    config_differences,
    foreign_log,
    is_over,
    is_there,
    last_run,
    located,
    log_table,
    read_foreign_log,
    read_log,
    remarks,
    trained_by,
    what_counts,
)
from detrnb.settings import BASELINE, SCENES, Config

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


def entries(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Runs by study entry: those whose settings differ in nothing but the seed, which may govern
    the scenes of generated data too, and whose variant's source is one, or that a plan calls one
    entry.

    The label is `Record.entry`; where entries would share it, the settings they differ in follow,
    then the plan they are of; what even these do not tell apart is numbered. A run without settings
    is an entry by itself.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(_settings_of(record), []).append(record)
    alike: dict[str, list[list[Record]]] = {}
    for group in groups.values():
        alike.setdefault(group[0].entry, []).append(group)
    labelled = [
        (" ".join([label, *_differing(group[0], [other[0] for other in same])]), group)
        for label, same in alike.items()
        for group in same
    ]
    shared = Counter(label for label, _ in labelled)
    found: dict[str, list[Record]] = {}
    for label, group in labelled:
        plan = group[0].study.get("plan")
        name = f"{label} of plan {plan[:8]}" if plan and shared[label] > 1 else label
        numbered = (f"{name} ({number})" for number in count(2))
        found[next(free for free in chain([name], numbered) if free not in found)] = group
    return found


def baseline_of(labels: Iterable[str]) -> str:
    """The entry that others are compared with where none is named: `detr`, or the first."""
    labels = list(labels)
    return BASELINE if BASELINE in labels else labels[0]


def arrange(records: Sequence[Record], baseline: str | None = None) -> list[Record]:
    """Runs by entry: the baseline's, entries of more runs before those of fewer, joined ones last.

    Args:
        baseline: label of an entry; as from `baseline_of` unless given.
    """
    groups = entries(records)
    first = baseline or (baseline_of(groups) if groups else "")
    labels = sorted(groups, key=lambda x: (x != first, -len(groups[x]), x.count("+")))
    return [record for label in labels for record in groups[label]]


def _settings_of(record: Record) -> str:
    if record.study:  # there an entry is what the plan calls so
        return json.dumps([record.study["plan"], record.study["entry"]])
    if not record.config:
        return json.dumps(record.name)
    return json.dumps(_of_entry(record), sort_keys=True)


def _of_entry(record: Record) -> dict[str, object]:
    """The settings that an entry's runs share: all but the seed, and what was drawn from it; and
    the hash of each source of their variant.
    """
    settings = what_counts(record.config, record.provenance.get("processes") or 1)
    seed = settings.pop("train.seed", None)
    if settings.get(SCENES) and settings[SCENES] == seed:
        settings[SCENES] = "seed"
    return settings | _sources_of(record)


def _sources_of(record: Record) -> dict[str, str]:
    """The hash of each source of a run's variant, or hashes where it went on with another; none of
    runs of 0.1, which kept none.
    """
    hashes: dict[str, list[str]] = {}
    for code in trained_by(record.provenance):
        for file, text in code.items() if isinstance(code, Mapping) else ():
            known = hashes.setdefault(file, [])
            if text is not None and text not in known[-1:]:
                known.append(text)
    return {
        f"source of {file.removeprefix('variants/').removesuffix('.py')}": ", then ".join(known)
        for file, known in hashes.items()
        if file.startswith("variants/") and known
    }


def _differing(record: Record, others: list[Record]) -> list[str]:
    """The settings that set a run apart from others, as `lr=0.001`."""
    values = _of_entry(record)
    keys = {key for other in others for key in config_differences(values, _of_entry(other))}
    return [f"{key.rpartition('.')[2]}={values.get(key)}" for key in sorted(keys)]
