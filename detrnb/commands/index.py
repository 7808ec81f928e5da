"""The workbook's index: what its notebooks found, in their own words and numbers, on one page.

It is read off the executed copies, so that it is there from the first notebook on, and one notebook
can be run again alone. Nothing of it comes from elsewhere, and it needs no script.
"""

import html
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import nbformat
from nbconvert.filters import markdown2html
from nbformat import NotebookNode

from detrnb.runs import write_whole

FOUND = "What we saw"  # the section of a notebook that says what it found
FIRST = ("Verdicts", "Decisions", "The ladder")  # sections that stand above all notebooks
# The picture of a notebook, by the name that it is saved under; where it is not there, the first.
COVERS = {
    "00": "00_toy_images",
    "01": "01_detections",
    "02": "02_layer_weights",
    "03": "03_implied_attention",
    "04": "04_parts",
    "05": "05_encoder",
    "06": "06_one_image",
    "07": "07_forest",
    "08": "08_judgement",
}
_SECONDS = 10  # after which a browser looks again while notebooks run


def write_index(
    folder: Path,
    sources: Sequence[Path],
    running: str | None = None,
    failed: Mapping[str, str] | None = None,
) -> Path:
    """Write the index of some notebooks.

    Args:
        folder: of their executed copies and pages.
        sources: the notebooks.
        running: name of the one that runs now, without its ending.
        failed: name -> what happened, where its executed copy does not tell.
    """
    copies = {source.stem: _executed(folder / source.name) for source in sources}
    parts = [
        _card(folder, name, copy, name == running, (failed or {}).get(name, ""))
        for name, copy in copies.items()
    ]
    done = [copy for name, copy in copies.items() if (folder / f"{name}.html").exists()]
    above = "".join(_section(copy, title) for title in FIRST for copy in done if copy)
    again = f'<meta http-equiv="refresh" content="{_SECONDS}">' if running else ""
    text = _PAGE.format(refresh=again, state=_state(len(done), len(copies), running), above=above)
    index = folder / "index.html"
    whole = text.replace("<!-- cards -->", "\n".join(parts))
    write_whole(index, lambda file: file.write(whole.encode()))
    return index


def _executed(path: Path) -> NotebookNode | None:
    return nbformat.read(path, as_version=4) if path.exists() else None


def _state(done: int, of: int, running: str | None) -> str:
    state = f"{done} of {of} notebooks are done"
    return f"{state}; {running} runs now" if running else state


def _card(
    folder: Path, name: str, notebook: NotebookNode | None, running: bool, failed: str
) -> str:
    """The part of the index about one notebook."""
    page = folder / f"{name}.html"
    if running or notebook is None:
        state = "runs now" if running else failed or "has not run yet"
        inside = f"<h2>{html.escape(name)}</h2><p>{html.escape(state)}</p>"
        return f'<article class="waits">{inside}</article>'
    title = html.escape(_title(notebook, name))
    if not page.exists():
        why = html.escape(failed or _failure(notebook))
        copy = html.escape(f"{name}.ipynb")
        return (
            f'<article class="failed"><h2>{title}</h2><p>{name} failed: {why}</p>'
            f'<p>What ran before it: <a href="{copy}">{copy}</a></p></article>'
        )
    link = f"{name}.html"
    cover = _cover(notebook, name)
    picture = (
        f'<a href="{link}"><img alt="{title}" src="data:image/png;base64,{cover}"></a>'
        if cover
        else ""
    )
    found = "".join(_shown(cell) for cell in _cells_of(notebook, FOUND))
    return (
        f'<article><h2><a href="{link}">{title}</a></h2><p>{name} · {_about(notebook)}</p>'
        f"{picture}<div>{found}</div>{_figures(folder, name)}</article>"
    )


def _about(notebook: NotebookNode) -> str:
    """How long it took, and whether its numbers mean anything."""
    run = notebook.metadata.get("papermill", {})
    seconds = run.get("duration") or 0.0
    about = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"
    smoke = run.get("parameters", {}).get("smoke")
    return f"{about}, smoke run: its numbers mean nothing" if smoke else about


def _figures(folder: Path, name: str) -> str:
    links = " ".join(
        f'<a href="{os.path.relpath(path, folder)}">{html.escape(path.name)}</a>'
        for path in sorted((folder / "figures").glob(f"{name[:2]}_*.png"))
    )
    return f"<p>Pictures: {links}</p>" if links else ""


def _title(notebook: NotebookNode, fallback: str) -> str:
    """The first heading."""
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +(.+)$", prose, re.MULTILINE)
    return heading.group(1).strip() if heading else fallback


def _failure(notebook: NotebookNode) -> str:
    """What was raised in an executed copy."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                return f"code cell {cell.execution_count}: {output.ename}: {output.evalue}"
    return "it did not come to its end"


def _cells_of(notebook: NotebookNode, title: str) -> Iterator[NotebookNode]:
    """The cells of a section, prose cut to what is under its heading."""
    heading = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
    inside = False
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            if inside:
                yield cell
            continue
        marks = [*heading.finditer(cell.source)]
        ends = [mark.start() for mark in marks[1:]] + [len(cell.source)]
        if inside and (before := cell.source[: marks[0].start() if marks else None].strip()):
            yield NotebookNode(cell_type="markdown", source=before)
        for mark, end in zip(marks, ends, strict=True) if marks else ():
            inside = mark[1] == title
            if inside and (text := cell.source[mark.end() : end].strip()):
                yield NotebookNode(cell_type="markdown", source=text)


def _section(notebook: NotebookNode, title: str) -> str:
    """A section with its heading; empty where the notebook has none."""
    shown = "".join(_shown(cell) for cell in _cells_of(notebook, title))
    return f"<section><h2>{html.escape(title)}</h2>{shown}</section>" if shown else ""


def _shown(cell: NotebookNode) -> str:
    """Prose, and of code what it gave: tables and text, no code."""
    if cell.cell_type == "markdown":
        return markdown2html(_relinked(cell.source))
    parts = []
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        if "text/markdown" in data:
            parts.append(markdown2html(_relinked(data["text/markdown"])))
        elif "text/html" in data:
            parts.append(f'<div class="wide">{data["text/html"]}</div>')
        elif "image/png" not in data:
            text = output.get("text") or data.get("text/plain", "")
            parts.append(f"<pre>{html.escape(text)}</pre>" if text.strip() else "")
    return "".join(parts)


def _relinked(text: str) -> str:
    """Prose whose links lead to the notebooks' pages."""
    return re.sub(r"\((\d\d_\w+)\.ipynb", r"(\1.html", text)


def _cover(notebook: NotebookNode, name: str) -> str:
    """The notebook's chosen picture, base64; empty where it has none."""
    wanted, first = COVERS.get(name[:2]), ""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            picture = output.get("data", {}).get("image/png", "")
            first = first or picture
            if picture and wanted and f'"{wanted}"' in cell.source:
                return picture
    return first


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>detrnb workbook</title>
<meta name="viewport" content="width=device-width, initial-scale=1">{refresh}<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem }}
article, section {{ border-top: 1px solid #8888; padding: .5rem 0 1rem; overflow-wrap: anywhere }}
h2 {{ margin: .5rem 0 0; font-size: 1.2rem }}
p {{ margin: .2rem 0 .6rem }}
img {{ max-width: 100%; max-height: 24rem; object-fit: contain; background: white }}
pre, table, .wide {{ overflow-x: auto; max-width: 100% }}
pre {{ white-space: pre-wrap }}
table {{ border-collapse: collapse; font-size: .85rem; display: block; overflow-wrap: normal }}
th, td {{ padding: .2rem .5rem; text-align: right; border-bottom: 1px solid #8884 }}
.failed h2 {{ color: #c33 }} .waits {{ opacity: .6 }} .anchor-link {{ display: none }}
</style></head><body><h1>detrnb workbook</h1>
<p>{state}</p>
{above}
<!-- cards -->
</body></html>
"""
