"""The command as a whole: its help, what is light, exit codes, tracebacks on request."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import detrnb
from detrnb.commands import main, terminal
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


@pytest.mark.parametrize(
    "typed, complaint",
    [
        (["shwo", "--preset", "toy"], "no command and no path 'shwo'; did you mean 'show'?"),
        (["imprt", "from", "to"], "no command and no path 'imprt'; did you mean 'import'?"),
        (
            ["show", "--preset", "smoke", "train.lr=1", "train.lr=1"],
            "train.lr is typed twice, as 1 and as 1; leave one out",
        ),
    ],
)
def test_what_is_typed_wrongly_of_data_is_named(typed, complaint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["data", *typed]) == 2
    assert complaint in capsys.readouterr().err


def test_a_path_like_a_command_of_data_is_a_path(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("shows").mkdir()
    assert main(["data", "shows"]) == 1
    assert main(["data", "photos"]) == 1  # like none
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "typed, complaint",
    [
        (["--plan", "--status"], "--plan and --status are typed; expected one of them"),
        (["--list", "--on", "slurm"], "--list and --on slurm are typed; expected one of them"),
        (["--simulate", "--spread", "1", "--plan", "--list"], "--plan, --simulate and --list are"),
        (["--cpus", "1"], "--cpus is of --on slurm, ignored by --on here; leave it out"),
        (["--status", "--gpus", "1"], "--gpus is of --on slurm, ignored by --status; leave it out"),
        (["--on", "slurm", "--jobs", "1"], "--jobs is of --on here, ignored by --on slurm; leave"),
        (["--list", "--jobs", "2"], "--jobs is of --on here, ignored by --list; leave it out"),
        (["--plan", "--only", "detr"], "--only is of --status, --list, --on here and --on slurm,"),
    ],
)
def test_options_that_a_study_would_ignore_are_refused(typed, complaint, monkeypatch, capsys):
    monkeypatch.setattr("detrnb.study.Study", None)
    assert main(["study", "--preset", "smoke", *typed]) == 2
    assert complaint in capsys.readouterr().err


def test_interrupted_ends_with_130(monkeypatch, capsys):
    def interrupt(*args, **rest):
        raise KeyboardInterrupt

    monkeypatch.setattr("detrnb.study.Study", interrupt)
    assert main(["study"]) == 130
    assert capsys.readouterr().err.strip() == "stopped"


def test_every_exit_code_is_stated():
    stated = re.findall(r"\b(\d+)\b", terminal.__doc__)
    returned = re.findall(r"return (\d+)", inspect.getsource(terminal))
    assert set(stated) == {"0", *returned}


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
