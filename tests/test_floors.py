"""A file of the package imports only from lower floors, or from earlier files of its own floor."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "detrnb"

# From the ground up; a folder stands for all its files.
FLOORS = [
    ["registry", "official", "presets", "config", "planning"],
    ["boxes", "logs", "runs", "bar", "mirror"],
    ["datasets", "backbone", "attention", "matcher", "evaluate", "compare", "plots", "device"],
    ["transformer", "criterion"],
    ["detr", "weights"],
    ["variants", "recording", "parts"],
    ["progress", "global_batch", "epoch", "training", "probe", "engine", "export"],
    ["train", "study", "workbook", "views", "explore"],
]
WITHOUT_TORCH = {*FLOORS[0], "logs", "runs", "mirror", "compare"}


def unit(path: Path) -> str:
    """A file's entry in FLOORS: its sub-package, or its own name."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def place(name: str) -> tuple[int, int]:
    """Floor and position on it."""
    for floor, names in enumerate(FLOORS):
        if name in names:
            return floor, names.index(name)
    pytest.fail(f"detrnb/{name} has no floor; give it one in FLOORS")


def imported_modules(tree: ast.AST, package: list[str]) -> set[str]:
    """Dotted names of everything that a file imports, also inside functions.

    Args:
        tree: the parsed file.
        package: parts of the package the file is in, which its relative imports start from.
    """
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            # `from detrnb import boxes` names a module, `from detrnb.boxes import iou` does not
            # need its last part; both begin with the module's own name.
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def imports_of(path: Path) -> set[str]:
    """Dotted names that a file of the package imports."""
    package = ["detrnb", *path.relative_to(PACKAGE).parts[:-1]]
    return imported_modules(ast.parse(path.read_text()), package)


def complaint(name: str, imported: str) -> str | None:
    """What is wrong with one file's import of another name, None if nothing."""
    parts = imported.split(".")
    if parts[0] != "detrnb":
        return None
    if not (PACKAGE / parts[1]).is_dir() and not (PACKAGE / f"{parts[1]}.py").exists():
        return f"imports {imported} through detrnb/__init__; import from its own module"
    if parts[1] != name and place(parts[1]) >= place(name):
        return f"imports {imported}, which does not stand below it"
    return None


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_floors_hold(path):
    name = unit(path)
    place(name)
    found = [complaint(name, imported) for imported in sorted(imports_of(path))]
    assert not [text for text in found if text], f"{path.name} {found}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_ground_floor_needs_no_torch(path):
    if unit(path) in WITHOUT_TORCH:
        assert not [name for name in imports_of(path) if name.split(".")[0].startswith("torch")]


def test_floors_see_relative_and_nested_imports():
    nested = "def f():\n    from ..engine import fit\n"
    tree = ast.parse(nested + "from . import toy\nimport detrnb.plots")
    assert imported_modules(tree, ["detrnb", "datasets"]) == {
        "detrnb.engine.fit",
        "detrnb.datasets.toy",
        "detrnb.plots",
    }
    assert complaint("matcher", "detrnb.engine.fit")
    assert complaint("matcher", "detrnb.Config")
    assert complaint("criterion", "detrnb.matcher.match") is None
    assert complaint("datasets", "detrnb.datasets.toy") is None


def test_public_names_resolve_and_reading_logs_needs_no_torch():
    program = (
        "import sys, detrnb, detrnb.compare, detrnb.plots\n"
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
