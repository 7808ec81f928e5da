"""Anybody's numbers: a table of entry, seed and a number, of whatever code, ruled on alike."""

from pathlib import Path

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
    weights, or whatever else they share. Nothing about them is audited.

    Args:
        baseline: an entry; `detr` unless given, or the first where there is none.
        delta: the smallest difference that matters; DELTA where left out, which suits AP from 0
            to 1 alone.

    Raises:
        ValueError: the file is not of this form, an entry has a seed twice, less is better, or the
            numbers are no AP from 0 to 1 and `delta` is left out.
    """
    try:
        table = pd.read_csv(path, skipinitialspace=True)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    others = [column for column in table if column not in COLUMNS]
    if set(COLUMNS) - set(table) or len(others) != 1:
        raise ValueError(
            f"{path} has the columns {', '.join(map(str, table))}; expected entry, seed and one"
            " more, whose name is the metric's"
        )
    (metric,) = others
    numbers = pd.to_numeric(table[metric], errors="coerce")
    if numbers.isna().any():
        place = int(numbers.isna().to_numpy().argmax())
        raise ValueError(
            f"{path}, line {place + 2}: {metric} is {table[metric].iloc[place]!r}; expected a"
            " number. Leave out the row of a run that did not finish"
        )
    if direction(str(metric)) < 0:
        raise ValueError(f"{path}: of {metric} less is better; give its negative")
    twice = table[table.duplicated([*COLUMNS])]
    if len(twice):
        raise ValueError(
            f"{path}: entry {twice['entry'].iloc[0]!r} has seed {twice['seed'].iloc[0]} twice"
        )
    if delta is None and not numbers.between(0, 1).all():
        raise ValueError(
            f"{path}: {metric} goes from {numbers.min():g} to {numbers.max():g}, and the smallest"
            f" difference that matters, {DELTA:g}, is of AP from 0 to 1; give --delta, such as"
            f" {100 * DELTA:g} for AP of 100"
        )
    delta = DELTA if delta is None else delta
    wide = table.assign(**{metric: numbers}).pivot(index="seed", columns="entry", values=metric)
    values = wide[list(dict.fromkeys(table["entry"]))]
    if values.shape[1] < 2:
        raise ValueError(f"{path} has one entry, {values.columns[0]!r}; a comparison needs two")
    baseline = baseline or baseline_of(values.columns)
    rulings = against(values, baseline, delta=delta)
    found = table_of(values, rulings)
    found["text"] = [str(ruling) for ruling in rulings.values()]
    return Verdicts(
        *(baseline, str(metric), values, pd.DataFrame(), found, {}, rulings), delta=delta
    )
