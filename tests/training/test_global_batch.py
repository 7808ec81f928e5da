"""A step's losses: accumulated batches as one, means without what is unknown, fp16's scale."""

import math
from contextlib import nullcontext

import pytest
import torch
from accelerate import Accelerator
from features import batch

from detrnb.model.detr import build_criterion, build_detr
from detrnb.settings.config import Config
from detrnb.training.device import make_accelerator
from detrnb.training.global_batch import TrainingDiverged
from detrnb.training.loop import _Averages, train_one_epoch
from detrnb.training.prepare import build_optimizer, rate_factor

SMALL = {"model.num_encoder_layers": 1, "model.num_decoder_layers": 2, "train.warmup": 0.0}


def joined(*batches: tuple) -> tuple:
    features, masks, targets = zip(*batches, strict=True)
    return torch.cat(features), torch.cat(masks), sum(targets, [])


def train(batches: list[tuple], scaler: object = None, **settings: object) -> tuple:
    """The log's part with the gradients' norms, and the model after these batches and before."""
    overrides = SMALL | {f"train.{key}": value for key, value in settings.items()}
    config = Config.preset("smoke", overrides=overrides)
    torch.manual_seed(0)
    model, criterion = build_detr(config.model, train_backbone=False), build_criterion(config.model)
    accelerator = make_accelerator("fp32")
    optimizer = build_optimizer(model, config.train)
    if scaler is not None:
        accelerator.scaler, accelerator.native_amp, accelerator.autocast = scaler, True, nullcontext
        optimizer = accelerator.prepare_optimizer(optimizer)
    # Steps do not depend on the gradients' scale, so neither losses nor weights would show it.
    norms, clip = [], accelerator.clip_grad_norm_
    accelerator.clip_grad_norm_ = lambda *args: (norms.append(clip(*args)), norms[-1])[1]
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    log = train_one_epoch(
        model,
        criterion,
        batches,
        optimizer,
        accelerator,
        epoch=0,
        accumulate=config.train.accumulate,
        clip_max_norm=config.train.clip_max_norm,
        rate_factor=rate_factor(config.train, len(batches) // config.train.accumulate),
    )
    log |= {f"norm {step}": norm.item() for step, norm in enumerate(norms)}
    return log, model, start


def test_accumulated_batches_equal_the_large_one():
    """Also where one of them has no boxes; their means over two steps weigh steps alike."""
    parts = [batch((3, 1), 1), batch((0, 0), 2), batch((2, 0), 3), batch((1, 4), 4)]
    large, model, start = train([joined(*parts[:2]), joined(*parts[2:])])
    small, other, _ = train(parts, accumulate=2)
    assert small == pytest.approx(large, rel=1e-5)
    ours, theirs = (torch.cat([p.flatten() for p in m.parameters()]) for m in (other, model))
    moved = theirs - torch.cat([p.flatten() for p in start.values()])
    assert (ours - theirs).norm() < 1e-3 * moved.norm()
    alone, _, _ = train(parts)
    assert alone["train_loss"] != pytest.approx(large["train_loss"], rel=1e-3)


def test_class_error_is_the_mean_over_batches_with_boxes():
    with_boxes, without = batch((3, 1), 1), batch((0, 0), 2)
    log, _, _ = train([with_boxes, without], lr=1e-9)
    alone, _, _ = train([with_boxes], lr=1e-9)
    assert log["train_class_error"] == alone["train_class_error"]
    assert log["train_class_error_unscaled"] == alone["train_class_error"]
    assert log["train_loss"] < alone["train_loss"]  # of both
    log, _, _ = train([without])
    assert math.isnan(log["train_class_error"]) and math.isfinite(log["train_loss"])


def test_every_parameter_has_a_gradient_even_without_boxes():
    """Else processes would wait for it: they add up gradients parameter by parameter.

    Of variants `check_variant` asks it.
    """
    config = Config.preset("smoke", overrides=SMALL)
    model, criterion = build_detr(config.model, train_backbone=False), build_criterion(config.model)
    features, mask, targets = batch((0, 0), 1)
    outputs = model(None, mask, features=features, targets=targets)
    criterion.total(criterion(outputs, targets, model.layout(targets))).backward()
    lacking = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not lacking


def test_means_leave_out_what_is_unknown():
    averages = _Averages()
    for value in (1.0, math.nan, 4.0):
        averages.add({"class_error": value, "loss": 3.0})
    assert averages.means() == {"class_error": 2.5, "loss": 3.0}


def test_non_finite_loss_in_an_early_pass_names_its_images():
    spoiled = batch((2, 1), 5)
    spoiled[2][1]["boxes"][0, 0] = math.inf
    with pytest.raises(TrainingDiverged, match=r"at epoch 1, step 1 .* image ids \[50, 51\]"):
        train([spoiled, batch((1, 1), 6)], accumulate=2)


def test_step_waits_for_the_device_once_beside_each_matching(monkeypatch):
    """Counted are the ways in which Python reads a tensor; `tolist` is the step's own."""
    waits = []

    def counting(name: str) -> None:
        method = getattr(torch.Tensor, name)

        def counted(self, *given, **named):
            waits.append(name)
            return method(self, *given, **named)

        monkeypatch.setattr(torch.Tensor, name, counted)

    for name in (
        "item",
        "tolist",
        "cpu",
        "nonzero",
        *(f"__{n}__" for n in ("bool", "float", "int")),
    ):
        counting(name)
    parts = [batch((3, 1), 1), batch((0, 2), 2), batch((2, 0), 3), batch((1, 4), 4)]
    train(parts, accumulate=2)
    assert waits[: 2 * 3] == ["cpu", "cpu", "tolist"] * 2


@pytest.fixture
def as_fp16(monkeypatch):
    """accelerate's bookkeeping of fp16, whose arithmetic needs a GPU: that was not run."""
    monkeypatch.setattr(Accelerator, "mixed_precision", "fp16")


def scaled(init: float) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=init, growth_interval=1000)


def test_scaled_gradients_are_unscaled_before_they_are_clipped(as_fp16):
    batches = [batch((3, 1), 1), batch((2, 2), 2)]
    plain, model, _ = train(batches)
    log, other, _ = train(batches, scaler=scaled(2.0**12))
    assert log.pop("train_skipped_steps") == 0
    assert log == pytest.approx(plain, rel=1e-5)
    for ours, theirs in zip(other.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_step_whose_scaled_gradients_overflow_is_skipped_and_counted_and_the_scale_halved(as_fp16):
    scaler = scaled(2.0**127)
    log, model, start = train([batch((3, 1), 1)], scaler=scaler)
    assert log["train_skipped_steps"] == 1
    assert scaler.get_scale() == 2.0**126
    assert math.isfinite(log["train_loss"])
    assert all(torch.equal(p, start[name]) for name, p in model.named_parameters())


def test_gradients_that_no_scale_makes_finite_stop_the_run(as_fp16, monkeypatch):
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *a, **k: torch.tensor(math.inf))
    with pytest.raises(TrainingDiverged, match="gradient norm is not finite at epoch 1, step 1"):
        train([batch((3, 1), 1)], scaler=scaled(1.0))
