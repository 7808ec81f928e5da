"""Runs on this machine, several at a time."""

import io
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from detrnb.study import here


class _Slow(io.StringIO):
    """A terminal that gives another thread its turn after every write."""

    def write(self, text: str) -> int:
        written = super().write(text)
        time.sleep(0.01)
        return written


def test_runs_at_a_time_say_a_line_at_a_time(monkeypatch):
    monkeypatch.setattr(here, "_process", lambda job, environment, alone: 0)
    monkeypatch.setattr(here._Machine, "prepare", lambda *given: None)
    monkeypatch.setattr(sys, "stdout", said := _Slow())
    jobs = [SimpleNamespace(name=f"run-{number}", is_trained=True) for number in range(6)]
    assert here.run_here(jobs, 3, lambda job: None) == {}
    lines = said.getvalue().splitlines()
    assert sorted(line for line in lines if line.endswith("begins")) == [
        f"{job.name} begins" for job in jobs
    ]
    assert sum(" of 6 ended" in line for line in lines) == 6 and len(lines) == 12


def test_a_run_that_is_refused_or_ends_otherwise_stops_no_other(monkeypatch):
    monkeypatch.setattr(here, "_process", lambda job, environment, alone: 3)
    monkeypatch.setattr(here._Machine, "prepare", lambda *given: None)
    jobs = [
        SimpleNamespace(name=name, is_trained=name != "cut", home=Path("runs/second/200"))
        for name in ("cut", "odd", "well")
    ]
    kept = []

    def done(job):
        if job.name == "odd":
            raise ValueError("was trained by other code")
        kept.append(job.name)

    for workers in (1, 2):
        failed = here.run_here(jobs, workers, done)
        told = "exit code 3" + ", see runs/second/200/cut.txt" * (workers > 1)
        assert failed == {"cut": told, "odd": "was trained by other code"}
    assert kept == ["well"] * 2


def test_data_are_made_on_the_gpu_of_the_run_that_comes_first(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    made = []
    monkeypatch.setattr(here, "in_process", lambda *given, environment: made.append(environment))
    machine = here._Machine(2)
    with machine.place(), machine.place() as environment:
        machine.prepare(SimpleNamespace(home=tmp_path, config=None), environment)
    assert [found["CUDA_VISIBLE_DEVICES"] for found in made] == ["5"]
