"""The probe's numbers, and that it leaves a training as it was."""

import copy

import numpy as np
import pytest
import torch

from detrnb import VARIANTS, Config, fit, variant
from detrnb.model import EncoderAttention
from detrnb.runs.folder import RunFolder
from detrnb.settings.config import DataConfig
from detrnb.training.device import make_accelerator
from detrnb.training.prepare import Prepared, open_data, prepare
from detrnb.training.probing import first_epoch, largest_size, probe, seconds_per_step

SMALL = {
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 1,
    "model.dropout": 0.2,
    "data.toy.num_images": (12, 4, 4),
    "train.batch_size": 4,
    "train.epochs": 2,
}
IMAGES = {
    "data.train_sizes": (96, 128),
    "data.max_size": 160,
    "data.eval_size": 96,
    "train.cache_features": False,
    "train.lr_backbone": 1e-5,
}


@pytest.fixture(autouse=True, scope="module")
def _project(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        yield


def prepared(config: Config, state: dict | None = None) -> Prepared:
    accelerator = make_accelerator(config.train.precision)
    return prepare(config, accelerator, open_data(config, accelerator), state)


def log_of(name: str) -> list[dict]:
    log = RunFolder(f"runs/{name}").read_log()
    return [{k: v for k, v in line.items() if not k.endswith("_time_s")} for line in log]


def test_a_first_epoch_by_itself_gives_what_the_run_logs_of_it(capsys):
    config = Config.preset("smoke", overrides=SMALL)
    run = fit(config, name="whole")
    line = RunFolder(run.path).read_log()[0]
    logged = {k: v for k, v in line.items() if k.startswith("train_") and k != "train_time_s"}
    assert first_epoch(config) == logged


def test_run_with_a_probe_equals_one_without(monkeypatch, capsys):
    config = Config.preset("smoke", overrides={**SMALL, **IMAGES})
    fit(config, name="without")  # 6 steps are too few for a probe
    assert "s a step" not in capsys.readouterr().out
    taken = []
    monkeypatch.setattr("detrnb.training.probing.PROBED_STEPS", 2)
    monkeypatch.setattr("detrnb.training.probing.PROBED_SHARE", 1.0)
    monkeypatch.setattr(
        "detrnb.training.probing.probe", lambda *given: taken.append(probe(*given)) or taken[-1]
    )
    fit(config, name="with")
    assert log_of("with") == log_of("without")
    told = capsys.readouterr().out
    assert f"{taken[0].step_s:.2f} s a step, about 0:0" in told
    assert "with the largest batch, 4 x 3 x 128 x 128" in told


def test_a_probe_leaves_running_means_as_they_were(monkeypatch):
    class Counting(EncoderAttention):
        def __init__(self, d_model, num_heads, dropout):
            super().__init__(d_model, num_heads, dropout)
            self.register_buffer("passes", torch.zeros(()))

        def forward(self, x, pos, padding_mask=None, grid=None):
            self.passes += self.training
            return super().forward(x, pos, padding_mask, grid)

    monkeypatch.setitem(VARIANTS, "counting", None)  # which takes it out again
    del VARIANTS["counting"]
    variant("counting", part="encoder_attention")(Counting)
    config = Config.preset("smoke", variant="counting", overrides=SMALL)
    ready = prepared(config)
    probe(ready, config, 2)
    (passes,) = [b for name, b in ready.core.named_buffers() if name.endswith("passes")]
    assert passes == 0


@pytest.mark.parametrize("settings", [{}, IMAGES], ids=["features", "images"])
def test_probe_times_real_steps_and_undoes_them(settings):
    config = Config.preset("smoke", overrides={**SMALL, **settings})
    ready = prepared(config)
    state = {k: x.clone() for k, x in ready.model.state_dict().items()}
    rates = [group["initial_lr"] for group in ready.optimizer.param_groups]
    found = probe(ready, config, steps=2)
    assert 0 < found.step_s < 60
    assert found.peak_memory_mb > 100
    assert found.largest == ((4, 3, 128, 128) if settings else None)
    assert all(torch.equal(x, ready.model.state_dict()[k]) for k, x in state.items())
    assert [group["initial_lr"] for group in ready.optimizer.param_groups] == rates
    assert not ready.optimizer.state_dict()["state"]
    assert all(p.grad is None for p in ready.model.parameters())


def test_probe_puts_the_optimizer_of_a_resumed_run_back():
    config = Config.preset("smoke", overrides=SMALL)
    run = fit(config, name="resumed")
    state = torch.load(run.path / "last.pt", weights_only=True)
    before = copy.deepcopy(state["optimizer"])  # the optimizer goes on with the tensors it is given
    ready = prepared(config, state)
    probe(ready, config, steps=1)
    after = ready.optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for key, moments in before["state"].items():
        assert all(torch.equal(x, after["state"][key][name].cpu()) for name, x in moments.items())


def test_too_large_a_batch_is_told_before_training(monkeypatch):
    config = Config.preset("smoke", overrides={**SMALL, **IMAGES})
    ready = prepared(config)

    def exhausted(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("detrnb.training.probing.train_one_epoch", exhausted)
    with pytest.raises(ValueError, match="a batch of 4 x 3 x 128 x 128 does not fit the memory"):
        probe(ready, config, steps=1)


def test_seconds_per_step_begins_no_run():
    before = sorted(RunFolder("runs").path.iterdir())
    config = Config.preset("smoke", overrides=SMALL)
    assert 0 < seconds_per_step(config, steps=2) < 60
    assert sorted(RunFolder("runs").path.iterdir()) == before


def test_reading_counts_where_no_worker_does_it_meanwhile(monkeypatch):
    config = Config.preset("smoke", overrides={**SMALL, **IMAGES})
    ready = prepared(config)
    clock = iter([0.0, 8.0, 10.0, 11.0, 12.0])  # 4 s to read a batch, 1 s to step
    monkeypatch.setattr("detrnb.training.probing.time.perf_counter", lambda: next(clock))

    def stepped(*args, on_step, **kwargs):
        for _ in range(3):
            on_step(0.0)

    monkeypatch.setattr("detrnb.training.probing.train_one_epoch", stepped)
    assert probe(ready, config, steps=2).step_s == 5.0


SIZES = np.array([[640.0, 480.0], [480.0, 640.0], [1000.0, 400.0]])


@pytest.mark.parametrize(
    ("settings", "sizes", "batch", "expected"),
    [
        # A wide image beside a tall one: 800 x 1066 and 1066 x 800, 1332 x 533.
        ({"crop": False}, SIZES, 2, (1066, 1332)),
        ({"crop": False}, SIZES, 1, (1066, 800)),
        ({"crop": False}, SIZES[:1], 2, (800, 1066)),
        ({"crop": True}, SIZES[:1], 2, (1250, 1250)),  # crops of 384 x 600 and 600 x 384
        ({"train_sizes": None, "crop": False, "flip": False}, SIZES, 2, (640, 1000)),
    ],
)
def test_largest_batch_is_as_high_as_the_highest_and_as_wide_as_the_widest(
    settings, sizes, batch, expected
):
    assert largest_size(DataConfig(**settings), sizes, batch) == expected
