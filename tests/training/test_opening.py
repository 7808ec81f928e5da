"""Run folders as they are found in life: read-only, torn, of another version, from elsewhere."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from detrnb import Config, fit, load_run
from detrnb.compare import read_record
from detrnb.runs import read_log
from detrnb.runs.folder import RunFolder
from detrnb.training.opening import read_state_of

TINY = {
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 1,
    "data.toy.num_images": (8, 4, 4),
    "train.batch_size": 4,
    "train.epochs": 2,
}
CONFIG = Config.preset("smoke", overrides=TINY)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with one finished run, whose best epoch is the first."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fit(CONFIG, name="a")
    state = torch.load(folder / "runs/a/best.pt", weights_only=True)
    assert state["epoch"] == 0
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch) -> RunFolder:
    """A copy of that run, in a project of its own."""
    shutil.copytree(made, tmp_path / "project")
    (tmp_path / "project" / "notebooks").mkdir()
    (tmp_path / "project" / "pyproject.toml").write_text("")
    monkeypatch.chdir(tmp_path / "project")
    return RunFolder(Path("runs/a"))


def changes(path: Path, **keys: object) -> None:
    """Change a JSON file's keys; None takes one out."""
    content = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def log_of(folder: RunFolder) -> list[dict]:
    return [{k: v for k, v in e.items() if not k.endswith("_time_s")} for e in folder.read_log()]


def test_finished_run_is_opened_without_a_write(folder, monkeypatch):
    def state() -> dict:
        return {str(p): p.stat().st_mtime_ns for p in sorted(folder.path.rglob("*"))}

    def refused(*given, **named):
        raise PermissionError("read-only")

    before = state()
    for name in ("write_whole", "copy_whole", "append_whole", "remove_left_over"):
        monkeypatch.setattr(f"detrnb.runs.folder.{name}", refused)
    for name in ("mkdir", "makedirs", "replace", "truncate"):
        monkeypatch.setattr(os, name, refused)
    assert len(load_run(folder.path).log) == len(fit(CONFIG, name="a").log) == 2
    assert state() == before


def test_checkpoint_is_read_once_and_by_mapping(folder, monkeypatch):
    load, check, read = torch.load, zipfile.ZipFile.testzip, []

    def loading(*given, **named):
        read.append(("mapped", named["mmap"], named["weights_only"]))
        return load(*given, **named)

    monkeypatch.setattr(torch, "load", loading)
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda a: read.append("checked") or check(a))
    load_run(folder.path)
    assert read == ["checked", ("mapped", True, True)]
    read.clear()
    read_state_of(folder)
    assert read == ["checked", ("mapped", True, True)]


def test_run_is_found_from_the_projects_folder_and_from_notebooks(folder, monkeypatch):
    monkeypatch.chdir("notebooks")
    assert load_run("runs/a").path == Path.cwd().parent / "runs/a"
    assert len(read_log("runs/a")) == len(read_record("runs/a").lines) == 2
    shutil.copytree("../runs/a", "runs/a")  # the current folder's own comes first
    assert load_run("runs/a").path == Path("runs/a")
    with pytest.raises(ValueError, match=r"runs/b/config\.json is missing"):
        load_run("runs/b")


@pytest.mark.parametrize(
    ("checkpoint", "other", "epoch"), [("last", "best", 1), ("best", "last", 2)]
)
def test_torn_checkpoint_is_named_and_a_sound_one_offered(folder, checkpoint, other, epoch):
    halve(getattr(folder, checkpoint))
    with pytest.raises(ValueError) as caught:
        load_run(folder.path, checkpoint)
    assert f"{checkpoint}.pt is cut off" in str(caught.value)
    assert f"{other}.pt is sound, of epoch {epoch}: load_run(path, '{other}')" in str(caught.value)
    assert len(load_run(folder.path, other).log) == 2
    halve(getattr(folder, other))
    with pytest.raises(ValueError, match=r"sound copy is needed$"):
        load_run(folder.path, checkpoint)


def test_torn_checkpoint_goes_on_from_the_best_as_the_message_says(folder):
    whole = log_of(folder)
    folder.log_path.write_text(folder.log_path.read_text().splitlines(keepends=True)[0])
    halve(folder.last)
    with pytest.raises(ValueError) as caught:
        fit(CONFIG, name="a")
    remedy = "to go on after epoch 1, copy it over last.pt and keep the first 1 lines of log.txt"
    assert "last.pt is cut off" in str(caught.value) and remedy in str(caught.value)
    shutil.copy(folder.best, folder.last)
    fit(CONFIG, name="a")
    assert log_of(folder) == whole


def test_checkpoint_that_is_no_runs_is_refused_where_training_would_go_on(folder):
    folder.log_path.write_text(folder.log_path.read_text().splitlines(keepends=True)[0])
    folder.best.unlink()
    state = torch.load(folder.last, weights_only=True)
    torch.save({"model": state["model"], "epoch": 0}, folder.last)
    with pytest.raises(
        ValueError, match="it lacks optimizer, scaler, .* delete the folder to train"
    ):
        fit(CONFIG, name="a")
    torch.save({**state, "model": {"weight": torch.zeros(2)}}, folder.last)
    with pytest.raises(ValueError, match=r"last\.pt does not hold the model of .*config\.json"):
        fit(CONFIG, name="a")


def test_checkpoints_of_earlier_and_later_versions_open(folder):
    state = torch.load(folder.last, weights_only=True)
    expected = load_run(folder.path).model.state_dict()
    early = {key: value for key, value in state.items() if key != "classes"}
    for content in (early, {**state, "later": {"a": [1]}}):
        torch.save(content, folder.last)
        run = load_run(folder.path)
        assert all(torch.equal(x, expected[n]) for n, x in run.model.state_dict().items())
        assert run.class_names == ("0", "3", "4", "7")


def test_settings_of_a_later_version_are_said_to_be_that(folder):
    config = json.loads(folder.config_path.read_text())
    changes(folder.config_path, model={**config["model"], "later": True})
    changes(folder.provenance_path, versions={"detrnb": "9.1.0"})
    said = r"config\.json is of another version of detrnb \(9\.1\.0 there, .*'model\.later'"
    with pytest.raises(ValueError, match=said):
        load_run(folder.path)
    with pytest.raises(ValueError, match=said):
        fit(CONFIG, name="a")
    folder.provenance_path.unlink()
    with pytest.raises(ValueError, match=r"detrnb \(unknown there"):
        load_run(folder.path)


@pytest.mark.parametrize("lacking", ["data", "global_batch"])
def test_run_whose_provenance_lacks_what_it_began_with_goes_on_and_says_so(folder, lacking, capsys):
    folder.log_path.write_text(folder.log_path.read_text().splitlines(keepends=True)[0])
    shutil.copy(folder.best, folder.last)
    changes(folder.provenance_path, **{lacking: None})
    fit(CONFIG, name="a")
    said = f"provenance.json does not say {lacking}: whether the run goes on as it began was not"
    assert said in capsys.readouterr().out
    assert lacking in folder.read_provenance()
    fit(CONFIG, name="new")
    assert "does not say" not in capsys.readouterr().out


def test_run_whose_provenance_is_gone_goes_on_and_says_so(folder, capsys):
    folder.log_path.write_text(folder.log_path.read_text().splitlines(keepends=True)[0])
    shutil.copy(folder.best, folder.last)
    folder.provenance_path.unlink()
    fit(CONFIG, name="a")
    assert "does not say data and global_batch: whether the run" in capsys.readouterr().out


def test_features_that_cannot_be_read_are_named_and_computed_again(folder, capsys):
    kept = sorted(Path("runs/features").iterdir())
    halve(kept[0])
    torch.save({"other": 3}, kept[1])
    (kept[0].parent / "killed.tmp").write_bytes(b"x")
    os.utime(kept[0].parent / "killed.tmp", (1, 1))
    run = fit(CONFIG, name="b")
    said = capsys.readouterr().out
    assert f"{kept[0].name} is cut off" in said
    assert f"{kept[1].name} holds no features of images; computed again" in said
    assert log_of(RunFolder(run.path)) == log_of(folder)
    assert sorted(Path("runs/features").iterdir()) == kept
    fit(CONFIG, name="c")
    assert "computed again" not in capsys.readouterr().out
