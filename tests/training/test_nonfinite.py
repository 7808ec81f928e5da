"""NaN and infinity: a step counts wholly or not at all, and can be made again from a file."""

import importlib
import inspect
import math
import pickle
import pkgutil
from pathlib import Path

import pytest
import torch
import toy_variants
from features import batch

import detrnb
from detrnb import Config, fit
from detrnb.commands import main
from detrnb.loss import Layout, NonFiniteError
from detrnb.model import build_criterion, build_detr
from detrnb.model.transformer import TransformerEncoder
from detrnb.runs import RunFolder
from detrnb.training import TrainingDiverged, make_accelerator, replay
from detrnb.training.device import _portable
from detrnb.training.loop import train_one_epoch
from detrnb.training.prepare import build_optimizer
from detrnb.training.run import _open_folder

SMALL = {"model.num_encoder_layers": 1, "model.num_decoder_layers": 2}


def failing_at(monkeypatch, call: int) -> None:
    """The encoder refuses what it is given in this of its passes, counted from 1."""
    forward, calls = TransformerEncoder.forward, []

    def refusing(self, *arguments):
        calls.append(1)
        if len(calls) == call:
            raise NonFiniteError("the attention to split")
        return forward(self, *arguments)

    monkeypatch.setattr(TransformerEncoder, "forward", refusing)


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_step_with_a_pass_that_fails_in_the_model_does_not_count(monkeypatch, call):
    config = Config.preset("smoke", overrides=SMALL)
    torch.manual_seed(0)
    model, criterion = build_detr(config.model, train_backbone=False), build_criterion(config.model)
    optimizer, after = build_optimizer(model, config.train), []

    def weights() -> dict:
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    after.append(weights())
    failing_at(monkeypatch, call)
    passes = [batch((2, 1), seed) for seed in range(1, 5)]
    with pytest.raises(TrainingDiverged, match="the attention to split is not finite") as error:
        train_one_epoch(
            model,
            criterion,
            passes,
            optimizer,
            make_accelerator("fp32"),
            epoch=0,
            accumulate=2,
            on_step=lambda loss: after.append(weights()),
        )
    step = (call - 1) // 2
    assert f"at epoch 1, step {step + 1} " in str(error.value)
    assert f"image ids {[10 * call, 10 * call + 1]}" in str(error.value)
    assert len(after) == step + 1
    assert all(torch.equal(tensor, after[-1][name]) for name, tensor in model.state_dict().items())
    assert [b[-1][0]["image_id"] for b in error.value.begun["batches"]] == [
        10 * (2 * step + 1),
        10 * (2 * step + 2),
    ]


TINY = {
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 1,
    "data.toy.num_images": (8, 4, 4),
    "train.batch_size": 4,
    "train.epochs": 1,
    "train.precision": "fp32",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return tmp_path_factory.mktemp("project")


@pytest.fixture(autouse=True)
def _inside(project, monkeypatch):
    monkeypatch.chdir(project)


def test_what_fails_in_evaluation_names_its_images(monkeypatch):
    config = Config.preset("smoke", overrides=TINY)
    failing_at(monkeypatch, 3)  # after two steps
    with pytest.raises(TrainingDiverged, match=r"in evaluation, image ids \[1, 2, 3, 4\]"):
        fit(config, name="evaluation")
    said = replay("runs/evaluation/nonfinite.pt")  # the patch fails once only
    assert "replayed on cpu: everything is finite; the run was on cpu" in said


@pytest.mark.parametrize("variant", ["detr", "svd_split"])
def test_run_that_diverges_keeps_the_step_and_replay_names_the_module(variant, capsys):
    """A rate of 1e25: the second step meets weights that are finite and far too large."""
    overrides = TINY | {"train.lr": 1e25, "train.warmup": 0.0, "train.epochs": 2}
    name = f"far-{variant}"
    config = Config.preset("smoke", variant=variant, overrides=overrides)
    file = f"runs/{name}/nonfinite.pt"
    with pytest.raises(TrainingDiverged, match="is not finite at epoch 1, step 2 ") as error:
        fit(config, name=name)
    assert f"detrnb train --replay {detrnb.runs.project_root() / file}" in str(error.value)
    folder = RunFolder(detrnb.runs.project_root() / "runs" / name)
    assert "is not finite at epoch 1, step 2" in folder.failed_path.read_text()
    _open_folder(folder, config)  # tried again, it has not failed yet
    assert not folder.failed_path.exists()
    assert main(["train", "--replay", file]) == 0
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first.startswith("the run ended: ") and "epoch 1, step 2" in first
    assert "batch 1 of 1: " in second and "input_proj" in second or "transformer.encoder" in second
    own = Path(toy_variants.__file__)  # which a run of one's own variant needs to be replayed
    assert main(["train", "--replay", file, "--variants", str(own)]) == 0


@pytest.fixture
def kept(project):
    """What a step of two passes began with, all of it finite, and a function that replays it."""
    config = Config.preset("smoke", overrides=SMALL)
    torch.manual_seed(0)
    model, criterion = build_detr(config.model, train_backbone=False), build_criterion(config.model)
    batches = [batch((2, 1), 1), batch((1, 3), 2)]
    targets = [target for *_, some in batches for target in some]
    return {
        "config": config.model_dump(mode="json"),
        "model": model.state_dict(),
        "batches": batches,
        "training": True,
        "random": [torch.get_rng_state()],
        "normalizers": criterion.normalizers(targets, Layout(16)),
        "precision": "no",
        "device": "another",
        "message": "loss is not finite",
    }


def replayed(kept: dict) -> str:
    torch.save(kept, "step.pt")
    return replay("step.pt").splitlines()[1].split(": ", 1)[1]


def test_replay_names_what_is_not_finite_first(kept):
    assert replayed(kept).startswith("everything is finite; the run was on another")

    kept["model"]["transformer.encoder.layers.0.linear1.weight"].mul_(1e38)
    assert replayed(kept) == (
        "batch 1 of 2: the output of transformer.encoder.layers.0.linear1 is not finite"
    )
    kept["model"]["class_embed.bias"][0] = math.nan
    assert replayed(kept).startswith("weights are not finite before the step, first class_embed.")


def test_replay_tells_features_losses_and_gradients_apart(kept, monkeypatch):
    kept["batches"][1][-1][0]["boxes"][0, 0] = math.inf
    assert replayed(kept).startswith("batch 2 of 2: the model's output is finite, but not the loss")
    kept["batches"][1][-1][0]["boxes"][0, 0] = 0.5
    kept["normalizers"][1] = 0.0
    assert replayed(kept) == "batch 1 of 2: the model's output is finite, loss_ce is not"
    kept["normalizers"][1] = 1.0
    kept["batches"][0][0][0, 0, 0, 0] = math.nan
    assert replayed(kept) == "batch 1 of 2: the features that go in are not finite"
    kept["batches"][0][0][0, 0, 0, 0] = 0.0

    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * math.inf

    forward = TransformerEncoder.forward
    monkeypatch.setattr(
        TransformerEncoder, "forward", lambda self, *given: Steep.apply(forward(self, *given))
    )
    assert replayed(kept) == (
        "batch 1 of 2: the loss is finite, its gradient by the output of"
        " transformer.encoder.layers.0.norm2 is not"
    )


def test_replay_draws_the_dropout_of_the_step(kept, monkeypatch):
    config = Config.preset("smoke", overrides=SMALL | {"model.dropout": 0.3})
    kept["config"] = config.model_dump(mode="json")
    seen = []
    monkeypatch.setattr(
        "detrnb.training.replaying.forward",
        lambda model, core, *given: (
            seen.append(core(None, given[1], features=given[0])) or seen[-1]
        ),
    )
    replayed(kept)
    torch.manual_seed(5)
    replayed(kept)
    assert torch.equal(seen[0]["pred_logits"], seen[2]["pred_logits"])
    assert torch.equal(seen[1]["pred_logits"], seen[3]["pred_logits"])


@pytest.mark.parametrize(
    "typed, complaint",
    [
        (["--preset", "smoke"], "leave out preset"),
        (["train.epochs=2", "--seed", "1"], "leave out seed, settings"),
    ],
)
def test_replay_takes_no_other_settings(typed, complaint, capsys):
    assert main(["train", "--replay", "step.pt", *typed]) == 2
    assert complaint in capsys.readouterr().err


def test_file_that_holds_no_step_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not found; expected a run's nonfinite.pt"):
        replay(tmp_path / "none.pt")
    (tmp_path / "other.pt").write_bytes(b"other")
    with pytest.raises(ValueError, match="is a text, which begins"):
        replay(tmp_path / "other.pt")
    torch.save({"model": {}}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="holds no step to replay"):
        replay(tmp_path / "weights.pt")


def test_full_disk_does_not_hide_why_training_ended(monkeypatch, capsys):
    def full(self, save):
        raise OSError("nonfinite.pt could not be written: No space left on device")

    monkeypatch.setattr("detrnb.runs.folder.RunFolder.write_nonfinite", full)
    failing_at(monkeypatch, 1)
    with pytest.raises(TrainingDiverged, match="the attention to split is not finite") as error:
        fit(Config.preset("smoke", overrides=TINY), name="full")
    assert "--replay" not in str(error.value)
    assert "warning: nonfinite.pt could not be written: No space left" in capsys.readouterr().out


def errors_of_the_package() -> set[type]:
    found = set()
    for module in pkgutil.walk_packages(detrnb.__path__, "detrnb."):
        if module.name != "detrnb.__main__":
            for thing in vars(importlib.import_module(module.name)).values():
                if isinstance(thing, type) and issubclass(thing, BaseException):
                    found |= {thing} if thing.__module__.startswith("detrnb") else set()
    return found


def test_every_error_of_the_package_reaches_another_process():
    kinds = errors_of_the_package()
    assert kinds >= {NonFiniteError, TrainingDiverged}
    for kind in kinds:
        texts = ["text"]
        if "__init__" in vars(kind):
            asked = inspect.signature(kind).parameters.values()
            texts = ["text" for argument in asked if argument.default is argument.empty]
        error = kind(*texts)
        there = pickle.loads(pickle.dumps(error))
        assert type(there) is kind and str(there) == str(error) and vars(there) == vars(error)


def test_non_finite_tensor_is_named_with_its_images():
    there = pickle.loads(pickle.dumps(NonFiniteError("pred_boxes", [1, 3])))
    assert str(there) == "pred_boxes is not finite (images [1, 3] of the batch)"
    assert (there.tensor, there.images) == ("pred_boxes", [1, 3])
    assert str(NonFiniteError("pred_boxes")) == "pred_boxes is not finite"


class _Stubborn(Exception):
    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"found {found}, expected {expected}")


def test_error_that_does_not_pickle_reaches_other_processes_in_words():
    there = _portable(_Stubborn("a", "b"))
    assert type(there) is ValueError and str(there) == "_Stubborn: found a, expected b"
    error = ValueError("plain")
    assert _portable(error) is error
