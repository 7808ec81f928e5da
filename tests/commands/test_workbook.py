"""The runner: parameters, false greens, failures, pages."""

import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from papermill.clientwrap import PapermillNotebookClient

from detrnb.commands import main, notebooks
from detrnb.commands.notebooks import NotebookFailed, run_notebook, run_workbook
from detrnb.commands.pages import export_html

PIXEL = "import matplotlib.pyplot as plt\nplt.figure(figsize=(1, 1)).gca().plot([0, 1]);"


def write_notebook(path: Path, *sources: str) -> Path:
    """A notebook with a `parameters` cell and then one code cell for each source."""
    parameters = new_code_cell("smoke: bool = False  # seconds instead of minutes")
    parameters.metadata["tags"] = ["parameters"]
    title = new_markdown_cell(f"# Title of {path.stem}\n\n[next](02_second.ipynb)")
    notebook = new_notebook(cells=[title, parameters, *map(new_code_cell, sources)])
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def stdout_of(path: Path) -> str:
    """Everything that an executed notebook printed."""
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    return "".join(output.get("text", "") for output in outputs)


def test_run_notebook_uses_this_interpreter_and_the_notebooks_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")  # what lets a stale user kernel win
    source = write_notebook(
        tmp_path / "in" / "01_first.ipynb",
        "import os, sys, detrnb\nprint(sys.prefix, os.getcwd(), detrnb.__path__[0], smoke)",
    )
    seconds = run_notebook(source, tmp_path / "out.ipynb", {"smoke": True})
    package = str(notebooks.PACKAGE_IN / "detrnb")
    assert stdout_of(tmp_path / "out.ipynb").split() == [
        sys.prefix,
        str(source.parent),
        package,
        "True",
    ]
    assert 0 < seconds < 60


def test_run_notebook_waits_for_output_that_is_on_its_way(tmp_path, monkeypatch):
    """Else a cell that prints much has failed where the machine is busy."""
    waits, begin = [], PapermillNotebookClient.__init__

    def noting(self, *given, **named):
        begin(self, *given, **named)
        waits.append(self.iopub_timeout)

    monkeypatch.setattr(PapermillNotebookClient, "__init__", noting)
    source = write_notebook(tmp_path / "01_first.ipynb", "1")
    run_notebook(source, tmp_path / "out.ipynb", {})
    assert waits == [notebooks.OUTPUT_SECONDS] and waits[0] > 60


def test_run_notebook_refuses_unknown_parameter(tmp_path):
    source = write_notebook(tmp_path / "01_first.ipynb", "1")
    with pytest.raises(ValueError, match=r"no parameter 'smokey'; known: smoke"):
        run_notebook(source, tmp_path / "out.ipynb", {"smokey": True})


def test_run_notebook_notices_cells_that_never_ran(tmp_path):
    source = write_notebook(tmp_path / "01_first.ipynb", "import sys; sys.exit(0)", "1 + 1")
    with pytest.raises(NotebookFailed, match=r"01_first.ipynb: code cell \d of 3"):
        run_notebook(source, tmp_path / "out.ipynb", {})


def test_run_notebook_in_which_a_cell_ends_the_kernel_fails_even_if_the_rest_still_ran(tmp_path):
    source = write_notebook(tmp_path / "01_first.ipynb", "exit()", "1 + 1")
    with pytest.raises(NotebookFailed, match="01_first.ipynb: (code cell 2 ends its|Kernel died)"):
        run_notebook(source, tmp_path / "out.ipynb", {})


def test_run_notebook_keeps_a_bars_last_state_and_a_line_of_any_length(tmp_path):
    """nbclient's own way takes the square of a line's length: hours for this one."""
    bar = "import sys\nfor i in range(3): print(f'{i} of 2', end='\\r')\nprint('end of it')"
    long = "print('x' * 3_000_000)\nprint('note', file=sys.stderr)\nprint('last')"
    run_notebook(write_notebook(tmp_path / "01_first.ipynb", bar, long), tmp_path / "out.ipynb", {})
    cells = nbformat.read(tmp_path / "out.ipynb", 4).cells
    *_, first, second = [[(o["name"], o["text"]) for o in c.get("outputs", ())] for c in cells]
    assert first == [("stdout", "end of it\n")]
    assert dict(second) == {"stdout": f"{'x' * 3_000_000}\nlast\n", "stderr": "note\n"}


def test_run_notebook_names_the_cell_that_raised_and_keeps_what_ran(tmp_path):
    source = write_notebook(tmp_path / "01_first.ipynb", "print('ran')", "1 / 0", "print('not')")
    with pytest.raises(NotebookFailed, match="code cell 3 failed: ZeroDivisionError: division"):
        run_notebook(source, tmp_path / "out.ipynb", {})
    assert stdout_of(tmp_path / "out.ipynb").startswith("ran")


def test_run_notebook_stops_a_cell_that_hangs(tmp_path):
    source = write_notebook(tmp_path / "01_first.ipynb", "import time; time.sleep(60)")
    with pytest.raises(NotebookFailed, match="timed out"):
        run_notebook(source, tmp_path / "out.ipynb", {}, timeout=1)


def test_run_workbook_shows_epochs_and_links_its_pages(tmp_path, capsys):
    notebooks = tmp_path / "notebooks"
    write_notebook(notebooks / "01_first.ipynb", "print('epoch 1  loss 2.0'); print('x')", PIXEL)
    write_notebook(notebooks / "02_second.ipynb", "print(smoke)")
    (tmp_path / "runs" / "workbook" / "figures").mkdir(parents=True)
    (tmp_path / "runs" / "workbook" / "figures" / "01_detections.png").touch()

    index = run_workbook(tmp_path, smoke=True)

    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["01_first ...", "  epoch 1  loss 2.0"]
    assert [line.split(" in ")[0] for line in lines[2:]] == [
        "01_first done",
        "02_second ...",
        "02_second done",
    ]
    assert index == tmp_path / "runs" / "workbook" / "index.html"
    text = index.read_text()
    assert '<a href="01_first.html">Title of 01_first</a>' in text
    assert text.count('src="data:image/png;base64,') == 1
    assert 'href="figures/01_detections.png"' in text
    page = index.with_name("01_first.html").read_text()
    assert 'href="02_second.html"' in page
    assert 'src="data:image/png;base64,' in page
    assert "require.js" not in page.split("</head>")[0]
    assert stdout_of(index.with_name("02_second.ipynb")) == "True\n"


def test_page_shows_the_picture_of_a_widget(tmp_path):
    bundle = {
        "application/vnd.jupyter.widget-view+json": {"model_id": "a", "version_major": 2},
        "image/png": "iVBORw0KGgo=",
    }
    show = f"from IPython.display import display\ndisplay({bundle}, raw=True)"
    source = write_notebook(tmp_path / "01_first.ipynb", show)
    run_notebook(source, tmp_path / "out.ipynb", {})
    export_html(tmp_path / "out.ipynb", tmp_path / "out.html", tmp_path)
    page = (tmp_path / "out.html").read_text()
    assert 'src="data:image/png;base64,iVBORw0KGgo=' in page
    assert '<script type="application/vnd.jupyter.widget-view+json"' not in page


def test_run_workbook_only_keeps_the_other_pages(tmp_path):
    notebooks = tmp_path / "notebooks"
    write_notebook(notebooks / "01_first.ipynb", "1")
    write_notebook(notebooks / "02_second.ipynb", "2")
    run_workbook(tmp_path, only="01")
    text = run_workbook(tmp_path, only="02").read_text()
    assert "01_first.html" in text
    assert "02_second.html" in text
    with pytest.raises(ValueError, match="no notebook begins with '07'; known: 01_first"):
        run_workbook(tmp_path, only="07")


def test_figures_takes_over_the_pictures_of_this_run_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETRNB_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    save = (
        "from matplotlib.figure import Figure\nfrom detrnb.runs import save_figure\n"
        "save_figure(Figure(figsize=(1, 1)), '02_curves');"
    )
    write_notebook(tmp_path / "notebooks" / "01_first.ipynb", "1")
    write_notebook(tmp_path / "notebooks" / "02_second.ipynb", save)
    left, committed = tmp_path / "runs" / "workbook" / "figures", tmp_path / "figures"
    for folder, content in ((left, b"of an older run"), (committed, b"committed")):
        folder.mkdir(parents=True)
        for name in ("01_curves.png", "02_curves.png"):
            (folder / name).write_bytes(content)
    assert main(["workbook", "--only", "02", "--figures"]) == 0
    assert (committed / "01_curves.png").read_bytes() == b"committed"
    assert (committed / "02_curves.png").read_bytes() == (left / "02_curves.png").read_bytes()
    assert (left / "02_curves.png").read_bytes().startswith(b"\x89PNG")
    assert "in figures/: 1 pictures of this run, 1 as before" in capsys.readouterr().out


def test_main_reports_a_failure_in_words(tmp_path, monkeypatch, capsys):
    def fail(*_: object, **__: object) -> Path:
        raise NotebookFailed("01_first.ipynb: code cell 3 failed: ValueError: no")

    monkeypatch.setattr(notebooks, "run_workbook", fail)
    assert main(["workbook"]) == 1
    assert capsys.readouterr().err == "01_first.ipynb: code cell 3 failed: ValueError: no\n"
