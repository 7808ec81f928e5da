"""The workbook's index says what was found, what failed and what is still to come."""

import re
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from detrnb.commands.index import write_index

PICTURE, OTHER = "iVBORw0KGgo=", "iVBORw0KAAA="


def executed(folder: Path, name: str, *cells: object, page: bool = True, **papermill) -> Path:
    """An executed copy, and its page."""
    notebook = new_notebook(cells=[new_markdown_cell(f"# Title of {name}"), *cells])
    notebook.metadata["papermill"] = {"duration": 12.4, "parameters": {}} | papermill
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    if page:
        (folder / f"{name}.html").write_text("page")
    return Path("notebooks") / f"{name}.ipynb"


def gave(source: str = "", **data: str) -> object:
    """A code cell and what it gave, by kind."""
    named = {kind.replace("_", "/"): text for kind, text in data.items()}
    return new_code_cell(source, outputs=[new_output("display_data", data=named)])


def test_what_was_found_stands_there_in_the_notebooks_own_words(tmp_path):
    source = executed(
        tmp_path,
        "01_detr",
        gave(text_markdown="not this"),
        new_markdown_cell("Before it.\n\n## What we saw\n\nPlain words on [02](02_next.ipynb)."),
        gave("Markdown(...)", text_markdown="- AP **0.31** after six epochs"),
        new_markdown_cell("## Try next\n\nnor that"),
    )
    text = write_index(tmp_path, [source]).read_text()
    assert 'Plain words on <a href="02_next.html">02</a>' in text
    assert "AP <strong>0.31</strong> after six epochs" in text
    assert "not this" not in text and "nor that" not in text and "Before it" not in text
    assert "01_detr · 12 s" in text and "1 of 1 notebooks are done." in text


def test_a_card_has_question_time_and_end(tmp_path):
    source = executed(
        tmp_path,
        "01_detr",
        new_markdown_cell("**Question.** Does <it> learn?\n\n**Running time.** Long."),
        duration=300.0,
        end_time="2026-11-28T14:05:59.123456+00:00",
    )
    text = write_index(tmp_path, [source]).read_text()
    assert "<p>Does &lt;it&gt; learn?</p>" in text
    assert "01_detr · 5 minutes · 2026-11-28 14:05 UTC" in text
    assert '<a href="#01_detr">Title of 01_detr</a></td><td>5 minutes</td>' in text


def test_what_was_found_stands_above_all_notebooks(tmp_path):
    first = executed(tmp_path, "01_detr")
    last = executed(
        tmp_path,
        "07_compare_runs",
        new_markdown_cell("## The ladder"),
        gave(text_html="<table><tr><td>rung</td></tr></table>"),
        new_markdown_cell("## Decisions\n\nOne rule for all."),
        gave(text_markdown="- `svd_split`: **not applied**"),
        new_markdown_cell("## Verdicts"),
        gave(text_html="<table><tr><td>better</td></tr></table>"),
        new_markdown_cell("## The runs"),
        gave(text_html="<table><tr><td>left out</td></tr></table>"),
    )
    text = write_index(tmp_path, [first, last]).read_text()
    words = ('href="#01_detr"', "rung", "not applied", "better", '<article id="01_detr"')
    places = [text.index(word) for word in words]
    assert places == sorted(places)
    assert "left out" not in text


def test_a_section_that_found_nothing_is_left_out(tmp_path):
    """Words on a picture that is not there, as before a study is whole."""
    words, nothing = new_markdown_cell("## The ladder\n\nHollow: not judged."), new_code_cell("1")
    source = executed(tmp_path, "07_compare_runs", words, nothing)
    assert "The ladder" not in write_index(tmp_path, [source]).read_text()


def test_words_on_a_picture_have_it_beside_them(tmp_path):
    source = executed(
        tmp_path,
        "07_compare_runs",
        new_markdown_cell("## Verdicts\n\nAs a picture:"),
        gave("figure", image_png=PICTURE),
        new_markdown_cell("Dot: the mean."),
    )
    text = write_index(tmp_path, [source]).read_text()
    words = ("As a picture:", PICTURE, "Dot: the mean.", "<article")
    places = [text.index(word) for word in words]
    assert places == sorted(places)


def test_one_chosen_picture_a_notebook(tmp_path):
    chosen = executed(
        tmp_path,
        "01_detr",
        gave('save_figure(figure, "01_curves")', image_png=OTHER),
        gave('save_figure(figure, "01_detections", smoke=smoke)', image_png=PICTURE),
    )
    another = executed(tmp_path, "10_more", gave("figure", image_png=OTHER))
    text = write_index(tmp_path, [chosen, another]).read_text()
    assert re.findall('base64,([^"]+)"', text) == [PICTURE, OTHER]


def test_what_runs_what_failed_and_what_waits_is_told_apart(tmp_path):
    error = new_output("error", ename="ValueError", evalue="no <data>", traceback=[])
    failed = executed(
        tmp_path, "01_detr", new_code_cell("1", outputs=[error], execution_count=4), page=False
    )
    sources = [failed, Path("02_next.ipynb"), Path("03_last.ipynb")]
    text = write_index(tmp_path, sources, running="02_next").read_text()
    assert text.count("failed: code cell 4: ValueError: no &lt;data&gt;") == 2  # list and card
    assert 'What ran before it: <a href="01_detr.ipynb">' in text
    assert "<h2>02_next</h2><p>runs now</p>" in text
    assert "<h2>03_last</h2><p>has not run yet</p>" in text
    assert "0 of 3 notebooks are done; 02_next runs now; 01_detr failed." in text
    assert 'http-equiv="refresh"' in text
    assert 'http-equiv="refresh"' not in write_index(tmp_path, sources).read_text()
    text = write_index(tmp_path, sources, failed={"03_last": "the kernel died"}).read_text()
    assert "<h2>03_last</h2><p>failed: the kernel died</p>" in text


def test_the_page_is_one_for_phones_without_scripts(tmp_path):
    source = executed(tmp_path, "01_detr", parameters={"smoke": True})
    text = write_index(tmp_path, [source]).read_text()
    assert 'name="viewport" content="width=device-width' in text
    assert "<script" not in text and "http://" not in text and "https://" not in text
    assert "Smoke runs: their numbers mean nothing" in text
