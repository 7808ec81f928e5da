"""Text for a terminal of 100 columns."""

import re
from collections.abc import Mapping, Sequence
from textwrap import fill, wrap

WIDTH = 100
GAP = 2
NARROW = 12  # no column of words gets narrower
_NUMBER = re.compile(r"[^\s\w]?\d\S*")


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells under each other; where they are too wide, the widest columns are wrapped.

    Numbers are never broken, and words get at least NARROW: a table of very many columns is wider
    than the terminal.
    """
    table = list(zip(*rows, strict=True))
    widths = [max(1, *map(len, column)) for column in table]
    least = [_least(column) for column in table]
    while sum(widths) + GAP * (len(widths) - 1) > WIDTH:
        spare = [width - floor for width, floor in zip(widths, least, strict=True)]
        if max(spare) <= 0:
            break
        widest = max(range(len(widths)), key=lambda i: (spare[i] > 0, widths[i]))
        widths[widest] -= 1
    lines = []
    for row in rows:
        cells = [wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
        for i in range(max(map(len, cells))):
            parts = [cell[i] if i < len(cell) else "" for cell in cells]
            aligned = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
            lines.append((" " * GAP).join(aligned).rstrip())
    return "\n".join(lines)


def _least(column: Sequence[str]) -> int:
    """How narrow a column may get."""
    numbers = [len(word) for cell in column for word in cell.split() if _NUMBER.fullmatch(word)]
    return max(NARROW, *numbers, 0)


def alike(texts: Mapping[str, str]) -> list[tuple[list[str], str]]:
    """Names by the text that they share, so that it is said once; those without any left out."""
    names: dict[str, list[str]] = {}
    for name, text in texts.items():
        if text:
            names.setdefault(text, []).append(name)
    return [(together, text) for text, together in names.items()]


def item(mark: str, text: str) -> str:
    """A paragraph with a hanging indent, as in a list."""
    return fill(f"{mark} {text}", WIDTH, subsequent_indent="  ")


def paragraph(text: str) -> str:
    """Text in lines of the terminal's width."""
    return fill(text, WIDTH)
