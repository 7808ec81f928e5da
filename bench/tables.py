"""Tables as they are kept in results.json and shown as Markdown.

A row is a dict, column -> cell. A cell is text, a number, or a number with its spread over rounds:
`{"median": ..., "least": ..., "most": ...}`. A column that a row lacks is empty.
"""

from collections.abc import Iterable, Sequence

import numpy as np

Cell = str | int | float | dict[str, float] | None
Row = dict[str, Cell]


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, least and most of a number that was measured several times."""
    values = np.asarray([*values], dtype=float)
    return {
        "median": float(np.median(values)),
        "least": float(values.min()),
        "most": float(values.max()),
    }


def middle(cell: Cell) -> float:
    """The number that a cell stands for."""
    return cell["median"] if isinstance(cell, dict) else float(cell)


def markdown(rows: Sequence[Row]) -> str:
    """Rows as a table in Markdown."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    numbers = {c for c in columns if not any(isinstance(row.get(c), str) for row in rows)}
    lines = [columns, ["---:" if column in numbers else "---" for column in columns]]
    lines += [[shown(row.get(column)) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(cell: Cell) -> str:
    """A cell in words: numbers with three digits, a spread after its median."""
    if isinstance(cell, dict):
        low, high = shown(cell["least"]), shown(cell["most"])
        return f"{shown(cell['median'])} ({low} to {high})"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        whole = abs(cell) >= 100
        return f"{cell:,.0f}" if whole else f"{cell:.2e}" if 0 < abs(cell) < 1e-3 else f"{cell:.3g}"
    return cell or ""
