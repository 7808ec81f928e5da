"""A progress bar that leaves executed notebooks clean."""

import io
import os
import sys

from tqdm import tqdm


def in_kernel() -> bool:
    """Whether a Jupyter kernel runs this; IPython is only there if somebody started it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


class Text:
    """A line that a notebook shows without quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class Bar(tqdm):
    """tqdm on a terminal; in a notebook one line of output, updated in place; else nothing.

    Of several processes, only the first shows one.

    tqdm's own notebook form is a widget, which papermill and nbconvert keep at 0 %; its text form
    leaves a line for every refresh. An updated display holds the last state alone.
    """

    def __init__(self, total: int, desc: str = "", mininterval: float = 0.5) -> None:
        self._kernel, self._handle = in_kernel(), None
        super().__init__(
            total=total,
            desc=desc,
            mininterval=mininterval,
            leave=False,
            disable=not (self._kernel or sys.stderr.isatty()) or os.environ.get("RANK", "0") != "0",
            file=io.StringIO() if self._kernel else sys.stderr,
        )

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """What tqdm calls to show itself; an empty message clears it."""
        if not self._kernel:
            return super().display(msg, pos)
        from IPython.display import display

        line = Text(str(self) if msg is None else msg)
        if self._handle is None:
            self._handle = display(line, display_id=True)
        else:
            self._handle.update(line)
        return True
