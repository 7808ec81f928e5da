"""Notebooks: a kernel killed, a cell that exits, an endless output, a misspelt parameter."""

from collections.abc import Iterator
from pathlib import Path

import nbformat

from detrnb.commands.notebooks import NotebookFailed, run_notebook
from soak.drill import Drill, Try

KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
EXITS = {"exit()": "exit()", "quit()": "quit()", "sys.exit(0)": "import sys; sys.exit(0)"}
EXITS |= {"os._exit(0)": "import os; os._exit(0)"}
LARGE = 'for _ in range({megabytes}): print("x" * 1_000_000)'


def notebook(path: Path, *cells: str) -> Path:
    made = nbformat.v4.new_notebook()
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "3", "language": "python"}
    parameters = nbformat.v4.new_code_cell("smoke: bool = False  # seconds")
    parameters.metadata["tags"] = ["parameters"]
    made.cells = [parameters, *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(made, path)
    return path


def ends(folder: Path, cells: list[str], expected: str, parameters: dict) -> str:
    """How a notebook's run ends: with words that hold what is expected, or else what, in words."""
    source = notebook(folder / "00_it.ipynb", *cells)
    try:
        run_notebook(source, folder / "out" / "00_it.ipynb", parameters, timeout=120)
    except (NotebookFailed, ValueError) as error:
        return "" if expected and expected in str(error) else f"ended with {error!s:.200}"
    except Exception as error:
        return f"{type(error).__name__}: {error!s:.200}"
    return f"ended well, expected {expected!r}" if expected else ""


def tries(folder: Path, megabytes: int = 50) -> Iterator[Try]:
    wanted = [("kernel killed in a cell", ["1", KILLED, "2"], "00_it", {})]
    wanted += [(f"a cell that calls {n}", [code, "2"], "00_it", {}) for n, code in EXITS.items()]
    wanted += [("a parameter misspelt", ["1"], "has no parameter 'smok'", {"smok": True})]
    wanted += [(f"an output of {megabytes} MB", [LARGE.format(megabytes=megabytes)], "", {})]
    for part, cells, expected, parameters in wanted:
        why = ends(folder, cells, expected, parameters)
        yield Try(part, not why, why)
    yield Try("a browser reload while training", None, "`make browser` does that")


TAUGHT = (
    "commands/test_workbook.py: a cell of 50 MB of output was said to have timed out after 4"
    " seconds on a busy machine (test_run_notebook_waits_for_output_that_is_on_its_way), then took"
    " the square of its lines' length (test_run_notebook_keeps_a_bars_last_state_and_a_line_of_any_"
    "length); a cell that calls exit() let the next ones run now and then, and the notebook counted"
    " (test_run_notebook_in_which_a_cell_ends_the_kernel_fails_even_if_the_rest_still_ran)"
)
NOTEBOOKS = Drill("Notebooks", tries, TAUGHT)
