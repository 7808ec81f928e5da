"""The stages of the second study: what it keeps, what it says, what it refuses."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from small_study import settled, small_plan, write_ended, write_plan

from detrnb.commands import main
from detrnb.compare import Trials
from detrnb.compare.records import read_record
from detrnb.runs import copy_whole
from detrnb.study import Study, engine, jobs, state_of, status
from detrnb.training import code_of

TIME_STEPS = Study.time_steps  # which `quick` replaces


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

    def draft(preset, full=False):
        return small_plan().model_copy(update={"trials": Trials(epochs=None if full else 1)})

    monkeypatch.setattr(engine, "second_study", draft)
    reach |= {f"detr-x1-e1-s{s}": 0.4 for s in (100, 101)}
    reach |= {f"detr-x1-s{s}": 0.45 for s in (100, 101)}
    reach |= {f"detr-x2-s{s}": 0.456 for s in (100, 101)}
    for length in ([], ["--full"]):
        assert main(["study", "--preset", "smoke", "--only", "detr", *length]) == 0
    told = capsys.readouterr().out
    assert "detr: half-length trials choose 1; lost by it at full length: 0.006 AP" in told


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


def test_status_is_of_the_entries_that_are_asked_for(quick, capsys):
    study = write_plan()
    for replicate in (200, 201):
        write_ended(study.judged("detr", replicate), 0.3)
    only = ["study", "--preset", "smoke", "--status", "--only"]
    assert main([*only, "detr"]) == 0
    told = capsys.readouterr().out
    assert "2 of 2 runs are kept" in told and "adaptive_res" not in told
    assert "all are there" not in told  # of the study, for verdicts, they are not
    assert main([*only, "twin"]) == 0
    assert "missing: 200, 201" in capsys.readouterr().out


@pytest.mark.parametrize(
    "provenance, why",
    [
        ({"started": "2019-01-01T00:00:00+00:00"}, "before the plan"),
        ({"code": {"model/detr.py": "another"}}, "other code than the plan's \\(model/detr.py"),
        ({"code": None}, "code that is not known"),
    ],
)
def test_runs_of_another_code_or_before_the_plan_are_refused_and_stop_no_other(
    quick, provenance, why, capsys
):
    study, (trained, _) = write_plan(), quick
    job = study.judged("detr", 200)
    write_ended(job, 0.3, **provenance)
    assert main(["study", "--preset", "smoke", "--status"]) == 0
    told = capsys.readouterr().out
    assert re.search(f"not kept: .*{why}.*delete it, and it is trained anew", told)
    assert "0 of 6 runs are kept" in told and not job.is_kept
    assert main(["study", "--preset", "smoke"]) == 1
    assert re.search(f"ended otherwise: detr-s200 .*{why}", capsys.readouterr().out)
    assert len(trained) == 5 and not job.is_kept


def test_two_studies_in_one_place_are_refused_and_a_look_beside_one_keeps_nothing(quick, capsys):
    trained, _ = quick
    study = write_plan()
    job = study.judged("detr", 200)
    write_ended(job, 0.3)
    with study._alone():
        assert main(["study", "--preset", "smoke"]) == 1
        assert "another `detrnb study` trains second-smoke here" in capsys.readouterr().err
        assert main(["study", "--preset", "smoke", "--status"]) == 0
        assert not job.is_kept and not trained
        assert main(["study", "--preset", "smoke", "--plan"]) == 1
        assert "another `detrnb study` trains second-smoke here" in capsys.readouterr().err
    assert main(["study", "--preset", "smoke", "--status"]) == 0
    assert job.is_kept


def test_a_trial_counts_as_kept_only_once_all_of_it_is(quick, monkeypatch):
    trial = Study("smoke").trial(Study("smoke").plan.entry("detr"), 1.0, 100)
    write_ended(trial, 0.3)
    room = []

    def copy(source, target):
        if not room:
            raise OSError("No space left on device")
        copy_whole(source, target)
        room.pop()

    monkeypatch.setattr(jobs, "copy_whole", copy)
    for files in (0, 1):
        room[:] = [None] * files
        with pytest.raises(OSError, match="No space left"):
            trial.keep({})
        assert not trial.is_kept
    room[:] = [None] * 9
    trial.keep({})
    assert trial.is_kept and trial.kept.read_provenance()["code"]
    shutil.rmtree(trial.run.path)
    with pytest.raises(ValueError, match="is not there"):
        trial.keep({})
    assert trial.kept.read_provenance()["code"]


def test_code_that_is_not_the_plans_trains_nothing(quick, capsys):
    trained, _ = quick
    study = write_plan()
    code = study.plan.code | {"model/detr.py": "another"}
    settled(small_plan(), code=code).write(study.plan_path)
    assert main(["study", "--preset", "smoke"]) == 1
    assert "model/detr.py differ; train from a clone" in capsys.readouterr().err
    assert not trained


def test_a_plan_that_is_not_committed_trains_nothing(quick, capsys):
    trained, _ = quick
    write_plan()
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert main(["study", "--preset", "smoke"]) == 1
    assert "plan.json is not committed as it is; commit it" in capsys.readouterr().err
    assert not trained
    subprocess.run([*git, "add", "data"], check=True)
    subprocess.run([*git, "commit", "-qm", "plan"], check=True)
    assert main(["study", "--preset", "smoke"]) == 0
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("ignored", [True, False])
def test_where_git_tells_of_no_plan_that_is_said(ignored, quick, monkeypatch, capsys):
    write_plan()
    if ignored:
        subprocess.run(["git", "init", "-q"], check=True)
        Path(".gitignore").write_text("data\n")
    else:
        monkeypatch.setenv("PATH", "")
    assert main(["study", "--preset", "smoke"]) == 0
    assert "plan.json is in no repository, or one that ignores it" in capsys.readouterr().err


def test_rates_that_were_tried_with_other_code_settle_no_plan(quick, capsys):
    assert main(["study", "--preset", "smoke"]) == 0
    study = Study("smoke")
    for label, file in (("detr", "model/detr.py"), ("adaptive_res", "variants/adaptive_res.py")):
        kept = study.trial(study.plan.entry(label), 1.0, 101).kept
        about = kept.read_provenance() | {"git_commit": f"commit of {label}"}
        kept.write_provenance(about | {"code": about["code"] | {file: "another"}})
    assert main(["study", "--preset", "smoke", "--plan"]) == 1
    told = capsys.readouterr().err
    assert "2 trials were trained by other code than what is here (model/detr.py, variants" in told
    assert "from a clone at their commit (commit of adaptive_res, commit of detr), or" in told
    assert not Study("smoke").is_settled


def test_steps_are_timed_after_the_data_are_made_another_entry_first_each_time(quick, monkeypatch):
    study = write_plan()
    for job in study.judged_jobs.values():
        write_ended(job, 0.3)
    study.collect()
    done = []

    def in_process(home, compute, config, *rest):
        done.append((int(home.name), compute.__name__, config.train.seed, config.model.variant))
        return 0.1

    monkeypatch.setattr(engine, "in_process", in_process)
    TIME_STEPS(study)
    assert done == [
        (200, "make_data", 200, "detr"),
        (200, "seconds_per_step", 200, "detr"),
        (200, "seconds_per_step", 200, "adaptive_res"),
        (200, "seconds_per_step", 1200, "detr"),
        (201, "make_data", 201, "detr"),
        (201, "seconds_per_step", 201, "adaptive_res"),
        (201, "seconds_per_step", 1201, "detr"),
        (201, "seconds_per_step", 201, "detr"),
    ]
    TIME_STEPS(study)
    assert len(done) == 8  # once


def test_kept_run_of_another_config_is_refused(quick):
    study = write_plan()
    job = study.judged("detr", 200)
    write_ended(job, 0.3)
    study.collect()
    settings, provenance = job.kept.read_config(), job.kept.read_provenance()
    settings["train"]["lr"] = 1.0
    job.kept.create(settings)
    job.kept.write_provenance(provenance)
    with pytest.raises(ValueError, match="of another config .train.lr differ.*delete the folder"):
        Study("smoke").left()


def test_unknown_entries_are_refused(quick):
    with pytest.raises(ValueError, match="no entry dert; there are detr, adaptive_res, twin"):
        Study("smoke", only=["dert"])


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
    monkeypatch.setattr(engine, "second_study", lambda preset, full=False: plan)
    study = write_plan()
    for replicate in range(200, 210):
        write_ended(study.judged("detr", replicate), 0.3 + 0.01 * (replicate % 3))
    study.collect()
    assert main(asked) == 0
    assert "detr against itself, its 10 runs split at random" in capsys.readouterr().out
    assert main(["study", "--simulate"]) == 2
