"""The copy of a run folder: whole files at any time, and a run that goes on from it."""

import shutil

import pytest

from detrnb import Config, fit
from detrnb.runs.folder import RunFolder
from detrnb.runs.mirror import Mirror, bring_back, mirror_of
from detrnb.runs.writing import copy_whole

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
    (mirror.copy / "lock.json").write_text("{}")  # as of a folder copied by hand
    run.lock.release()
    shutil.rmtree(run.path)
    bring_back(run)
    assert run.last.exists() and not run.lock.path.exists()


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
