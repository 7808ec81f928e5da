"""Anybody's numbers: a table of entry, seed and a number, of whatever code, ruled on alike."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from detrnb.compare.judging import Verdicts
from detrnb.compare.records import baseline_of
from detrnb.compare.ruling import DELTA
from detrnb.compare.table import direction
from detrnb.compare.versus import against, table_of

COLUMNS = ("entry", "seed")


def read_table(path: Path, baseline: str | None = None, delta: float | None = None) -> Verdicts:
    """Verdicts on a file of comma-separated values: `entry`, `seed`, and a number such as AP.

    Rows of equal seed are a pair: two runs on the same data, with the same order and initial
    weights, or whatever else they share. Nothing about them is audited. Entries and seeds are text.

    Args:
        baseline: an entry; `detr` unless given, or the first where there is none.
        delta: the smallest difference that matters; DELTA where left out, which suits AP from 0
            to 1 alone.

    Raises:
        ValueError: the file is not of this form, an entry has a seed twice, less is better, or the
            numbers are no AP from 0 to 1 and `delta` is left out.
    """
    metric, rows = _read(path)
    if direction(metric) < 0:
        raise ValueError(
            f"{path}: of {metric} less is better; give its negative, under another name"
        )
    by_entry: dict[str, dict[str, float]] = {}
    for line, entry, seed, number in rows:
        numbers = by_entry.setdefault(entry, {})
        if seed in numbers:
            raise ValueError(f"{path}, line {line}: entry {entry!r} has seed {seed} twice")
        numbers[seed] = number
    if len(by_entry) < 2:
        there = f"one entry, {[*by_entry][0]!r}" if by_entry else "no entry"
        raise ValueError(f"{path} has {there}; a comparison needs two")
    least, most = min(row.number for row in rows), max(row.number for row in rows)
    if delta is None and not 0 <= least <= most <= 1:
        raise ValueError(
            f"{path}: {metric} goes from {least:g} to {most:g}, and the smallest difference that"
            f" matters, {DELTA:g}, is of AP from 0 to 1; give --delta, such as {100 * DELTA:g} for"
            " AP of 100"
        )
    delta = DELTA if delta is None else delta
    seeds = pd.Index(dict.fromkeys(row.seed for row in rows), name="seed")
    values = pd.DataFrame(by_entry, index=seeds).rename_axis(columns="entry")
    baseline = baseline or baseline_of(values.columns)
    rulings = against(values, baseline, delta=delta)
    found = table_of(values, rulings)
    found["text"] = [str(ruling) for ruling in rulings.values()]
    return Verdicts(*(baseline, metric, values, pd.DataFrame(), found, {}, rulings), delta=delta)


class _Row(NamedTuple):
    """A row of a file, with the line that it stands in."""

    line: int
    entry: str
    seed: str
    number: float


def _read(path: Path) -> tuple[str, list[_Row]]:
    """The metric's name and the rows of a file, without blank lines.

    Entries and seeds are text, whatever they look like.

    Raises:
        ValueError: the file is not of this form.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (ValueError, OSError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    filled = [(line, cells) for line, cells in lines if cells not in ([], [""])]
    if not filled:
        raise ValueError(f"{path} cannot be read as a table: it is empty")
    (_, head), *rest = filled
    others = [column for column in head if column not in COLUMNS]
    if len(head) != len(COLUMNS) + 1 or len(others) != 1 or not others[0]:
        raise ValueError(
            f"{path} has the columns {', '.join(head)}; expected entry, seed and one more, whose"
            " name is the metric's"
        )
    return others[0], [_row(f"{path}, line {line}", line, head, cells) for line, cells in rest]


def _row(place: str, line: int, head: Sequence[str], cells: Sequence[str]) -> _Row:
    if len(cells) != len(head):
        raise ValueError(
            f"{place} has {len(cells)} fields; expected {len(head)}: {', '.join(head)}. Numbers are"
            " written with a decimal point"
        )
    found = dict(zip(head, cells, strict=True))
    for column in COLUMNS:
        if not found[column]:
            raise ValueError(
                f"{place}: the {column} is blank; give each row its entry and seed, since runs of"
                " equal seed are a pair"
            )
    (metric,) = found.keys() - {*COLUMNS}
    try:
        number = float(found[metric])
    except ValueError:
        number = None
    if number is None or not math.isfinite(number):
        kind = "number" if number is None else "finite number"
        raise ValueError(
            f"{place}: {metric} is {found[metric]!r}; expected a {kind}. Leave out the row of a run"
            " that did not finish"
        )
    return _Row(line, found["entry"], found["seed"], number)
