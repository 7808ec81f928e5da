"""The study trains every entry under equal conditions, goes on where it stopped, keeps little."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from shared_weights import shared_names

import detrnb
from detrnb import build_detr
from detrnb.commands import main
from detrnb.runs.folder import RunFolder
from detrnb.settings.registry import BASELINE
from detrnb.study import Entry, plan, run_study, study_entries
from detrnb.training import code_of


class InThisProcess(ThreadPoolExecutor):
    def __init__(self, workers: int, **of_processes: object) -> None:
        super().__init__(workers)


def test_the_journals_ideas_and_the_control_have_enough_seeds_to_be_judged():
    seeds = {entry.label: entry.seeds for entry in study_entries()}
    ideas = ("adaptive_res", "efficient_attention", "svd_split")
    assert seeds.pop("efficient_attention_position") == 3
    assert {label for label, count in seeds.items() if count == 6} == {
        BASELINE,
        "no_encoder",
        *ideas,
    }
    assert {label for label in seeds if "+" in label} == {
        "adaptive_res+efficient_attention",
        "adaptive_res+svd_split",
    }


def test_entries_of_a_seed_differ_in_the_model_only_and_share_their_initial_weights():
    first = [(entry, config) for entry, config in plan("smoke") if config.train.seed == 0]
    baseline = first[0][1]
    torch.manual_seed(baseline.train.seed)
    weights = build_detr(baseline.model).state_dict()
    assert len(first) == len(study_entries())
    for entry, config in first:
        assert (config.data, config.train) == (baseline.data, baseline.train)
        torch.manual_seed(config.train.seed)
        state = build_detr(config.model).state_dict()
        for name in shared_names(weights, state, entry.variant):
            assert torch.equal(state[name], weights[name]), (entry.label, name)


def test_study_goes_on_where_it_stopped_and_keeps_what_a_verdict_needs(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    # None: planned when the run began, and still that run's afterwards.
    small = {"data.toy.num_images": (8, 4, 4), "train.epochs": 1, "train.warmup": None}
    entries = [Entry(name, name, 1, small) for name in ("detr", "adaptive_res")]
    monkeypatch.setattr("detrnb.study.entries.study_entries", lambda: entries[:1])
    monkeypatch.setattr("detrnb.study.engine.TIMED_STEPS", 2)
    assert main(["study", "--preset", "smoke"]) == 0
    monkeypatch.setattr("detrnb.study.entries.study_entries", lambda: entries)
    capsys.readouterr()
    # Processes were tried once; each takes seconds to start.
    monkeypatch.setattr("detrnb.study.engine.ProcessPoolExecutor", InThisProcess)
    folder = run_study("smoke")
    told = [
        line for line in capsys.readouterr().out.splitlines() if "seed" in line or "are" in line
    ]
    assert [re.sub(r"\d\.\d{3} s", "T s", line) for line in told] == [
        "1 of 2 runs are there",
        "adaptive_res, seed 0: 1 of 1",
        # Beside each other, though the first was timed before.
        "detr, seed 0: T s a step",
        "adaptive_res, seed 0: T s a step",
    ]
    assert RunFolder(folder / "detr-s0").read_timing().keys() == {"step_s", "steps"}
    assert sorted(path.name for path in folder.iterdir()) == ["adaptive_res-s0", "detr-s0"]
    kept = {path.name for path in (folder / "adaptive_res-s0").iterdir()}
    assert kept - {"test.json", "timing.json"} == {
        "config.json",
        "log.txt",
        "provenance.json",
        "history.npz",
    }
    test = RunFolder(folder / "detr-s0").read_test()
    assert test["split"] == "test2017" and test["epoch"] == 0
    settings = RunFolder(folder / "detr-s0").read_config()
    del settings["train"]["clip_max_norm"]  # as if a later version had added it
    RunFolder(folder / "detr-s0").create(settings)
    run_study("smoke")
    assert capsys.readouterr().out == "2 of 2 runs are there\n"


def test_kept_run_of_another_config_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, config = next(plan("smoke"))
    settings = config.model_dump(mode="json")
    settings["train"]["lr"] = 1.0
    folder = RunFolder(tmp_path / "data" / "study" / "smoke" / "detr-s0")
    folder.create(settings)
    folder.write_test("test2017", 0, [0.0] * 12, {}, 1.0)
    assert main(["study", "--preset", "smoke"]) == 1
    assert "detr-s0 is of another config (train.lr differ)" in capsys.readouterr().err
    with pytest.raises(ValueError, match="delete the folder"):
        run_study("smoke")


def test_study_says_of_which_code_its_runs_are_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    planned = list(plan("smoke"))[:3]
    monkeypatch.setattr("detrnb.study.engine.plan", lambda preset: planned)
    monkeypatch.setattr("detrnb.study.engine._time", lambda runs: None)
    for number, (entry, config) in enumerate(planned):
        folder = RunFolder(tmp_path / "data" / "study" / "smoke" / f"{entry.label}-s0")
        settings = config.model_dump(mode="json")
        settings["data"]["num_workers"] = 3  # changes no number
        folder.create(settings)
        folder.write_test("test2017", 0, [0.0] * 12, {}, 1.0)
        code = code_of(config) | ({"model/detr.py": "another"} if number == 1 else {})
        folder.write_provenance({"precision": "bf16"} if number == 2 else {"code": code})
    run_study("smoke")
    assert capsys.readouterr().out.splitlines() == [
        "3 of 3 runs are there",
        "1 of them: trained by other code than there is now: model/detr.py (precision unknown)",
        "1 of them: trained by code that is not known, since 0.1 kept no hash of it"
        " (precision bf16)",
    ]


def test_study_that_is_ended_ends_the_run_it_trains(tmp_path):
    """By SIGKILL, so that it can do nothing about it itself."""
    program = """
import time
from detrnb.study.engine import _process
def sleep():
    print("begun", flush=True)
    time.sleep(600)
if __name__ == "__main__":
    with _process() as process:
        process.submit(sleep).result()
"""
    (tmp_path / "ended.py").write_text(program)
    study = subprocess.Popen(
        [sys.executable, "ended.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(detrnb.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert study.stdout.readline() == "begun\n"
    study.kill()
    assert study.stdout.read() == ""  # ends when the child does, which holds the other side
    study.wait()
    study.stdout.close()
