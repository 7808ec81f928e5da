"""Run the notebooks in order, each through papermill in a fresh kernel of this environment."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config as TraitletsConfig

from detrnb.commands.index import write_index
from detrnb.commands.pages import export_html

PACKAGE_IN = Path(__file__).resolve().parents[2]  # kernels import what this process does
SMOKE_CELL_SECONDS = 600  # a smoke cell that takes longer hangs
OUTPUT_SECONDS = 300  # between two pieces of a cell's output, once the cell is over

_KERNEL_ENVIRONMENT = {
    # An exported Agg would leave the executed copies without pictures.
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    # The folder in runs/ that `save_figure` saves to.
    "DETRNB_FIGURES": "workbook",
    # Else a user's own `python3` kernel may win over this environment's.
    "JUPYTER_PREFER_ENV_PATH": "1",
}


class NotebookFailed(ValueError):
    """A notebook raised, hung, died, or left cells that never ran."""


class _EpochLines:
    """File-like sink for a notebook's stdout that shows its epoch lines as they come."""

    def __init__(self) -> None:
        self._rest = ""

    def write(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.startswith("epoch "):
                print(f"  {line}", flush=True)

    def flush(self) -> None:
        """Lines are flushed as they are printed."""


@contextmanager
def _kernel_environment() -> Iterator[None]:
    """Environment variables that kernels started meanwhile inherit."""
    saved = dict(os.environ)
    paths = [str(PACKAGE_IN), *filter(None, [saved.get("PYTHONPATH")])]
    os.environ.update(_KERNEL_ENVIRONMENT, PYTHONPATH=os.pathsep.join(paths))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


def _check_parameters(source: Path, parameters: dict) -> None:
    """Refuse names that the notebook does not have; papermill only warns."""
    known = sorted(papermill.inspect_notebook(str(source)))
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise ValueError(
            f"{source.name} has no parameter {', '.join(map(repr, unknown))}; "
            f"known: {', '.join(known) or 'none'}"
        )


class _AfterCell:
    """What is done once a cell has run, before it is written.

    Attributes:
        exits: the numbers of code cells that asked their kernel to end, as `exit()` does. It goes
            on for a moment, so that whether the next cell runs is a matter of chance.
    """

    def __init__(self) -> None:
        self.exits: list[int] = []

    def __call__(self, cell: NotebookNode, cell_index: int, execute_reply: dict) -> None:
        told = execute_reply["content"].get("payload") or []
        if any(one.get("source") == "ask_exit" for one in told):
            self.exits.append(cell.execution_count)
        cell.outputs = _as_one(cell.outputs)


def _as_one(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs with each stream's pieces as one: a bar's hundred refreshes become its last line.

    nbclient's `coalesce_streams` does so too, but takes the square of a line's length: for ever
    where a cell prints a megabyte without an end of line.
    """
    kept, pieces = [], {}
    for output in outputs:
        if output["output_type"] != "stream":
            kept.append(output)
        elif output["name"] in pieces:
            pieces[output["name"]].append(output["text"])
        else:
            pieces[output["name"]] = [output["text"]]
            kept.append(output)
    for output in kept:
        if output["output_type"] == "stream":
            lines = "".join(pieces[output["name"]]).split("\n")
            output["text"] = "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines)
    return kept


def _check_every_cell_ran(notebook: NotebookNode, name: str) -> None:
    """`sys.exit(0)` in a cell ends the kernel quietly, and papermill reports success."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    for number, cell in enumerate(cells, start=1):
        if cell.execution_count is None:
            raise NotebookFailed(
                f"{name}: code cell {number} of {len(cells)} never ran, and nothing was raised; "
                "does a cell before it call sys.exit()?"
            )


def run_notebook(
    source: Path, output: Path, parameters: dict, *, timeout: float | None = None
) -> float:
    """Run one notebook from start to end in a fresh kernel.

    Args:
        source: the notebook, left as it is.
        output: where the executed copy goes; after a failure it holds what had run.
        parameters: values for names in the notebook's `parameters` cell.
        timeout: seconds that one cell may take; None for no limit.

    Returns:
        Seconds it took.

    Raises:
        ValueError: a parameter that the notebook does not have.
        NotebookFailed: a cell raised, hung, killed the kernel, or never ran.
    """
    source, output = Path(source).resolve(), Path(output).resolve()
    _check_parameters(source, parameters)
    output.parent.mkdir(parents=True, exist_ok=True)
    begin, after = time.monotonic(), _AfterCell()
    try:
        with _kernel_environment():
            executed = papermill.execute_notebook(
                str(source),
                str(output),
                parameters,
                cwd=str(source.parent),
                kernel_name="python3",
                progress_bar=False,
                stdout_file=_EpochLines(),
                on_cell_executed=after,
                execution_timeout=timeout,
                # Of a cell that is over, much output may still be on its way.
                iopub_timeout=OUTPUT_SECONDS,
                store_widget_state=False,  # GitHub cannot show a notebook that holds it
                # Silences ipykernel's warning about TCP without encryption.
                config=TraitletsConfig({"KernelManager": {"transport_encryption": "auto"}}),
            )
    except PapermillExecutionError as error:
        raise NotebookFailed(
            f"{source.name}: code cell {error.exec_count} failed: {error.ename}: {error.evalue}\n"
            f"what ran before it: {os.path.relpath(output)}"
        ) from error
    except (DeadKernelError, CellTimeoutError) as error:
        reason = str(error).strip().splitlines()[0]
        raise NotebookFailed(f"{source.name}: {reason}") from error
    if after.exits:
        raise NotebookFailed(
            f"{source.name}: code cell {after.exits[0]} ends its kernel, by exit()"
        )
    _check_every_cell_ran(executed, source.name)
    return time.monotonic() - begin


def _select(sources: list[Path], only: str | None) -> list[Path]:
    """Notebooks whose name begins with `only`; all of them for None."""
    if not sources:
        raise ValueError(
            "no notebooks here: run this in a clone of the project, or name one by DETRNB_HOME"
        )
    chosen = [source for source in sources if source.name.startswith(only or "")]
    if not chosen:
        known = ", ".join(source.stem for source in sources)
        raise ValueError(f"no notebook begins with {only!r}; known: {known}")
    return chosen


def run_workbook(root: Path, *, smoke: bool = False, only: str | None = None) -> Path:
    """Run the notebooks in order and write their pages and the index, which fills meanwhile.

    Args:
        root: the checkout.
        smoke: hand each notebook `smoke=True`: seconds instead of minutes.
        only: beginning of a notebook's name, such as "01".

    Returns:
        Path of the index.

    Raises:
        ValueError: no such notebook.
        NotebookFailed: as `run_notebook`.
    """
    sources = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    folder = root / "runs" / "workbook"
    parameters = {"smoke": True} if smoke else {}
    for source in _select(sources, only):
        print(f"{source.stem} ...", flush=True)
        executed = folder / source.name
        page = executed.with_suffix(".html")
        page.unlink(missing_ok=True)  # no page of an older run beside a failed one
        write_index(folder, sources, running=source.stem)
        timeout = SMOKE_CELL_SECONDS if smoke else None
        try:
            seconds = run_notebook(source, executed, parameters, timeout=timeout)
        except Exception as error:
            write_index(folder, sources, failed={source.stem: str(error)})
            raise
        export_html(executed, page, source.parent)
        print(f"{source.stem} done in {seconds:.0f} s", flush=True)
    return write_index(folder, sources)


def pictures(root: Path) -> dict[Path, int]:
    """The workbook's pictures, and when each was written."""
    found = sorted((root / "runs" / "workbook" / "figures").glob("*.png"))
    return {picture: picture.stat().st_mtime_ns for picture in found}


def renew_figures(root: Path, before: dict[Path, int]) -> tuple[int, int]:
    """Make the committed pictures those that a run of notebooks wrote, and leave the others.

    Args:
        before: `pictures` before that run.

    Returns:
        How many were taken over, and how many others are committed.
    """
    written = [picture for picture, at in pictures(root).items() if before.get(picture) != at]
    for picture in written:
        shutil.copyfile(picture, root / "figures" / picture.name)
    return len(written), len(list((root / "figures").glob("*.png"))) - len(written)
