"""Averaged weights: followed after each step, evaluated, kept, gone on with bit for bit."""

import json
from pathlib import Path

import pytest
import torch
from interrupting import interrupted

import detrnb
from detrnb import Config, fit, load_run
from detrnb.settings import PRESETS

SMALL = {
    "data.toy.num_images": (16, 4, 4),
    "train.batch_size": 8,
    "train.epochs": 3,
    "train.ema_decay": 0.9,
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 1,
}


@pytest.fixture(scope="module", autouse=True)
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        yield fit(Config.preset("smoke", overrides=SMALL), name="whole")


def state(name: str) -> dict:
    return torch.load(f"runs/{name}/last.pt", weights_only=True)


def test_averaged_weights_are_an_exponential_mean_over_steps():
    from detrnb.training.averaging import averaged

    weights = [torch.tensor([[1.0]]), torch.tensor([[3.0]]), torch.tensor([[5.0]])]
    model = torch.nn.Linear(1, 1, bias=False)
    mean = averaged(model, 0.9, None)
    for tensor in weights:
        with torch.no_grad():
            model.weight.copy_(tensor)
        mean.update_parameters(model)
    expected = 0.9 * (0.9 * 1.0 + 0.1 * 3.0) + 0.1 * 5.0
    assert mean.module.weight.item() == pytest.approx(expected)


def test_they_are_logged_as_the_relatives_do_and_read_as_columns(run):
    lines = [json.loads(line) for line in (run.path / "log.txt").read_text().splitlines()]
    assert all(len(line["ema_test_coco_eval_bbox"]) == 12 for line in lines)
    assert all(line["ema_test_loss"] > 0 for line in lines)
    assert lines[-1]["ema_test_loss"] != lines[-1]["test_loss"]
    assert "ema_AP" in run.log
    keys = list(lines[0])
    assert keys.index("n_parameters") < keys.index("ema_test_loss")  # after the reference's
    readme = (Path(detrnb.__file__).parents[1] / "data" / "README.md").read_text()
    assert "| `ema_*` | " in readme


def test_they_are_chosen_on_opening(run):
    kept = state("whole")
    opened = load_run(run.path, averaged=True)
    assert opened.averaged
    own = opened.model.state_dict()
    assert all(torch.equal(own[name].cpu(), x.cpu()) for name, x in kept["ema"].items())
    assert any(not torch.equal(kept["ema"][name], x) for name, x in kept["model"].items())
    logged = run.log["ema_AP"].iloc[-1]
    assert opened.evaluate().metrics.stats[0] == pytest.approx(logged, abs=1e-9, nan_ok=True)
    assert opened.thresholds["epoch"] == opened.epoch  # measured anew, of these weights


def test_an_interrupted_run_goes_on_bit_for_bit(run):
    config = Config.preset("smoke", overrides=SMALL)
    with interrupted("evaluate_epoch"):
        fit(config, name="broken")
    fit(config, name="broken")
    one, two = state("whole"), state("broken")
    assert one["ema_steps"] == two["ema_steps"] == 6
    assert all(torch.equal(x, two["ema"][name]) for name, x in one["ema"].items())
    assert all(torch.equal(x, two["model"][name]) for name, x in one["model"].items())


def test_they_change_nothing_of_the_training_itself(run):
    plain = fit(Config.preset("smoke", overrides=SMALL | {"train.ema_decay": None}), name="without")
    assert plain.log["train_loss"].tolist() == run.log["train_loss"].tolist()
    assert "ema_AP" not in plain.log
    with pytest.raises(ValueError, match=r"has no averaged weights; train\.ema_decay keeps some"):
        load_run(plain.path, averaged=True)


def test_no_preset_averages():
    assert all(Config.preset(name).train.ema_decay is None for name in PRESETS)
    with pytest.raises(ValueError, match="ema_decay"):
        Config.preset("toy", overrides={"train.ema_decay": 1.0})
