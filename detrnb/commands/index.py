"""The workbook's index: what its notebooks found, in their own words and numbers, on one page.

First how far it is, then verdicts and decisions as the notebooks have them, then each notebook: its
question, one chosen picture, what it saw. It is read off the executed copies, so that it is there
from the first notebook on, and one notebook can be run again alone. Nothing of it comes from
elsewhere, and it needs no script.
"""

import html
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbconvert.filters import markdown2html
from nbformat import NotebookNode

from detrnb.runs import write_text

FOUND = "What we saw"  # the section of a notebook that says what it found
FIRST = ("The ladder", "Decisions", "Verdicts")  # sections that stand above all notebooks
# The picture of a notebook, by the name that it is saved under; where it is not there, the first.
COVERS = {
    "00": "00_toy_images",
    "01": "01_detections",
    "02": "02_layer_weights",
    "03": "03_implied_attention",
    "04": "04_parts",
    "05": "05_encoder",
    "06": "06_one_image",
    "07": "07_pairs",  # the section of verdicts has its forest
    "08": "08_judgement",
    "09": "09_detections",
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
    entries = [
        _entry(folder, source.stem, source.stem == running, (failed or {}).get(source.stem, ""))
        for source in sources
    ]
    done = [entry for entry in entries if entry.kind == "done"]
    whole = _PAGE.format(
        refresh=f'<meta http-equiv="refresh" content="{_SECONDS}">' if running else "",
        state=_state(entries),
        rows="\n".join(f'<tr class="{entry.kind}">{_row(entry)}</tr>' for entry in entries),
        above="\n".join(_section(entry, title) for title in FIRST for entry in done),
        cards="\n".join(_card(folder, entry) for entry in entries),
    )
    index = folder / "index.html"
    write_text(index, whole)
    return index


@dataclass(frozen=True)
class _Entry:
    """A notebook as far as it is.

    Attributes:
        kind: `done`, `failed`, `runs` or `waits`.
        state: in words.
        copy: as it was executed; None where it was not, or is being now.
    """

    name: str
    kind: str
    state: str
    copy: NotebookNode | None

    @property
    def title(self) -> str:
        """The first heading."""
        return self._first(r"^# +(.+)$") or self.name

    @property
    def question(self) -> str:
        """What it asks, as its first cell says."""
        return self._first(r"^\*\*Question\.\*\* *(.+)$")

    @property
    def took(self) -> str:
        """How long."""
        seconds = self._run.get("duration") or 0.0
        if self.kind != "done":
            return ""
        return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"

    @property
    def ended(self) -> str:
        """When, to the minute."""
        at = self._run.get("end_time")
        return at[:16].replace("T", " ") + " UTC" if at else ""

    @property
    def is_smoke(self) -> bool:
        """Whether its numbers mean nothing."""
        return bool(self._run.get("parameters", {}).get("smoke"))

    @property
    def _run(self) -> Mapping:
        return self.copy.metadata.get("papermill", {}) if self.copy else {}

    def _first(self, pattern: str) -> str:
        cells = self.copy.cells if self.copy else ()
        prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        found = re.search(pattern, prose, re.MULTILINE)
        return found[1].strip() if found else ""


def _entry(folder: Path, name: str, running: bool, failed: str) -> _Entry:
    copy = folder / f"{name}.ipynb"
    if running:
        return _Entry(name, "runs", "runs now", None)
    executed = nbformat.read(copy, as_version=4) if copy.exists() else None
    if executed is not None and (folder / f"{name}.html").exists():
        return _Entry(name, "done", "done", executed)
    if executed is not None or failed:
        return _Entry(name, "failed", f"failed: {failed or _failure(executed)}", executed)
    return _Entry(name, "waits", "has not run yet", None)


def _state(entries: Sequence[_Entry]) -> str:
    """How far the workbook is, in a sentence or two."""
    of_kind = {kind: [e.name for e in entries if e.kind == kind] for kind in ("runs", "failed")}
    done = [entry for entry in entries if entry.kind == "done"]
    said = [f"{len(done)} of {len(entries)} notebooks are done"]
    said += [f"{name} runs now" for name in of_kind["runs"]]
    said += [f"{name} failed" for name in of_kind["failed"]]
    smoke = ". Smoke runs: their numbers mean nothing" if any(e.is_smoke for e in done) else ""
    return html.escape(f"{'; '.join(said)}{smoke}.")


def _row(entry: _Entry) -> str:
    """A notebook in the list at the top."""
    link = f'<a href="#{entry.name}">{html.escape(entry.title)}</a>'
    return f"<td>{link}</td><td>{html.escape(entry.took or entry.state)}</td>"


def _card(folder: Path, entry: _Entry) -> str:
    """The part of the index about one notebook."""
    title, page = html.escape(entry.title), f"{entry.name}.html"
    inside = f"<p>{html.escape(entry.question)}</p>" if entry.question else ""
    if entry.kind == "done":
        title = f'<a href="{page}">{title}</a>'
        about = [entry.name, entry.took, entry.ended, "smoke run" * entry.is_smoke]
        inside += f'<p class="about">{" · ".join(filter(None, about))}</p>'
        if cover := _cover(entry):
            inside += f'<a href="{page}">{_image(cover, entry.title)}</a>'
        inside += "".join(_shown(cell) for cell in _cells_of(entry.copy, FOUND))
        inside += _figures(folder, entry.name)
    else:
        inside += f"<p>{html.escape(entry.state)}</p>"
        if entry.copy is not None:
            copy = f"{entry.name}.ipynb"
            inside += f'<p>What ran before it: <a href="{copy}">{copy}</a></p>'
    return f'<article id="{entry.name}" class="{entry.kind}"><h2>{title}</h2>{inside}</article>'


def _figures(folder: Path, name: str) -> str:
    links = " ".join(
        f'<a href="{os.path.relpath(path, folder)}">{html.escape(path.name)}</a>'
        for path in sorted((folder / "figures").glob(f"{name[:2]}_*.png"))
    )
    return f"<p>Pictures: {links}</p>" if links else ""


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


def _section(entry: _Entry, title: str) -> str:
    """A section with its heading and where it is from; empty where it has found nothing."""
    cells = [(cell.cell_type, _shown(cell)) for cell in _cells_of(entry.copy, title)]
    if not any(shown for kind, shown in cells if kind == "code"):
        return ""
    shown = "".join(shown for _, shown in cells)
    source = f'<a href="{entry.name}.html">{html.escape(entry.title)}</a>'
    about = f'<p class="about">from {source}</p>'
    return f"<section><h2>{html.escape(title)}</h2>{about}{shown}</section>"


def _shown(cell: NotebookNode) -> str:
    """Prose, and of code what it gave: tables, text, pictures, no code."""
    if cell.cell_type == "markdown":
        return markdown2html(_relinked(cell.source))
    parts = []
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        if "image/png" in data:
            parts.append(_image(data["image/png"], "a picture of the notebook"))
        elif "text/markdown" in data:
            parts.append(markdown2html(_relinked(data["text/markdown"])))
        elif "text/html" in data:
            parts.append(f'<div class="wide">{data["text/html"]}</div>')
        else:
            text = output.get("text") or data.get("text/plain", "")
            parts.append(f"<pre>{html.escape(text)}</pre>" if text.strip() else "")
    return "".join(parts)


def _image(content: str, alt: str) -> str:
    """A picture that the page itself holds, from base64."""
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{content}">'


def _relinked(text: str) -> str:
    """Prose whose links lead to the notebooks' pages."""
    return re.sub(r"\((\d\d_\w+)\.ipynb", r"(\1.html", text)


def _cover(entry: _Entry) -> str:
    """The notebook's chosen picture, base64; empty where it has none."""
    wanted, first = COVERS.get(entry.name[:2]), ""
    for cell in entry.copy.cells:
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
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem }}
article, section {{ border-top: 1px solid #8888; padding: .5rem 0 1rem; overflow-wrap: anywhere }}
h2 {{ margin: .5rem 0 0; font-size: 1.2rem }}
p {{ margin: .2rem 0 .6rem }}
ul {{ padding-left: 1.2rem }}
img {{ max-width: 100%; max-height: 24rem; object-fit: contain; background: white }}
section img {{ display: block; margin: .5rem 0; max-height: none }}
section td {{ white-space: nowrap }}
pre, table, .wide {{ overflow-x: auto; max-width: 100% }}
pre {{ white-space: pre-wrap }}
table {{ border-collapse: collapse; font-size: .85rem; display: block; overflow-wrap: normal }}
th, td {{ padding: .2rem .5rem; text-align: right; border-bottom: 1px solid #8884 }}
:is(.wide, section) table {{ font-size: .78rem }} .wide :is(th, td) {{ padding: .2rem .35rem }}
nav td {{ text-align: left; overflow-wrap: anywhere }}
nav td:first-child {{ white-space: nowrap }}
.about {{ font-size: .85rem; opacity: .8 }}
.failed h2, tr.failed {{ color: #c33 }} .waits {{ opacity: .6 }} .anchor-link {{ display: none }}
</style></head><body><h1>detrnb workbook</h1>
<p>{state}</p>
<nav><table>
{rows}
</table></nav>
{above}
{cards}
</body></html>
"""
