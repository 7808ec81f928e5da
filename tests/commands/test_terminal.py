"""The command as a whole: its help, what is light, exit codes, tracebacks on request."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import detrnb
from detrnb.commands import main
from detrnb.commands.terminal import COMMANDS
from detrnb.settings import PRESETS

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(detrnb.__file__).parents[1])}


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_help_shows_two_examples_or_more(name, capsys):
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    examples = [
        line for line in shown.splitlines() if line.startswith("    ") and "detrnb " in line
    ]
    assert len(examples) >= 2, shown
    assert all(f"detrnb {name}" in line for line in examples)


def test_help_names_every_preset(capsys):
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in PRESETS)


def test_help_and_the_package_import_nothing_heavy():
    heavy = {"torch", "pandas", "numpy", "scipy", "matplotlib", "papermill", "pydantic", "timm"}
    code = (
        "import sys, detrnb, detrnb.commands\n"
        "assert detrnb.commands.main(['--help']) == 0\n"
        f"print({heavy} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()", done.stdout


def test_comparing_imports_nothing_heavier_than_pandas_and_scipy():
    code = "import sys, detrnb.compare; print({'torch', 'matplotlib', 'timm'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "detrnb", "compare", "nowhere"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert "no log at nowhere" in done.stderr and "Traceback" not in done.stderr


def test_what_is_typed_wrongly_is_told_apart_from_what_goes_wrong(capsys):
    assert main(["comapre"]) == 2
    assert "No such command 'comapre'" in capsys.readouterr().err
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().out
    assert main(["compare", "nowhere"]) == 1


def test_debug_raises_what_is_otherwise_one_paragraph(monkeypatch, capsys):
    monkeypatch.setattr("detrnb.study.Study", lambda preset, **rest: {}[preset])
    assert main(["study", "--preset", "toy"]) == 1
    assert capsys.readouterr().err == "KeyError: 'toy' (--debug shows where)\n"
    with pytest.raises(KeyError):
        main(["study", "--debug"])


@pytest.mark.parametrize("rank, said", [("0", True), ("1", False)])
def test_processes_complain_once_of_what_is_typed_wrongly(rank, said, monkeypatch, capsys):
    monkeypatch.setenv("RANK", rank)
    assert main(["train", "--preset", "smoke", "train.epoch=2"]) == 2
    assert ("did you mean 'epochs'" in capsys.readouterr().err) == said
