"""Run the notebooks in order and make a small site of them: `python -m detrnb.workbook`.

Each notebook runs through papermill in a fresh kernel of this environment. Executed copies, HTML
pages that need no network for figures and tables, and an index go to `runs/workbook/`.
"""

import argparse
import html
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config as TraitletsConfig

ROOT = Path(__file__).resolve().parents[1]
SMOKE_CELL_SECONDS = 600  # a smoke cell that takes longer hangs

_KERNEL_ENVIRONMENT = {
    # An exported Agg would leave the executed copies without pictures.
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    # Else a user's own `python3` kernel may win over this environment's.
    "JUPYTER_PREFER_ENV_PATH": "1",
}


class NotebookFailed(RuntimeError):
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
    paths = [str(ROOT), *filter(None, [saved.get("PYTHONPATH")])]
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
    begin = time.monotonic()
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
                execution_timeout=timeout,
                coalesce_streams=True,  # a bar's hundred refreshes become one line
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
    _check_every_cell_ran(executed, source.name)
    return time.monotonic() - begin


def export_html(executed: Path, page: Path, folder: Path) -> None:
    """Write an executed notebook as one page with its pictures inside.

    Args:
        executed: the executed copy.
        page: where the page goes.
        folder: what relative pictures in the prose are relative to.
    """
    # No widget state is stored, so nothing needs require.js from the network.
    exporter = HTMLExporter(embed_images=True, require_js_url="")
    resources = {"metadata": {"name": executed.stem, "path": str(folder)}}
    text, _ = exporter.from_notebook_node(nbformat.read(executed, as_version=4), resources)
    # The pages link each other as the notebooks do.
    page.write_text(re.sub(r'href="(\d\d_\w+)\.ipynb', r'href="\1.html', text))


def _title(notebook: NotebookNode, fallback: str) -> str:
    """The first heading."""
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +(.+)$", prose, re.MULTILINE)
    return heading.group(1).strip() if heading else fallback


def _pictures(notebook: NotebookNode) -> list[str]:
    """The PNG outputs, base64, in order."""
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    outputs = (output for cell in cells for output in cell.outputs)
    return [out.data["image/png"] for out in outputs if "image/png" in out.get("data", {})]


def _card(executed: Path, root: Path) -> str:
    """The part of the index about one notebook."""
    notebook = nbformat.read(executed, as_version=4)
    run = notebook.metadata["papermill"]
    about = f"{run['duration']:.0f} s"
    if run["parameters"].get("smoke"):
        about += ", smoke run: its numbers mean nothing"
    link = f"{executed.stem}.html"
    thumbnails = "".join(
        f'<a href="{link}"><img alt="" src="data:image/png;base64,{png}"></a>'
        for png in _pictures(notebook)[:3]
    )
    figures = " ".join(
        f'<a href="{os.path.relpath(path, executed.parent)}">{html.escape(path.name)}</a>'
        for path in sorted((root / "figures").glob(f"{executed.stem[:2]}_*.png"))
    )
    return (
        f'<article><h2><a href="{link}">{html.escape(_title(notebook, executed.stem))}</a></h2>'
        f"<p>{executed.stem} · {about}</p><div>{thumbnails}</div>"
        f"{f'<p>Committed pictures: {figures}</p>' if figures else ''}</article>"
    )


_INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>detrnb workbook</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 1rem }}
article {{ border-top: 1px solid #8888; padding: .5rem 0 1rem }}
h2 {{ margin: .5rem 0 0; font-size: 1.2rem }} p {{ margin: .2rem 0 .6rem; opacity: .8 }}
img {{ height: 9rem; max-width: 100%; object-fit: contain; background: white; margin: 0 .5rem 0 0 }}
</style></head><body><h1>detrnb workbook</h1>
{cards}
</body></html>
"""


def write_index(folder: Path, sources: list[Path], root: Path) -> Path:
    """Write the index of every page in `folder` whose notebook still exists.

    Executed copies hold their own times and parameters, so one notebook can be run again alone.
    """
    pages = [folder / source.name for source in sources]
    done = [page for page in pages if page.exists() and page.with_suffix(".html").exists()]
    index = folder / "index.html"
    index.write_text(_INDEX.format(cards="\n".join(_card(page, root) for page in done)))
    return index


def _select(sources: list[Path], only: str | None) -> list[Path]:
    """Notebooks whose name begins with `only`; all of them for None."""
    chosen = [source for source in sources if source.name.startswith(only or "")]
    if not chosen:
        known = ", ".join(source.stem for source in sources) or "none"
        raise ValueError(f"no notebook begins with {only or 'two digits'!r}; known: {known}")
    return chosen


def run_workbook(*, smoke: bool = False, only: str | None = None, root: Path = ROOT) -> Path:
    """Run the notebooks in order and write their pages and the index.

    Args:
        smoke: hand each notebook `smoke=True`: seconds instead of minutes.
        only: beginning of a notebook's name, such as "01".
        root: the checkout.

    Returns:
        Path of the index.
    """
    sources = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    folder = root / "runs" / "workbook"
    parameters = {"smoke": True} if smoke else {}
    for source in _select(sources, only):
        print(f"{source.stem} ...", flush=True)
        executed = folder / source.name
        page = executed.with_suffix(".html")
        page.unlink(missing_ok=True)  # no page of an older run beside a failed one
        timeout = SMOKE_CELL_SECONDS if smoke else None
        seconds = run_notebook(source, executed, parameters, timeout=timeout)
        export_html(executed, page, source.parent)
        print(f"{source.stem} done in {seconds:.0f} s", flush=True)
    return write_index(folder, sources, root)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m detrnb.workbook", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--only", metavar="NN", help="beginning of a notebook's name")
    arguments = parser.parse_args(argv)
    try:
        index = run_workbook(smoke=arguments.smoke, only=arguments.only)
    except (NotebookFailed, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"open {os.path.relpath(index)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
