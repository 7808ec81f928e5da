"""Trust: what others wrote is shown as text and read inside its folder; nothing of it is run."""

import html
import json
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import nasty
import nbformat
import numpy as np
import pandas as pd
from PIL import Image

from detrnb.checkpoints import read_checkpoint
from detrnb.commands.index import write_index
from detrnb.commands.pages import export_html
from detrnb.datasets import check
from detrnb.plots import plot_curves, plot_detections, plot_per_class
from detrnb.runs import RunFolder
from soak.drill import ROOT, Drill, Try
from soak.files import bomb
from soak.runs import trained, typed

NAMES = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</text><script>alert(1)</script>",
    "]]><script>alert(1)</script>",
    "$\\frac{1}$",
    "$x^{$",
    "a$b",
    "%s %n {0} {x}",
    "\\input{x}",
    "javascript:alert(1)",
    "../../x",
    "\u202egnp.exe",
    "&lt;b&gt;",
    "x" * 500,
)


class _Active(HTMLParser):
    """Elements and attributes of a page that would run something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        if tag == "script" and "alert(1)" in str(named):
            self.found.append(f"<{tag}>")
        active = [(n, v) for n, v in attributes if n.startswith("on") and "alert" in str(v)]
        self.found += [f"{n}={v}" for n, v in active]
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if getattr(self, "_inside", "") == "script" and data.strip() == "alert(1)":
            self.found.append("<script>alert(1)")


def runs_in(page: str) -> str:
    """What in a page would run, in words."""
    reader = _Active()
    reader.feed(page)
    return ", ".join(reader.found)


def in_pictures(name: str, folder: Path) -> str:
    """A class of that name in figures as SVG and PNG: drawn, to the letter, and inactive."""
    names = {0: name, 1: "other"}
    boxes = np.array([[2.0, 2.0, 20.0, 20.0]])
    image = np.zeros((32, 32, 3), np.uint8)
    found = {"scores": np.ones(1), "labels": np.zeros(1, int), "boxes": boxes}
    truth = {"boxes": boxes, "labels": np.zeros(1, int)}
    log = pd.DataFrame({"train_loss": [1.0], "test_loss": [1.0], "AP": [0.1], "AP50": [0.2]})
    figures = [
        plot_detections([image], [truth], [found], names),
        plot_per_class({name: 0.5, "other": 0.1}),
        plot_curves({name: log}),
    ]
    for number, figure in enumerate(figures):
        for form in ("svg", "png"):
            figure.savefig(folder / f"{number}.{form}", format=form)
        active = runs_in((folder / f"{number}.svg").read_text())
        if active:
            return f"figure {number} as SVG holds {active}"
    return ""


def in_pages(name: str, folder: Path) -> str:
    """A notebook whose output and failure hold the name as text, as a page and in the index."""
    notebook = nbformat.v4.new_notebook()
    frame = pd.DataFrame({"class": [name]})
    table = {"text/html": frame.to_html(), "text/plain": name}
    outputs = [
        nbformat.v4.new_output("stream", name="stdout", text=name),
        nbformat.v4.new_output("execute_result", table),
    ]
    cell = nbformat.v4.new_code_cell("1", outputs=outputs, execution_count=1)
    notebook.cells = [nbformat.v4.new_markdown_cell("# title"), cell]
    source, page = folder / "00_it.ipynb", folder / "00_it.html"
    nbformat.write(notebook, source)
    export_html(source, page, folder)
    active = runs_in(page.read_text())
    page.unlink()  # as of one that failed
    index = write_index(folder, [source], failed={"00_it": name})
    active = active or runs_in(index.read_text())
    shown = html.escape(name, quote=False)
    if not active and shown not in index.read_text() and html.escape(name) not in index.read_text():
        return "the index does not show the failure's text"
    return active and f"a page holds {active}"


def leading_out(folder: Path, name: str) -> str:
    """An annotation file of which an image lies outside its folder: refused, and not opened."""
    Image.new("RGB", (32, 32)).save(folder / "secret.png")
    (folder / "images").mkdir(exist_ok=True)
    Image.new("RGB", (32, 32)).save(folder / "images" / "1.png")
    record = {"id": 1, "file_name": name, "width": 32, "height": 32}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}
    content = {
        "images": [record],
        "annotations": [box],
        "categories": [{"id": 1, "name": "it"}],
    }
    file = folder / "annotations.json"
    file.write_text(json.dumps(content))
    report = check({"it": (folder / "images", file)}, images=True)
    kinds = [fault.kind for fault in report.errors]
    return "" if "file_name outside the folder of images" in kinds else f"errors are {kinds}"


def opening(folder: Path, place: str, form: str) -> str:
    """A pickle that runs code in the place of a file of weights or of kept features."""
    trace, project = folder / "trace", folder / f"{place}-{form}"
    project.mkdir()
    nasty.write(project)
    file = project / "it.pt"
    bomb(trace, form)(file)
    if place == "checkpoint":
        try:
            read_checkpoint(file)
        except ValueError as error:
            return "what it held was run" if trace.exists() else _names(file, str(error))
        return "it was read"
    if place == "run":
        line = typed("victim", train__epochs=1)
        trained(project, *line)
        shutil.copy(file, RunFolder(project / "runs" / "victim").last)
    else:
        line = typed("victim", train__init_from=str(file), train__epochs=1)
    child = trained(project, *(line if place != "predict" else ["predict", str(file), "."]))
    if trace.exists():
        return "what it held was run"
    return "" if child.code and "Traceback" not in child.said else child.said[-200:]


def _names(file: Path, text: str) -> str:
    return "" if str(file) in text else f"refused without its name: {text}"


def lab() -> str:
    """`make lab` listens on this machine alone, and asks for a token."""
    makefile = (ROOT / "Makefile").read_text()
    rule = makefile[makefile.index("\nlab:") :]
    wanted = ("--ip=127.0.0.1", "--IdentityProvider.token=")
    return ", ".join(f"lacks {word}" for word in wanted if word not in rule)


OUT = ("../secret.png", "{}/secret.png", "a/../../secret.png", "./../secret.png", "..")


def tries(folder: Path) -> Iterator[Try]:
    def one(part: str, what: str, attempt: Callable[[], str]) -> Try:
        place = folder / "try"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        try:
            why = attempt()
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        return Try(part, not why, why and f"{what!r:.60}: {why:.300}")

    place = folder / "try"
    for name in NAMES:
        yield one("hostile name in pictures", name, lambda name=name: in_pictures(name, place))
        yield one("hostile name in pages", name, lambda name=name: in_pages(name, place))
    for name in OUT:
        told = name.format(place)
        yield one("path out of its folder", name, lambda told=told: leading_out(place, told))
    for at in ("checkpoint", "run", "init_from"):
        for form in ("pickle", "torch"):
            part = "a pickle that runs code"
            yield one(part, f"{at}, {form}", lambda at=at, form=form: opening(place, at, form))
    yield one("JupyterLab", "make lab", lab)


TAUGHT = (
    "an annotation's file_name could lead out of the folder of images: "
    "soak/test_spoiled.py::test_images_outside_their_folder_are_refused; names with dollars "
    "were drawn as formulas, or ended the picture: "
    "soak/test_spoiled.py::test_hostile_names_are_shown_as_text; make lab took whatever "
    "address and token a user's settings had: "
    "soak/test_spoiled.py::test_jupyterlab_listens_on_this_machine_and_asks_for_a_token"
)
TRUST = Drill("Trust", tries, TAUGHT)
