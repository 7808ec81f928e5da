"""The pages of executed notebooks, and their index."""

import html
import os
import re
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbformat import NotebookNode


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


def _card(executed: Path) -> str:
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
        for path in sorted((executed.parent / "figures").glob(f"{executed.stem[:2]}_*.png"))
    )
    return (
        f'<article><h2><a href="{link}">{html.escape(_title(notebook, executed.stem))}</a></h2>'
        f"<p>{executed.stem} · {about}</p><div>{thumbnails}</div>"
        f"{f'<p>Pictures: {figures}</p>' if figures else ''}</article>"
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


def write_index(folder: Path, sources: list[Path]) -> Path:
    """Write the index of every page in `folder` whose notebook still exists.

    Executed copies hold their own times and parameters, so one notebook can be run again alone.
    """
    pages = [folder / source.name for source in sources]
    done = [page for page in pages if page.exists() and page.with_suffix(".html").exists()]
    index = folder / "index.html"
    index.write_text(_INDEX.format(cards="\n".join(_card(page) for page in done)))
    return index
