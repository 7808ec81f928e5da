"""Epoch logs of DETR and its relatives, read line by line and laid out as a table; no torch here.

A log is one JSON object a line, one line an epoch: keys `train_...`, `test_...`, `epoch`,
`n_parameters`, as the reference's main.py writes them and as Deformable-DETR, LW-DETR, RF-DETR and
RT-DETR took them over, each with keys of its own.
"""

import codecs
import json
import operator
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from detrnb.runs.home import located
from detrnb.runs.seal import identity, opened
from detrnb.runs.writing import is_there

COCO_METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
_LABEL = re.compile(rb'[^"{}]*')  # what stands before a line's first key or brace
_EPOCH = re.compile(rb"epoch\W*(\d+)", re.IGNORECASE)
_BLANK = b"\0 \t\r"  # a file system may leave NUL bytes for what it did not write


class TwiceError(ValueError):
    """An object gives one key two values: whole, but nobody knows which of them is right."""


class Restart(NamedTuple):
    """A line of a log whose epoch was there before.

    Attributes:
        line: its number, blank ones not counted.
        epoch: that it goes back to.
        last: the last epoch logged before it.
        anew: whether nothing of what stood before is left: another run begins.
    """

    line: int
    epoch: int
    last: int
    anew: bool


def read_log(path: str | os.PathLike[str]) -> list[dict]:
    """Read a log, leaving out a last line that a crash cut short.

    A line is a JSON object, or the inside of one pasted without its braces, after a label or not:
    `DeTr: Epoch 0:"train_lr": 1e-4, ...`. The label's epoch counts where the line names none. Byte
    order marks, UTF-16 (what a redirection in Windows writes), any line ends and NUL bytes are
    taken as they come.

    Where lines end in a checksum, as those of this package's runs do, it is held against the line
    and against the run's config.json beside it, and left out.

    Args:
        path: A run folder or a log file.

    Returns:
        The lines in the file's order, keys in the line's order.

    Raises:
        ValueError: There is no such file, or a line is none of the above or not as it was written;
            names file and line.
    """
    path = located(path)
    path = path / "log.txt" if path.is_dir() else path
    if is_there(path) and not path.is_file():
        raise ValueError(f"{path} is no file; give a run folder with a log.txt, or a log file")
    if not path.is_file():
        raise ValueError(f"no log at {path}: give a run folder with a log.txt, or a log file")
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", errors="replace").encode()
    lines = data.split(b"\n")
    if is_torn(lines[-1]):
        lines.pop()
    found = [
        (_parse_line(line, f"{path}, line {number}"), f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip(_BLANK)
    ]
    run = identity(path.parent)
    return [opened(line, where, run) for line, where in found]


def is_torn(tail: bytes) -> bool:
    """Whether what follows a log's last line end is the beginning of a line, cut short by a crash.

    A whole object ends in its brace, so its beginning never parses.
    """
    begun = tail[_LABEL.match(tail).end() :].startswith((b"{", b'"'))
    if not begun:
        return bool(tail) and not tail.strip(b"\0")
    try:
        _parse_line(tail, "")
    except TwiceError:
        return False
    except ValueError:
        return True
    return False


def _parse_line(line: bytes, where: str) -> dict:
    label = _LABEL.match(line)[0]
    body = line[len(label) :].rstrip(_BLANK + b",")
    if body.startswith(b'"'):
        body = b"{" + body
        with suppress(ValueError):  # unless it kept its closing brace
            return _with_epoch(parse_object(body + b"}", where), label)
    return _with_epoch(parse_object(body or line, where), label)


def _with_epoch(line: dict, label: bytes) -> dict:
    named = _EPOCH.search(label)
    return {**line, "epoch": int(named[1])} if named and "epoch" not in line else line


def parse_object(data: bytes, where: str) -> dict:
    """The JSON object that bytes hold.

    Raises:
        ValueError: They hold none, or a key with two values; begins with `where`.
    """
    try:
        value = json.loads(data, object_pairs_hook=_each_key_once)
    except TwiceError as error:
        raise TwiceError(f"{where}: {error}") from error
    except ValueError as error:
        raise ValueError(
            f"{where}: not JSON ({error}); found {data[:60]!r}, expected an object"
            ' such as {"train_loss": 2.5, "epoch": 0}'
        ) from error
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def _each_key_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    for key, value in pairs:
        if repr(value) != repr(found[key]):
            raise TwiceError(
                f"{key!r} stands there twice, as {value!r} and as {found[key]!r}; expected one"
                " value: delete the wrong one"
            )
    return found


def last_run(lines: Sequence[Mapping[str, object]]) -> list[dict]:
    """The lines of the run that a log ends with: one an epoch, ascending, each with its `epoch`.

    Codes append: a run that is resumed further back, or begun anew in the same folder, goes on in
    the file of what it replaces. A line whose epoch was there before takes back all from that epoch
    on, so that what is left is what the last run's weights went through; a run that begins with the
    first epoch leaves nothing of the ones before.

    Args:
        lines: As from ``read_log``; a line without ``epoch`` counts as the one after the line
            before.

    Raises:
        ValueError: An epoch that is no whole number.
    """
    return _follow(lines)[0]


def _follow(lines: Sequence[Mapping[str, object]]) -> tuple[list[dict], list[Restart]]:
    kept: list[dict] = []
    back: list[Restart] = []
    for number, line in enumerate(lines, start=1):
        last = kept[-1]["epoch"] if kept else -1
        epoch = _whole(line.get("epoch", last + 1))
        if kept and epoch <= last:
            while kept and kept[-1]["epoch"] >= epoch:
                kept.pop()
            back.append(Restart(number, epoch, last, anew=not kept))
        kept.append({**line, "epoch": epoch})
    return kept, back


def _whole(epoch: object) -> int:
    if isinstance(epoch, float) and epoch.is_integer():
        return int(epoch)
    try:
        return operator.index(epoch)
    except TypeError as error:
        raise ValueError(
            f"a log's line has the epoch {epoch!r}; expected a whole number"
        ) from error


def remarks(lines: Sequence[Mapping[str, object]]) -> list[str]:
    """What a reader of a log's table must know, in words: what `last_run` left out, what it joins.

    Args:
        lines: As for `last_run`.
    """
    run, back = _follow(lines)
    said = []
    begun = [restart.line for restart in back if restart.anew]
    again = [restart for restart in back if restart.line > max(begun, default=0)]
    if begun:
        said.append(
            f"{len(begun) + 1} runs in one log: epochs begin anew at"
            f" line{'s' * (len(begun) > 1)} {_listed(begun)}; only"
            f" the last run counts, {len(run)} epoch{'s' * (len(run) > 1)} of it"
        )
    if again:
        said.append(
            f"from line {_listed([restart.line for restart in again])} on, epochs are logged again"
            f" (first {again[0].epoch} to {again[0].last}), as by a run resumed further back; what"
            " they logged before does not count"
        )
    sizes = [(line["epoch"], size) for line in run if (size := _parameters(line)) is not None]
    said += [
        f"the number of parameters changes from {before:,} to {after:,} at epoch {epoch}: lines of"
        " two runs, or other parameters are trained from there on"
        for (_, before), (epoch, after) in pairwise(sizes)
        if before != after
    ]
    return said


def _listed(numbers: Sequence[int]) -> str:
    """The first few of some numbers."""
    shown = ", ".join(map(str, numbers[:5]))
    return shown + f" and {len(numbers) - 5} more" * (len(numbers) > 5)


def _parameters(line: Mapping[str, object]) -> int | None:
    return line.get("n_parameters", line.get("n_params"))


def log_table(lines: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """One row an epoch in ascending order, with the COCO numbers also as columns AP, AP50, ... ARl.

    Of a log that goes back, as after a resume or a re-run into the same file, the `last_run`
    counts. A COCO number of -1 means "no ground truth of that size" and becomes NaN, so that no
    mean takes it in. Numbers of averaged weights (`ema_test_coco_eval_bbox`) become columns ema_AP,
    ...; `n_params`, as some codes write it, becomes n_parameters.

    Args:
        lines: As for `last_run`.
    """
    rows = last_run(lines)
    epochs = [row["epoch"] for row in rows]
    # By column: from rows pandas takes many times as long.
    keys = dict.fromkeys(chain.from_iterable(rows))
    columns = {key: [row.get(key) for row in rows] for key in keys if key != "epoch"}
    for prefix in ("", "ema_"):
        columns |= _coco_columns(prefix, columns.get(f"{prefix}test_coco_eval_bbox", []))
    if "n_params" in columns and "n_parameters" not in columns:
        columns["n_parameters"] = columns.pop("n_params")
    return pd.DataFrame(columns, index=pd.Index(epochs, name="epoch", dtype="int64"))


def is_over(lines: Sequence[Mapping[str, object]], train: Mapping[str, object]) -> bool:
    """Whether a run's training is done, by the number of epochs or for want of a better AP.

    Args:
        lines: its log's.
        train: that section of its config; `patience` may be missing.
    """
    run = last_run(lines)
    if not run:
        return False
    patience, last = train.get("patience"), run[-1]["epoch"]
    if last + 1 >= train["epochs"] or patience is None:
        return last + 1 >= train["epochs"]
    precisions = {line["epoch"]: line["test_coco_eval_bbox"][0] for line in run}
    return last - max(precisions, key=precisions.__getitem__) >= patience


def _coco_columns(prefix: str, stats: list[Sequence[float] | None]) -> dict[str, np.ndarray]:
    """COCO's numbers by name, each (epochs,), NaN where one is -1 or not there."""
    if not any(found is not None for found in stats):
        return {}
    table = np.full((len(stats), len(COCO_METRICS)), np.nan)
    for row, found in zip(table, stats, strict=True):
        if found is not None:
            row[: len(found)] = found[: len(row)]
    table[table == -1] = np.nan
    return {prefix + name: column for name, column in zip(COCO_METRICS, table.T, strict=True)}
