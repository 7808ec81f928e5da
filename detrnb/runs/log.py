"""Epoch logs of DETR and its relatives, read line by line and laid out as a table; no torch here.

A log is one JSON object a line, one line an epoch: keys `train_...`, `test_...`, `epoch`,
`n_parameters`, as the reference's main.py writes them and as Deformable-DETR, LW-DETR, RF-DETR and
RT-DETR took them over, each with keys of its own.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

COCO_METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
_LABEL = re.compile(rb'[^"{}]*')  # what stands before a line's first key or brace
_EPOCH = re.compile(rb"epoch\W*(\d+)", re.IGNORECASE)


def read_log(path: str | os.PathLike[str]) -> list[dict]:
    """Read a log, leaving out a last line that a crash cut short.

    A line is a JSON object, or the inside of one pasted without its braces, after a label or not:
    `DeTr: Epoch 0:"train_lr": 1e-4, ...`. The label's epoch counts where the line names none.

    Args:
        path: A run folder or a log file.

    Returns:
        The lines in the file's order, keys in the line's order.

    Raises:
        ValueError: There is no such file, or a line is none of the above; names file and line.
    """
    path = Path(path)
    path = path / "log.txt" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"no log at {path}: give a run folder with a log.txt, or a log file")
    lines = path.read_bytes().split(b"\n")
    if is_torn(lines[-1]):
        lines.pop()
    return [
        _parse_line(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def is_torn(tail: bytes) -> bool:
    """Whether what follows a log's last line end is the beginning of a line, cut short by a crash.

    A whole object ends in its brace, so its beginning never parses. A file system may leave NUL
    bytes for what it did not write.
    """
    begun = tail[_LABEL.match(tail).end() :].startswith((b"{", b'"'))
    if not begun:
        return bool(tail) and not tail.strip(b"\0")
    try:
        _parse_line(tail, "")
    except ValueError:
        return True
    return False


def _parse_line(line: bytes, where: str) -> dict:
    label = _LABEL.match(line)[0]
    body = line[len(label) :].rstrip(b" \t\r,")
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
        ValueError: They hold none; begins with `where`.
    """
    try:
        value = json.loads(data)
    except ValueError as error:
        raise ValueError(
            f"{where}: not JSON ({error}); found {data[:60]!r}, expected an object"
            ' such as {"train_loss": 2.5, "epoch": 0}'
        ) from error
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def log_table(lines: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """One row an epoch in ascending order, with the COCO numbers also as columns AP, AP50, ... ARl.

    An epoch logged twice, as after a resume or a re-run into the same file, keeps its last line. A
    COCO number of -1 means "no ground truth of that size" and becomes NaN, so that no mean takes it
    in. Numbers of averaged weights (`ema_test_coco_eval_bbox`) become columns ema_AP, ...

    Args:
        lines: As from ``read_log``; a line without ``epoch`` counts by its position.
    """
    by_epoch = {line.get("epoch", position): line for position, line in enumerate(lines)}
    epochs = sorted(by_epoch)
    rows = [by_epoch[epoch] for epoch in epochs]
    # By column: from rows pandas takes many times as long.
    keys = dict.fromkeys(chain.from_iterable(rows))
    columns = {key: [row.get(key) for row in rows] for key in keys if key != "epoch"}
    for prefix in ("", "ema_"):
        columns |= _coco_columns(prefix, columns.get(f"{prefix}test_coco_eval_bbox", []))
    return pd.DataFrame(columns, index=pd.Index(epochs, name="epoch", dtype="int64"))


def is_over(lines: Sequence[Mapping[str, object]], train: Mapping[str, object]) -> bool:
    """Whether a run's training is done, by the number of epochs or for want of a better AP.

    Args:
        lines: its log's.
        train: that section of its config; `patience` may be missing.
    """
    if not lines:
        return False
    patience, ended = train.get("patience"), lines[-1]["epoch"] + 1 >= train["epochs"]
    if ended or patience is None:
        return ended
    by_epoch = {line["epoch"]: line["test_coco_eval_bbox"][0] for line in lines}
    return lines[-1]["epoch"] - max(by_epoch, key=by_epoch.get) >= patience


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
