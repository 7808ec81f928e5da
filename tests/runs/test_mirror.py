"""The copy of a run folder: whole files at any time, and a run that goes on from it."""

import shutil

import pytest

from detrnb import Config, fit
from detrnb.datasets import fingerprint, split_paths
from detrnb.runs.folder import RunFolder
from detrnb.runs.mirror import Mirror, bring_back, mirror_of
from detrnb.runs.writing import copy_whole
from detrnb.training import TrainingDiverged, keep_test

TINY = {
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 1,
    "data.toy.num_images": (4, 2, 2),
    "train.batch_size": 4,
    "train.epochs": 3,
}


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunFolder:
    """A run folder of one epoch, and where its copy goes."""
    monkeypatch.setenv("DETRNB_MIRROR", str(tmp_path / "drive"))
    folder = RunFolder(tmp_path / "runs" / "a-run").create({"train": {"epochs": 2}})
    folder.last.write_bytes(b"weights 1")
    folder.append_log({"epoch": 0})
    return folder


def test_update_copies_what_changed(run, monkeypatch):
    copied = []
    monkeypatch.setattr(
        "detrnb.runs.mirror.copy_whole", lambda a, b: (copied.append(a.name), copy_whole(a, b))
    )
    mirror = Mirror(run)
    mirror.update()
    assert copied == ["config.json", "last.pt", "log.txt"]
    run.last.write_bytes(b"weights 2!")
    run.append_log({"epoch": 1})
    mirror.update()
    assert copied[3:] == ["last.pt", "log.txt"]
    assert (mirror.copy / "last.pt").read_bytes() == b"weights 2!"
    assert sorted(path.name for path in mirror.copy.iterdir()) == sorted(copied[:3])


def test_whole_folder_is_copied_and_brought_back_but_for_what_passes(run):
    run.write_variants({"my_idea": "class Mine: ...\n"})
    run.write_test("test2017", 0, [0.5] * 12, {"0": 0.5}, 1.0)
    run.write_thresholds({"overall": {"threshold": 0.4}})
    run.write_failed("loss is nan")
    run.nonfinite.write_bytes(b"step")
    (run.path / "tensorboard").mkdir()
    (run.path / "tensorboard" / "events").write_bytes(b"told")
    run.lock.acquire()
    for passing in (".last.pt.elsewhere.1.0.tmp", ".lock.abc.claim", "variants/.a.py.x.1.0.tmp"):
        (run.path / passing).write_text("{}")
    Mirror(run).update()
    run.lock.release()
    shutil.rmtree(run.path)
    bring_back(run)
    found = {str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file()}
    assert found == {
        *("config.json", "log.txt", "last.pt", "test.json", "thresholds.json", "failed.json"),
        *("nonfinite.pt", "variants/my_idea.py", "tensorboard/events"),
    }
    assert run.read_variants() == {"my_idea": "class Mine: ...\n"}
    assert run.read_test()["coco_eval_bbox"] == [0.5] * 12


def test_copy_that_is_cut_short_is_no_run_without_the_source_of_its_variants(run, monkeypatch):
    run.write_variants({"my_idea": "class Mine: ...\n"})

    def cut(source, target):
        copy_whole(source, target)
        raise OSError("Transport endpoint is not connected")

    mirror = Mirror(run)
    with monkeypatch.context() as patch:
        patch.setattr("detrnb.runs.mirror.copy_whole", cut)
        mirror.update()
    assert (mirror.copy / "variants" / "my_idea.py").exists()
    assert not (mirror.copy / "config.json").exists()


def test_failure_that_a_new_try_took_back_is_taken_back_in_the_copy(run):
    run.write_failed("loss is nan")
    mirror = Mirror(run)
    mirror.update()
    assert (mirror.copy / "failed.json").exists()
    run.failed_path.unlink()  # as `fit` does when it tries again
    Mirror(run).update()
    assert (mirror.copy / "last.pt").exists() and not (mirror.copy / "failed.json").exists()


def test_killed_copy_leaves_the_older_whole_file(run, monkeypatch):
    mirror = Mirror(run)
    mirror.update()
    run.last.write_bytes(b"weights 2!")
    run.append_log({"epoch": 1})

    def killed(source, target):
        target.write(source.read(3))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", killed)
        with pytest.raises(KeyboardInterrupt):
            mirror.update()
    assert (mirror.copy / "last.pt").read_bytes() == b"weights 1"
    assert len(RunFolder(mirror.copy).read_log()) == 1
    shutil.rmtree(run.path)
    bring_back(run)
    assert run.last.read_bytes() == b"weights 1"
    assert not list(run.path.glob("*.tmp"))


def test_training_goes_on_without_a_copy_that_fails(run, monkeypatch, capsys):
    def disconnected(source, target):
        raise OSError("Transport endpoint is not connected")

    mirror = Mirror(run)
    with monkeypatch.context() as patch:
        patch.setattr("detrnb.runs.mirror.copy_whole", disconnected)
        mirror.update()
    assert "a-run was not copied to" in capsys.readouterr().out
    mirror.update()
    assert (mirror.copy / "last.pt").read_bytes() == b"weights 1"


def test_folder_behind_its_copy_is_refused(run):
    Mirror(run).update()
    bring_back(run)  # as far as its copy: stays
    run.log_path.unlink()
    with pytest.raises(ValueError, match="holds 0 epochs, its copy .* holds 1: delete"):
        bring_back(run)


def test_copy_of_another_run_of_that_name_is_left_alone(run, capsys):
    Mirror(run).update()
    theirs = sorted((path.name, path.read_bytes()) for path in mirror_of(run).iterdir())
    shutil.rmtree(run.path)
    mine = RunFolder(run.path).create({"train": {"epochs": 3}})
    mine.append_log({"epoch": 0})
    with pytest.raises(ValueError, match="is the copy of another run of this name than .*a-run"):
        bring_back(mine)
    Mirror(mine).update()
    assert "a-run is not copied: " in capsys.readouterr().out
    assert sorted((p.name, p.read_bytes()) for p in mirror_of(run).iterdir()) == theirs


def test_deleted_run_comes_back_aloud_or_not_where_only_a_new_one_is_wanted(run, capsys):
    Mirror(run).update()
    shutil.rmtree(run.path)
    with pytest.raises(ValueError, match=r"gone, but its copy .*a-run holds .* delete the copy"):
        bring_back(run, resume="never")
    assert not run.path.exists()
    bring_back(run)
    said = capsys.readouterr().out
    assert "a-run: brought back from" in said and "as far as epoch 1" in said
    assert "to be rid of it deletes that copy too" in said


def test_lock_is_of_one_machine_and_is_not_copied(run):
    run.lock.acquire()
    mirror = Mirror(run)
    mirror.update()
    assert not (mirror.copy / "lock.json").exists()
    for passing in ("lock.json", ".lock.abc.claim"):  # as of a folder copied by hand
        (mirror.copy / passing).write_text("{}")
    run.lock.release()
    shutil.rmtree(run.path)
    bring_back(run)
    assert run.last.exists() and not list(run.path.glob("*lock*"))


def test_place_of_the_copy(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "runs" / "a-run")
    monkeypatch.delenv("DETRNB_MIRROR", raising=False)
    monkeypatch.setattr("detrnb.runs.mirror.DRIVE", tmp_path / "MyDrive")
    assert mirror_of(folder) is None  # not mounted
    (tmp_path / "MyDrive").mkdir()
    assert mirror_of(folder) == tmp_path / "MyDrive" / "detrnb" / "runs" / "a-run"
    monkeypatch.setenv("DETRNB_MIRROR", "")
    assert mirror_of(folder) is None
    monkeypatch.setenv("DETRNB_MIRROR", str(tmp_path / "runs"))
    assert mirror_of(folder) is None  # the folder itself


def test_what_comes_after_the_last_epoch_is_copied_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETRNB_MIRROR", str(tmp_path / "drive"))
    config = Config.preset("smoke", overrides=TINY | {"train.epochs": 1})
    run = fit(config, name="tested")
    keep_test(run)
    kept = RunFolder(tmp_path / "drive" / "tested").read_test()
    _, annotations = split_paths(run.config.data, "test2017")
    assert (kept["split"], kept["data"]) == ("test2017", fingerprint(annotations))

    def diverge(config, folder, state):
        raise TrainingDiverged("loss is nan")

    monkeypatch.setattr("detrnb.training.run._train", diverge)
    with pytest.raises(TrainingDiverged):
        fit(config, name="diverged")
    assert (tmp_path / "drive" / "diverged" / "failed.json").exists()


def test_lost_runs_are_brought_back_and_end_as_the_unbroken(tmp_path, monkeypatch, capsys):
    def log_of(folder: RunFolder) -> list[dict]:
        lines = folder.read_log()
        return [{k: v for k, v in line.items() if not k.endswith("_time_s")} for line in lines]

    monkeypatch.chdir(tmp_path)
    config = Config.preset("smoke", overrides=TINY)
    unbroken = fit(config, name="unbroken")
    monkeypatch.setenv("DETRNB_MIRROR", str(tmp_path / "drive"))
    update = Mirror.update

    def disconnect(self):
        update(self)
        if len(self.folder.read_log()) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "update", disconnect)
        with pytest.raises(KeyboardInterrupt):
            fit(config, name="broken")
    shutil.rmtree(tmp_path / "runs" / "broken")
    run = fit(config, name="broken")
    assert "broken: brought back from" in capsys.readouterr().out
    assert log_of(RunFolder(run.path)) == log_of(RunFolder(unbroken.path))
    assert log_of(RunFolder(tmp_path / "drive" / "broken")) == log_of(RunFolder(unbroken.path))
    fit(config, name="broken")
    assert f"delete it and its copy {tmp_path / 'drive' / 'broken'}" in capsys.readouterr().out
