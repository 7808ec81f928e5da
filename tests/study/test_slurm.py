"""Runs as lines of a shell and as tasks of a cluster: what they state, how they go on."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_study import settled, small_plan, write_ended, write_plan

import detrnb
from detrnb.commands import main
from detrnb.runs import RunFolder
from detrnb.settings import Config
from detrnb.study import Slurm, Study, engine, origin


def typed(line: str) -> tuple[str, Config]:
    """The home and the settings that a line of a shell states."""
    home, *words = shlex.split(line)
    words = words[words.index("train") + 1 :]
    options = {
        words[i]: words[i + 1]
        for i in range(len(words))
        if words[i].startswith("--") and words[i] != "--test"
    }
    settings = [word.partition("=") for word in words if "=" in word]
    config = Config.preset(
        options["--preset"],
        variant=options["--variant"],
        seed=int(options["--seed"]),
        overrides={key: json.loads(value) for key, _, value in settings},
    )
    return home.partition("=")[2], config


def test_every_line_states_its_runs_settings_wholly(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    study = Study("smoke")
    code = origin.code_of_entries(study.plan, {entry.label for entry in study.plan.entries})
    settled(study.plan, code=code).write(study.plan_path)
    study = Study("smoke")
    jobs = study.left()
    assert main(["study", "--preset", "smoke", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(jobs) == 12 * 6 + 6 * 14 + 3 * 2
    for job, line in list(zip(jobs, lines, strict=True))[:24]:  # every entry
        assert typed(line) == (str(job.home), job.config)
        assert line.split()[1:3] == ["detrnb", "train"] and "--test" in line


def test_dry_run_shows_the_script_and_submits_nothing(quick, monkeypatch, capsys):
    write_plan()
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("submitted"))
    asked = ["--time", "2:00:00", "--partition", "short", "--gpus", "2"]
    assert main(["study", "--preset", "smoke", "--on", "slurm", "--dry-run", *asked]) == 0
    script = capsys.readouterr().out
    for option in ("array=1-6", "requeue", "time=2:00:00", "partition=short", "gres=gpu:2"):
        assert f"#SBATCH --{option}\n" in script
    assert "torch.distributed.run --standalone --nproc-per-node 2 -m detrnb train" in script
    assert main(["study", "--preset", "smoke", "--gpus", "2"]) == 2
    assert "of --on slurm" in capsys.readouterr().err
    monkeypatch.setattr(Study, "left", lambda self: [])
    assert main(["study", "--preset", "smoke", "--on", "slurm", "--dry-run"]) == 1
    assert "nothing of second-smoke is left to train" in capsys.readouterr().err


def test_a_run_takes_as_many_images_a_step_on_several_gpus(quick, capsys):
    """As the plan states them; what took more is no run of the plan."""
    study = write_plan()
    job = study.judged("detr", 200)
    assert [typed(line)[1].train.batch_size for line in Slurm(gpus=2).lines([job])] == [2]
    assert typed(Slurm(gpus=1).lines([job])[0])[1] == job.config
    with pytest.raises(ValueError, match="batch_size 4 cannot be shared out among 3 GPUs"):
        study.script(Slurm(gpus=3))

    write_ended(job.shared_out(2), 0.3, processes=2)
    study.collect()
    assert study.judged("detr", 200).is_kept
    write_ended(study.judged("twin", 200), 0.3, processes=2)
    capsys.readouterr()
    study.collect()
    assert (
        "another config (train.batch_size x train.accumulate x processes" in capsys.readouterr().out
    )
    assert not study.judged("twin", 200).is_kept


def test_runs_that_have_ended_are_kept_and_not_listed(quick, capsys):
    study = write_plan()
    write_ended(study.judged("detr", 200), 0.3)
    write_ended(study.judged("twin", 200), 0.3, code=None)
    assert main(["study", "--preset", "smoke", "--list"]) == 0
    shown = capsys.readouterr()
    assert study.judged("detr", 200).is_kept
    lines = shown.out.splitlines()
    assert len(lines) == 5 and all(" detrnb train " in line for line in lines)
    assert "not kept: " in shown.err  # apart from what a shell is to run


def test_full_is_refused_once_trials_are_over(quick, capsys):
    trained, _ = quick
    study = write_plan()
    assert main(["study", "--preset", "smoke", "--full"]) == 2
    told = capsys.readouterr().err
    assert f"--full is of trials, which are over: {study.plan_path} is settled" in told
    assert not trained


def test_only_jobs_of_ones_own_are_waited_for(quick, monkeypatch):
    asked = []

    def said(command):
        asked.append(command)
        return "7_1\n" if command[0] == "squeue" else ""

    monkeypatch.setattr("detrnb.study.slurm._said", said)
    monkeypatch.setattr("shutil.which", lambda name: name)
    with pytest.raises(ValueError, match=r"queued or running \(7_1\).* scancel --me --name x"):
        write_plan().submit(Slurm("x"))
    assert "--me" in asked[0]


def test_without_slurm_the_remedy_is_said(quick, monkeypatch):
    study = write_plan()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="no sbatch here.*--list"):
        study.submit(Slurm("x"))


def untimed(folder: RunFolder) -> list[dict]:
    return [
        {key: value for key, value in line.items() if not re.search("time", key)}
        for line in folder.read_log()
    ]


def test_a_task_that_is_queued_again_ends_with_the_log_of_an_unbroken_run(tmp_path, monkeypatch):
    """The script as SLURM runs it: warned, it asks to be queued again, and is killed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "second_study", lambda preset, full=False: small_plan())
    study = write_plan()
    job = study.judged("detr", 200)
    slurm, folder = Slurm("x"), tmp_path / "slurm"
    folder.mkdir()
    (folder / "lines").write_text(slurm.lines([job])[0] + "\n")
    (folder / "job.sh").write_text(slurm.script(1, folder))
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "scontrol").write_text('#!/bin/bash\necho "$@" >asked; pkill -TERM -P $PPID\n')
    (tools / "scontrol").chmod(0o755)
    environment = os.environ | {
        **{"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "1"},
        "PATH": f"{tools}:{os.environ['PATH']}",
    }
    task = subprocess.Popen(["bash", str(folder / "job.sh")], env=environment)
    while not job.run.last.exists():
        assert task.poll() is None
        time.sleep(0.05)
    task.send_signal(signal.SIGUSR1)
    task.wait()
    assert (tmp_path / "asked").read_text() == "requeue 7_1\n"
    assert not job.is_trained
    assert subprocess.run(["bash", str(folder / "job.sh")], env=environment).returncode == 0
    broken = untimed(job.run)

    study.collect()
    assert len(broken) == 4 and job.is_kept
    job.run.path.rename(tmp_path / "broken")
    job.kept.path.rename(tmp_path / "kept")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert engine.run_here([job], 1, study.keep) == {}
    assert untimed(job.kept) == broken
    assert (
        job.kept.read_test()["coco_eval_bbox"]
        == RunFolder(tmp_path / "kept").read_test()["coco_eval_bbox"]
    )


def test_a_run_whose_study_is_killed_ends_with_it(tmp_path):
    """By SIGKILL, so that it can do nothing about it itself."""
    child = (
        "import time\nfrom detrnb.commands import tied\ntied.tie()\n"
        "print('begun', flush=True)\ntime.sleep(600)\n"
    )
    program = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE)\n"
        "time.sleep(600)\n"
    )
    study = subprocess.Popen(
        [sys.executable, "-c", program],
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
