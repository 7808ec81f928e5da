"""Trackers are told settings, epochs and pictures; what fails in them fails alone."""

from pathlib import Path

import numpy as np
import pytest
from interrupting import interrupted

from detrnb import Config, fit
from detrnb.training import tracking

SMALL = {
    "data.toy.num_images": (16, 4, 4),
    "train.batch_size": 8,
    "train.epochs": 2,
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 1,
}
TOLD = SMALL | {"train.trackers": ("tensorboard",)}


class Noting:
    """A tracker that notes what it is told; the first argument of a call is kept."""

    name = "tensorboard"
    requires_logging_directory = True
    notes: list

    def __init__(self, run_name: str, logging_dir: Path, **options: object) -> None:
        self.notes.append(("open", {"place": Path(logging_dir) / run_name, **options}, None))

    def store_init_configuration(self, values: dict) -> None:
        self.notes.append(("settings", values, None))

    def log(self, values: dict, step: int) -> None:
        self.notes.append(("log", values, step))

    def log_images(self, values: dict, step: int, **form: object) -> None:
        self.notes.append(("images", values, step))

    def finish(self) -> None:
        self.notes.append(("finish", None, None))


@pytest.fixture
def notes(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found: list = []
    monkeypatch.setattr(Noting, "notes", found, raising=False)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["tensorboard"])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Noting)
    return found


def of_kind(notes: list, kind: str) -> list:
    return [(values, step) for what, values, step in notes if what == kind]


def test_settings_epochs_and_pictures_are_told(notes):
    run = fit(Config.preset("smoke", overrides=TOLD), name="told")
    [(opened, _)] = of_kind(notes, "open")
    assert opened["place"].absolute() == (run.path / "tensorboard").absolute()
    [(settings, _)] = of_kind(notes, "settings")
    assert settings["train.epochs"] == 2 and settings["model.variant"] == "detr"
    assert all(isinstance(value, bool | int | float | str) for value in settings.values())
    logged = of_kind(notes, "log")
    assert [step for _, step in logged] == [0, 1]
    assert logged[1][0]["train_loss"] == run.log["train_loss"].iloc[1]
    assert logged[1][0]["AP"] == pytest.approx(run.log["AP"].iloc[1])
    assert "epoch" not in logged[0][0]
    pictures = of_kind(notes, "images")
    assert len(pictures) == 2 * tracking.PICTURES
    (image,) = pictures[0][0].values()
    assert image.dtype == np.uint8 and image.shape[0] == 1 and image.shape[-1] == 3
    assert notes[-1][0] == "finish"


def test_a_resumed_run_goes_on_in_the_same_place(notes):
    with interrupted("train_epoch"):
        fit(Config.preset("smoke", overrides=TOLD), name="told")
    fit(Config.preset("smoke", overrides=TOLD), name="told")
    (first, _), (second, _) = of_kind(notes, "open")
    assert first["place"] == second["place"]
    assert (first["purge_step"], second["purge_step"]) == (0, 1)
    assert len(of_kind(notes, "settings")) == 1
    assert [step for _, step in of_kind(notes, "log")] == [0, 1]


def test_a_tracker_that_fails_is_left_alone_and_said(notes, monkeypatch, capsys):
    def fail(self, values: dict, step: int) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(Noting, "log", fail)
    run = fit(Config.preset("smoke", overrides=TOLD), name="told")
    assert len(run.log) == 2
    shown = capsys.readouterr().out
    assert shown.count("warning: tensorboard is left alone from here on: no network") == 1


def test_trackers_change_neither_a_runs_numbers_nor_what_it_is(notes):
    plain = fit(Config.preset("smoke", overrides=SMALL), name="one")
    told = fit(Config.preset("smoke", overrides=TOLD), name="one")  # opens the same
    assert told.log["train_loss"].tolist() == plain.log["train_loss"].tolist()
    assert notes == []


def test_one_that_is_not_installed_is_named_before_training(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    with pytest.raises(ValueError, match=r"tensorboard not installed: pip install 'detrnb\[track"):
        fit(Config.preset("smoke", overrides=TOLD), name="told")
    with pytest.raises(ValueError, match=r"train\.trackers.*'tensorboard', 'wandb'"):
        Config.preset("smoke", overrides={"train.trackers": ("tensorbord",)})


def test_tensorboards_file_is_read_back(monkeypatch, tmp_path):
    pytest.importorskip(
        "tensorboard", reason="tensorboard is not installed; the extra trackers brings it"
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    run = fit(Config.preset("smoke", overrides=TOLD), name="told")
    events = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train_loss")] == [
        (step, pytest.approx(value)) for step, value in run.log["train_loss"].items()
    ]
    assert {e.step for e in events.Images("detections 0")} == {0, 1}
