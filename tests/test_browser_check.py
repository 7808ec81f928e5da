"""What `make browser` does before a browser opens; the check itself is no test."""

import os
import shutil
import subprocess
import sys

import nbformat
import pytest

from tools import browser_check


def have(monkeypatch, *programs):
    """Only these programs are installed."""
    found = {name: f"bin/{name}" for name in programs}
    monkeypatch.setattr(shutil, "which", found.get)


def test_a_browser_of_any_name_will_do(monkeypatch):
    have(monkeypatch, "google-chrome", "node", "npm")
    assert browser_check.find_browser() == "bin/google-chrome"


@pytest.mark.parametrize(("user", "programs"), [(1000, ("node", "apt-get")), (0, ("node",))])
def test_without_rights_to_install_it_says_what_to_install(monkeypatch, user, programs, capsys):
    have(monkeypatch, *programs)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(sys, "argv", ["browser_check.py"])
    assert browser_check.main() == 0
    said = capsys.readouterr().out
    assert (
        "nothing was checked, for want of a browser; install first: apt install chromium npm"
        in said
    )


def test_a_failed_installation_checks_nothing_and_a_failed_check_fails(monkeypatch, capsys):
    have(monkeypatch, "apt-get")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["browser_check.py", "--smoke"])
    failed = subprocess.CompletedProcess([], 100, "", "E: no network")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    assert browser_check.main() == 0
    assert "nothing was checked, for want of a browser; apt-get update: E: no network" in (
        capsys.readouterr().out
    )

    def no_lab(*, smoke: bool) -> int:
        raise RuntimeError("JupyterLab ended: no port")

    monkeypatch.setattr(browser_check, "check", no_lab)
    assert browser_check.main() == 1
    assert capsys.readouterr().err == "browser check: JupyterLab ended: no port\n"


def test_an_index_that_cannot_be_made_fails_with_the_reason(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "07_compare_runs.ipynb: code cell 3 failed")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match="--only 07: 07_compare_runs.ipynb: code cell 3 failed"):
        browser_check.make_index(tmp_path)


def test_the_project_it_runs_in_shares_data_and_runs_but_not_figures(tmp_path):
    browser_check.make_project(tmp_path, smoke=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "data",
        "notebooks",
        "pyproject.toml",
        "runs",
    ]
    cells = nbformat.read(tmp_path / "notebooks" / browser_check.NOTEBOOK, 4).cells
    (parameters,) = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    assert parameters.source.endswith("\nsmoke = True")
