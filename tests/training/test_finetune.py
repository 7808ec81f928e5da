"""The preset `finetune`, on the toy backbone: from a run's weights, on data of other classes."""

import pytest

from detrnb import Config, fit, load_run
from detrnb.runs.folder import RunFolder
from detrnb.settings.config import PRESETS

SMALL = {
    **{key: value for key, value in PRESETS["smoke"].items() if not key.startswith("train.")},
    "data.toy.num_images": (12, 4, 4),
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 1,
    "train.epochs": 1,
    "train.batch_size": 4,
}


@pytest.fixture(scope="module", autouse=True)
def _project(tmp_path_factory):
    """A folder to run in, with a run on four digits to start from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        fit(Config.preset("smoke", overrides=SMALL), name="digits")
        yield


def two_digits(**train: object) -> Config:
    stated = {"model.num_classes": None, "data.path": "data/two", "data.toy.digits": (0, 7)}
    stated |= {
        f"train.{key}": value for key, value in {"init_from": "runs/digits", **train}.items()
    }
    return Config.preset("finetune", overrides={**SMALL, **stated})


def test_finetuning_resolves_what_the_data_tells_and_says_what_it_starts_from(capsys):
    config = two_digits()
    run = fit(config)
    told = capsys.readouterr().out
    assert "starts from weights of runs/digits: " in told
    assert "reset for 2 classes instead of 4: class_embed.weight, class_embed.bias" in told
    assert "12 images, 4 a step: 3 steps an epoch, 3 in 1 epochs" in told
    settings = RunFolder(run.path).read_config()
    assert settings["model"]["num_classes"] == 2
    assert (settings["train"]["lr_drop"], settings["train"]["warmup"]) == (1, 0.1)
    assert load_run(run.path).config == run.config
    # Asked for again, it is the same run, though planning might now give something else.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detrnb.settings.planning.WARMUP_MOST", 0.5)
        patch.setattr("detrnb.training.run.prepare", None)
        assert fit(config).path == run.path


def test_finetuning_runs_without_official_weights():
    run = fit(two_digits(init_from=None, lr=5e-4), name="scratch")
    assert len(run.log) == 1
