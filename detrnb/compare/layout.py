"""Text for a terminal of 100 columns."""

from collections.abc import Sequence
from textwrap import fill, wrap

WIDTH = 100
GAP = 2


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells under each other; where they are too wide, the widest columns are wrapped."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    while sum(widths) + GAP * (len(widths) - 1) > WIDTH:
        widths[widths.index(max(widths))] -= 1
    lines = []
    for row in rows:
        cells = [wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
        for i in range(max(map(len, cells))):
            parts = [cell[i] if i < len(cell) else "" for cell in cells]
            aligned = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
            lines.append((" " * GAP).join(aligned).rstrip())
    return "\n".join(lines)


def item(mark: str, text: str) -> str:
    """A paragraph with a hanging indent, as in a list."""
    return fill(f"{mark} {text}", WIDTH, subsequent_indent="  ")


def paragraph(text: str) -> str:
    """Text in lines of the terminal's width."""
    return fill(text, WIDTH)
