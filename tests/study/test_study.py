"""The second study: what it is made of, its stages, what it keeps, and what it refuses."""

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
import torch
from shared_weights import shared_names

import detrnb
from detrnb import build_detr
from detrnb.commands import main
from detrnb.compare import Control, Family, PlannedEntry, StudyPlan, Trials
from detrnb.compare.records import read_record
from detrnb.runs import RunFolder
from detrnb.settings import Config
from detrnb.study import Slurm, Study, engine, second_study, state_of, status
from detrnb.training import code_of

TINY = {"data.toy.num_images": [8, 4, 4], "train.epochs": 4, "train.batch_size": 4}
LATER = "2999-01-01T00:00:00+00:00"


def settled(plan: StudyPlan, **changed) -> StudyPlan:
    """A draft with a rate for every entry that is tried."""
    entries = [
        e if e.rate_of else e.model_copy(update={"tried": (0.5, 1.0, 2.0), "rate": 1.0})
        for e in plan.entries
    ]
    stated = {"entries": tuple(entries), "frozen": "2020-01-01T00:00:00+00:00", **changed}
    return StudyPlan.of(plan.model_copy(update=stated).model_dump(mode="json"))


def small_plan() -> StudyPlan:
    """Two entries and a control that takes the baseline's rate, two replicates."""

    def entry(label, variant="detr", **more):
        return PlannedEntry(label=label, variant=variant, replicates=2, overrides=TINY, **more)

    return StudyPlan(
        name="second-smoke",
        preset="smoke",
        entries=(
            entry("detr"),
            entry("adaptive_res", "adaptive_res"),
            entry("twin", rate_of="detr", weights=1000),
        ),
        families=(Family(name="ideas", baseline="detr", entries=("adaptive_res",)),),
        controls=(Control(entry="twin", baseline="detr", expected="neither"),),
        trials=Trials(epochs=1),
    )


def test_entries_replicates_families_and_controls_are_the_designs():
    plan = second_study()
    replicates = {entry.label: entry.replicates for entry in plan.entries}
    twelve = {"detr", "adaptive_res", "efficient_attention", "efficient_attention_position"}
    twelve |= {"svd_split", "conditional"}
    assert {label for label, n in replicates.items() if n == 12} == twelve
    assert {label for label, n in replicates.items() if n == 3} == {
        *("no_encoder", "detr_3_epochs", "detr_12_epochs"),
    }
    assert sum(n == 6 for n in replicates.values()) == 13
    untried = {entry.label for entry in plan.entries if entry.rate_of}
    assert untried == {x for x in replicates if "+" in x or x in ("twin", "no_encoder")} | {
        *("detr_3_epochs", "detr_9_epochs", "detr_12_epochs"),
    }
    assert {f.name: (f.baseline, len(f.entries)) for f in plan.families} == {
        "the journal's": ("detr", 4),
        "published": ("detr", 8),
        "joined": ("conditional", 4),
    }
    assert {c.entry: (c.expected, c.decisive) for c in plan.controls} == {
        "twin": ("neither", False),
        "detr_9_epochs": ("better", False),
        "no_encoder": ("worse", True),
        "conditional": ("better", False),
    }
    assert (plan.delta, plan.level, plan.first) == (0.02, 0.05, 200)
    assert plan.trials.replicates == (100, 101) and plan.trials.factors == (0.5, 1.0, 2.0)
    assert second_study(half=True).trials.epochs == 3


def test_entries_of_a_replicate_share_all_but_their_change_rate_and_length():
    plan = settled(second_study())
    changed = [
        e.model_copy(update={"rate": 2.0}) if e.label == "conditional" else e for e in plan.entries
    ]
    plan = plan.model_copy(update={"entries": tuple(changed)})
    base = plan.config("detr", 203)
    assert (base.data.toy.seed, base.train.seed, base.train.precision) == (203, 203, "fp32")
    for entry in plan.entries:
        config = plan.config(entry.label, 203)
        assert config.data == base.data
        own = {"lr", "seed", "epochs"}
        assert config.train.model_dump(exclude=own) == base.train.model_dump(exclude=own)
        assert config.train.seed == (1203 if entry.label == "twin" else 203)
        assert config.train.lr == base.train.lr * (2 if "conditional" in entry.label else 1)
    assert plan.config("detr_9_epochs", 200).train.epochs == 9
    joined = plan.config("conditional+efficient_attention_position", 200).model
    assert joined.variant == "conditional+efficient_attention"
    assert joined.options["efficient_attention"]["query_softmax"] == "position"
    assert plan.config("no_encoder", 200).model.num_encoder_layers == 0


def test_entries_of_a_replicate_share_their_initial_weights():
    plan = settled(second_study("smoke"))
    torch.manual_seed(200)
    weights = build_detr(plan.config("detr", 200).model).state_dict()
    for label in ("conditional+svd_split", "group"):
        config = plan.config(label, 200)
        torch.manual_seed(config.train.seed)
        state = build_detr(config.model).state_dict()
        for name in shared_names(weights, state, config.model.variant):
            assert torch.equal(state[name], weights[name]), (label, name)


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """A project whose runs take no time; gives the names of those trained, and what they reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "second_study", lambda preset, half=False: small_plan())
    monkeypatch.setattr(Study, "time_steps", lambda self: None)
    trained, reach = [], {}

    def run_here(jobs, workers, done):
        for job in jobs:
            assert not job.is_trained
            trained.append(job.name)
            write_ended(job, reach.get(job.name, 0.3))
            done(job)
        return []

    monkeypatch.setattr(engine, "run_here", run_here)
    return trained, reach


def write_ended(job, ap, **provenance):
    """What a run leaves behind; one without AP diverged."""
    folder = job.run.create(job.config.model_dump(mode="json"))
    begun = {"started": LATER, "code": code_of(job.config), "wall_time_s": 60.0}
    folder.write_provenance({**begun, "seed": job.config.train.seed, **provenance})
    for part in ("data", "runs/features"):
        (job.home / part).mkdir(parents=True, exist_ok=True)
    if ap is None:
        folder.write_failed("loss is not finite")
        return
    for epoch in range(job.config.train.epochs):
        line = {"train_loss": 1.0, "test_coco_eval_bbox": [ap, *[0.1] * 11], "epoch": epoch}
        folder.append_log(line)
    if job.tested:
        folder.write_test("test2017", epoch, [ap, *[-1.0] * 11], {"0": ap}, 1.0)


def test_study_tries_rates_settles_a_plan_and_trains_what_it_says(quick, capsys):
    trained, reach = quick
    reach |= {
        f"adaptive_res-x{x}-e1-s{s}": 0.3 + y
        for s in (100, 101)
        for x, y in (("1", 0.0), ("2", 0.1), ("4", 0.2), ("8", 0.1))
    }
    reach["detr-x2-e1-s101"] = None  # diverges: counts as 0, so its mean is low
    reach["detr-x2-e1-s100"] = 0.5
    reach |= {f"detr-x1-e1-s{s}": 0.35 for s in (100, 101)}
    assert main(["study", "--preset", "smoke"]) == 0
    assert [name for name in trained if name.startswith("detr")] == [
        f"detr-x{x}-e1-s{s}" for s in (100, 101) for x in ("0.5", "1", "2")
    ]
    assert {name for name in trained if "x4" in name or "x8" in name} == {
        f"adaptive_res-x{x}-e1-s{s}" for s in (100, 101) for x in (4, 8)
    }
    assert trained.index("adaptive_res-x2-e1-s100") < trained.index("detr-x1-e1-s101")
    told = capsys.readouterr().out
    assert "adaptive_res: settled; rates tried, times the preset's: 0.5, 1, 2, 4, 8" in told
    assert "0.35" not in told  # trials' AP are shown nowhere

    assert main(["study", "--preset", "smoke", "--plan"]) == 0
    study = Study("smoke")
    plan = study.plan
    assert plan.hash in capsys.readouterr().out and study.is_settled
    assert (plan.entry("adaptive_res").rate, plan.entry("detr").rate) == (4.0, 1.0)
    assert plan.entry("adaptive_res").tried == (0.5, 1.0, 2.0, 4.0, 8.0)
    assert plan.code.items() >= code_of(plan.config("adaptive_res", 200)).items()
    assert not (Path("runs/second-smoke/100") / "data").exists()
    assert main(["study", "--preset", "smoke", "--plan"]) == 1
    assert "nothing in it changes" in capsys.readouterr().err

    trained.clear()
    assert main(["study", "--preset", "smoke"]) == 0
    order = [f"{e}-s{r}" for r in (200, 201) for e in ("detr", "adaptive_res", "twin")]
    assert trained == order
    told = capsys.readouterr().out
    assert "6 of 6 runs are kept, 0 of them diverged; 0 begun" in told
    assert "6 of them of the plan's code" in told
    kept = study.folder / "judged" / "twin-s201"
    assert read_record(kept).study == {"plan": plan.hash, "entry": "twin", "replicate": 201}
    assert {path.name for path in kept.iterdir() if path.is_file()} == {
        *("config.json", "log.txt", "provenance.json", "test.json"),
    }
    main(["study", "--preset", "smoke"])
    assert trained == order  # nothing twice


def test_what_half_length_trials_lose_is_said(quick, monkeypatch, capsys):
    _, reach = quick

    def draft(preset, half=False):
        return small_plan().model_copy(update={"trials": Trials(epochs=1 if half else None)})

    monkeypatch.setattr(engine, "second_study", draft)
    reach |= {f"detr-x1-e1-s{s}": 0.4 for s in (100, 101)}
    reach |= {f"detr-x1-s{s}": 0.45 for s in (100, 101)}
    reach |= {f"detr-x2-s{s}": 0.456 for s in (100, 101)}
    for half in ([], ["--half"]):
        assert main(["study", "--preset", "smoke", "--only", "detr", *half]) == 0
    told = capsys.readouterr().out
    assert "detr: half-length trials choose 1; lost by it at full length: 0.006 AP" in told


def write_plan(**changed) -> Study:
    """Settle the small plan, with the code as it is."""
    study = Study("smoke")
    plan = settled(study.plan)
    code = {}
    for entry in plan.entries:
        code |= code_of(plan.config(entry.label, 200))
    settled(study.plan, code=code, **changed).write(study.plan_path)
    return Study("smoke")


def test_images_and_features_go_when_a_replicates_runs_are_all_kept(quick):
    study = write_plan()
    first, *others = list(study.judged_jobs.values())
    write_ended(first, 0.3)
    study.collect()
    assert (first.home / "data").exists() and first.is_kept
    for job in others[:2]:
        write_ended(job, 0.3)
    study.collect()
    assert not (first.home / "data").exists() and not (first.home / "runs/features").exists()
    assert not first.run.path.exists() and first.is_kept


def test_a_judged_run_that_diverges_is_kept_as_such_and_not_tried_again(quick):
    trained, reach = quick
    study = write_plan()
    reach["adaptive_res-s201"] = None
    study.run()
    failed = study.judged("adaptive_res", 201)
    assert failed.has_failed and failed.run.path.exists() and len(trained) == 6
    assert "adaptive_res: 2 of 2, 1 diverged; 1:00 each" in state_of(study)
    assert Study("smoke").left() == []


def test_status_says_what_is_missing_begun_and_how_long(quick):
    study = write_plan()
    done, begun, *_ = list(study.judged_jobs.values())
    write_ended(done, 0.3)
    write_ended(begun, 0.3)
    begun.run.test_path.unlink()
    study.collect()
    told = state_of(study)
    assert "1 of 6 runs are kept, 0 of them diverged; 1 begun" in told
    assert "detr: 1 of 2; 1:00 each; missing: 201" in told
    assert "adaptive_res-s200: 4 of 4 epochs, in" in told
    assert "about 5:00 left" in told


@pytest.mark.parametrize(
    "provenance, why",
    [
        ({"started": "2019-01-01T00:00:00+00:00"}, "before the plan"),
        ({"code": {"model/detr.py": "another"}}, "other code than the plan's \\(model/detr.py"),
        ({"code": None}, "code that is not known"),
    ],
)
def test_runs_of_another_code_or_before_the_plan_are_refused(quick, provenance, why):
    study = write_plan()
    job = study.judged("detr", 200)
    write_ended(job, 0.3, **provenance)
    with pytest.raises(ValueError, match=f"{why}.*delete it, and it is trained anew"):
        study.collect()


def test_code_that_is_not_the_plans_trains_nothing(quick, capsys):
    trained, _ = quick
    study = write_plan()
    code = study.plan.code | {"model/detr.py": "another"}
    settled(small_plan(), code=code).write(study.plan_path)
    assert main(["study", "--preset", "smoke"]) == 1
    assert "model/detr.py differ; train from a clone" in capsys.readouterr().err
    assert not trained


def test_kept_run_of_another_config_is_refused(quick):
    study = write_plan()
    job = study.judged("detr", 200)
    write_ended(job, 0.3)
    study.collect()
    settings = job.kept.read_config()
    settings["train"]["lr"] = 1.0
    job.kept.create(settings)
    with pytest.raises(ValueError, match="of another config .train.lr differ.*delete the folder"):
        Study("smoke").left()


def test_unknown_entries_are_refused(quick):
    with pytest.raises(ValueError, match="no entry dert; there are detr, adaptive_res, twin"):
        Study("smoke", only=["dert"])


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
    settled(study.plan).write(study.plan_path)
    study = Study("smoke")
    jobs = study.left()
    assert main(["study", "--preset", "smoke", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(jobs) == 12 * 6 + 6 * 13 + 3 * 3
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
    monkeypatch.setattr(engine, "second_study", lambda preset, half=False: small_plan())
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

    assert len(broken) == 4 and study.collect() == 1
    job.run.path.rename(tmp_path / "broken")
    job.kept.path.rename(tmp_path / "kept")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert engine.run_here([job], 1, study.keep) == []
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


def test_simulation_is_of_the_plan_before_and_after_it_is_settled(quick, monkeypatch, capsys):
    real = status.simulated
    monkeypatch.setattr(status, "simulated", lambda plan, spread: real(plan, spread, studies=2))
    asked = ["study", "--preset", "smoke", "--simulate", "--spread", "0.02"]
    assert main(asked) == 0
    before = capsys.readouterr().out
    assert "pairs spreading by 0.02" in before and "ideas  0.00" in before
    plan = small_plan()
    more = [e.model_copy(update={"replicates": 10}) for e in plan.entries if e.label == "detr"]
    plan = plan.model_copy(update={"entries": (*more, *plan.entries[1:])})
    monkeypatch.setattr(engine, "second_study", lambda preset, half=False: plan)
    study = write_plan()
    for replicate in range(200, 210):
        write_ended(study.judged("detr", replicate), 0.3 + 0.01 * (replicate % 3))
    study.collect()
    assert main(asked) == 0
    assert "detr against itself, its 10 runs split at random" in capsys.readouterr().out
    assert main(["study", "--simulate"]) == 2
