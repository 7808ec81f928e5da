"""The package is a house: rooms on floors, each with a door.

A room imports only from lower floors, and there only from doors; a variant's file is a door of its
own. Files of one room know each other.
"""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "detrnb"

# From the ground up.
FLOORS = [
    ["boxes", "bar", "checkpoints"],
    ["settings", "runs"],
    ["loss", "datasets", "compare"],
    ["model", "plots"],
    ["training", "variants"],
    ["look", "exchange"],
    ["study"],
    ["commands"],
    ["__main__"],
]
WITHOUT_TORCH = {"settings", "runs", "compare", "commands"}
ROOMS = {path.name: path for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def room(path: Path) -> str:
    """The room that a file is in, or its own name at the top."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def floor(name: str) -> int:
    for number, names in enumerate(FLOORS):
        if name in names:
            return number
    pytest.fail(f"detrnb/{name} has no floor; give it one in FLOORS")


def imported_names(tree: ast.AST, package: list[str]) -> set[str]:
    """Dotted names of everything that a file imports, also inside functions.

    Args:
        package: parts of the package the file is in, which its relative imports start from.
    """
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def past_the_door(imported: str) -> bool:
    """Whether a dotted name is of a file inside a room."""
    _, name, *inside = imported.split(".")
    if name not in ROOMS or not inside:
        return False
    within = ROOMS[name] / inside[0]
    return within.is_dir() or within.with_suffix(".py").exists()


def complaint(own: str, imported: str) -> str | None:
    """What is wrong with one room's import of a dotted name, None if nothing."""
    parts = imported.split(".")
    if parts[0] != "detrnb" or len(parts) > 1 and parts[1] == own:
        return None
    if len(parts) == 1 or parts[1] not in {name for names in FLOORS for name in names}:
        return f"imports {imported} through detrnb/__init__; import from its room's door"
    if floor(parts[1]) >= floor(own):
        return f"imports {imported}, which does not stand below it"
    if past_the_door(imported) and parts[1] != "variants":
        return f"imports {imported}; another room's things come from its door, detrnb.{parts[1]}"
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_floors_and_doors_hold(path):
    package = ["detrnb", *path.relative_to(PACKAGE).parts[:-1]]
    imported = imported_names(ast.parse(path.read_text()), package)
    found = [complaint(room(path), name) for name in sorted(imported)]
    assert not [text for text in found if text], f"{path.name} {found}"


def sources_outside() -> dict[str, str]:
    """Code of bench, tools and notebooks, by file; a notebook's cells are one text."""
    scripts = [path for folder in ("bench", "tools") for path in (ROOT / folder).glob("*.py")]
    texts = {path.name: path.read_text() for path in sorted(scripts)}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
        texts[path.name] = re.sub(r"^(\s*)[%!].*", r"\1pass", text, flags=re.MULTILINE)
    return texts


@pytest.mark.parametrize("name, text", sources_outside().items(), ids=sources_outside())
def test_notebooks_and_bench_come_in_by_the_doors(name, text):
    imported = {n for n in imported_names(ast.parse(text), []) if n.split(".")[0] == "detrnb"}
    past = [n for n in imported if len(n.split(".")) > 1 and past_the_door(n)]
    past = [n for n in past if n.split(".")[1] != "variants"]
    assert not past, f"{name} imports {past}; take them from the rooms' doors"


@pytest.mark.parametrize("name", ROOMS)
def test_door_hands_out_what_it_names_and_says_what_the_room_is_for(name):
    tree = ast.parse((ROOMS[name] / "__init__.py").read_text())
    assert ast.get_docstring(tree)
    bound = {
        a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names
    }
    named = {
        value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
        for value in node.value.elts
    }
    assert bound == named
    # A lazy `from detrnb.room import thing` beside room/thing.py would give the module.
    assert not named & {path.stem for path in ROOMS[name].glob("*.py")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_only_reads_and_writes_needs_no_torch(path):
    if room(path) in WITHOUT_TORCH:
        module = ast.Module(ast.parse(path.read_text()).body, [])
        top = {n for node in module.body for n in imported_names(node, [])}
        assert not [name for name in top if name.split(".")[0].startswith("torch")]


def test_complaints_name_floors_doors_and_nested_imports():
    nested = "def f():\n    from ..training import fit\n"
    tree = ast.parse(nested + "from . import toy\nimport detrnb.plots")
    assert imported_names(tree, ["detrnb", "datasets"]) == {
        "detrnb.training.fit",
        "detrnb.datasets.toy",
        "detrnb.plots",
    }
    assert "below" in complaint("loss", "detrnb.training.fit")
    assert "below" in complaint("plots", "detrnb.model.DETR")
    assert "door" in complaint("model", "detrnb.Config")
    assert "door" in complaint("model", "detrnb.loss.matcher.HungarianMatcher")
    assert complaint("model", "detrnb.loss.HungarianMatcher") is None
    assert complaint("look", "detrnb.variants.svd_split.spectrum") is None
    assert complaint("datasets", "detrnb.datasets.toy") is None


def test_public_names_resolve_and_reading_logs_needs_no_torch():
    program = (
        "import sys, detrnb\n"
        "assert detrnb.compare.verdicts and detrnb.plots.plot_forest\n"
        "assert not {'torch', 'timm', 'accelerate'} & set(sys.modules), 'torch was imported'\n"
        "for name in detrnb.__all__:\n"
        "    getattr(detrnb, name)\n"
        "assert set(detrnb.__all__) <= set(dir(detrnb))\n"
        "assert not hasattr(detrnb, 'nothing')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
