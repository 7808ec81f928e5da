"""The table of parts is wide enough: three variants of one's own do all that the package's do.

A decoder that refines anchors, grouped queries with extra ones made of noised targets, and another
criterion (toy_variants.py), each alone and all joined.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import own_parts
import pytest
import torch
import toy_variants
from interrupting import interrupted

import detrnb
from detrnb import VARIANTS, Config, build_criterion, build_detr, fit, load_run, load_weights
from detrnb.exchange import export
from detrnb.look import Subject, object_shares
from detrnb.runs import RunFolder
from detrnb.study.bench import Bench
from detrnb.training import box_spread, load_ground_truth

NAMES = [*toy_variants.NAMES, toy_variants.JOINED]
each = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a run of each."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in NAMES:
            fit(own_parts.config(name), name=name)
    return folder


@pytest.fixture(autouse=True)
def _inside(project, monkeypatch):
    monkeypatch.chdir(project)


def log_of(name: str) -> list[dict]:
    """A run's log, times aside."""
    log = RunFolder(f"runs/{name}").read_log()
    return [{k: v for k, v in line.items() if not k.endswith("_time_s")} for line in log]


@each
def test_losses_follow_from_the_layout_and_are_absent_in_evaluation(name):
    given = [key for key in log_of(name)[0] if "given" in key]
    if "noised_groups" not in name:
        assert given == []
        return
    kinds = ("loss_ce", "loss_bbox", "loss_giou", "loss_ce_0", "loss_bbox_0", "loss_giou_0")
    scaled = [f"train_given_{kind}" for kind in kinds]
    assert given == [*scaled, *(f"{key}_unscaled" for key in scaled)]
    for line in log_of(name):
        parts = [line[f"train_{kind}"] + line[f"train_given_{kind}"] for kind in kinds]
        assert line["train_loss"] == pytest.approx(sum(parts))
        assert line["train_given_loss_bbox"] == pytest.approx(
            5 * line["train_given_loss_bbox_unscaled"]
        )


@each
def test_an_interrupted_run_goes_on_to_the_log_of_the_unbroken(name):
    with interrupted("train_epoch"):
        fit(own_parts.config(name), name=f"{name}-killed")
    run = fit(own_parts.config(name), name=f"{name}-killed")
    assert log_of(f"{name}-killed") == log_of(name)
    expected = load_run(f"runs/{name}").model.state_dict()
    assert all(torch.equal(x, expected[key]) for key, x in run.model.state_dict().items())


@each
def test_a_run_is_evaluated_and_looked_at(name):
    run = load_run(f"runs/{name}")
    evaluation = run.evaluate()
    assert evaluation.metrics.stats == pytest.approx(run.log["test_coco_eval_bbox"].iloc[-1])
    found = next(iter(evaluation.detections.values()))
    assert len(found["queries"]) == (19 if "sigmoid" in name else 16)
    dataset = detrnb.open_split(run.config.data, "val2017")
    assert box_spread(load_ground_truth(dataset), evaluation.detections)["queries"] > 0
    view = Subject.from_run(run).look(0)
    assert view.recording.names == (
        "encoder.0.self",
        *(f"decoder.{layer}.{kind}" for layer in (0, 1) for kind in ("self", "cross")),
    )
    assert view.maps("decoder.1.cross").shape == (4, 16, 8, 8)
    for query, place in view.queries(0).items():
        assert view.detections["queries"][place] == query
    assert len(object_shares(view, 0.0))


# `check_variant` exports each; here is what the logits mean.
def test_exported_file_tells_the_meaning_of_another_criterions_logits(tmp_path):
    run = load_run(f"runs/{toy_variants.JOINED}")
    file = export(run, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    meaning = session.get_modelmeta().custom_metadata_map["output"]
    assert build_criterion(run.config.model).meaning in meaning
    assert "sigmoid gives scores" in meaning
    logits, _ = session.run(
        None,
        {
            "images": np.zeros((3, 3, 128, 128), np.uint8),
            "padding_mask": np.zeros((3, 128, 128), bool),
        },
    )
    assert logits.shape == (3, 16, 4)


@pytest.fixture(scope="module")
def in_two(project):
    """The same folder after two processes have trained there."""
    folder = Path(detrnb.__file__).parents[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = str(Path(own_parts.__file__))
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", script, str(project)],
        env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{folder / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return project


@pytest.mark.parametrize("name", own_parts.IN_TWO)
def test_two_processes_train_what_one_trains(in_two, name):
    """Losses over all groups and given pairs, whose normalisers are summed over the processes."""
    fit(own_parts.config(name, batch_size=8), name=f"{name}-alone")
    together, alone = log_of(f"{name}-together"), log_of(f"{name}-alone")
    for ours, theirs in zip(together, alone, strict=True):
        for key, value in theirs.items():
            if key.startswith("train_"):
                assert ours[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
    weights = [
        load_run(f"runs/{name}-{which}").model.state_dict() for which in ("together", "alone")
    ]
    for key, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][key], rtol=1e-3, atol=1e-5)


def test_weights_of_detr_load_by_name_and_shape_and_the_rest_is_told(tmp_path):
    torch.save(build_detr(own_parts.config("detr").model).state_dict(), tmp_path / "detr.pt")
    model = build_detr(own_parts.config().model)
    before = model.state_dict()["query_embed.position.weight"].clone()
    loaded = load_weights(model, tmp_path / "detr.pt")
    assert loaded.left == ("query_embed.weight",)
    assert set(loaded.new) == {
        *(f"query_embed.{part}.weight" for part in ("position", "boxes", "labels")),
        *(f"transformer.decoder.to_position.{part}" for part in ("weight", "bias")),
    }
    assert set(loaded.adapted) == {"class_embed.weight", "class_embed.bias"}
    assert "left out of them: query_embed.weight" in str(loaded)
    assert torch.equal(model.state_dict()["query_embed.position.weight"], before)
    # Of the variant's own weights all must fit.
    state = model.state_dict()
    del state["transformer.decoder.to_position.bias"]
    torch.save(state, tmp_path / "cut.pt")
    with pytest.raises(ValueError, match="1 missing, such as transformer.decoder.to_position.bias"):
        load_weights(model, tmp_path / "cut.pt")
    other = {k: v for k, v in state.items() if not k.startswith(("transformer", "query_embed"))}
    torch.save(other, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="missing"):
        load_weights(build_detr(own_parts.config("refining").model), tmp_path / "other.pt")


def test_every_part_replaced_by_detrs_own_class_is_detr_bit_for_bit():
    from detrnb.model import ROWS
    from detrnb.settings import Variant, register

    before = dict(VARIANTS)
    register(Variant("null", {part: row.default for part, row in ROWS.items()}))
    try:
        runs = [fit(own_parts.config(name), name=f"all-{name}") for name in ("detr", "null")]
        assert log_of("all-null") == log_of("all-detr")
        states = [run.model.state_dict() for run in runs]
        assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())
    finally:
        VARIANTS.clear()
        VARIANTS.update(before)


def test_predictions_of_another_layout_are_refused_without_it():
    bench = Bench("noised_groups")
    model, targets = bench.built().train(), bench.targets(3, 1)
    outputs, layout = bench.passed(model, targets)
    with pytest.raises(ValueError, match="of 15 queries, expected 6, .*evaluation; give"):
        bench.criterion(outputs, targets)
    assert layout.total == 2 * 6 + 3
    assert bench.criterion(outputs, targets, layout).keys() == set(bench.criterion.names(layout))


def test_what_is_drawn_for_an_image_depends_on_seed_epoch_and_image_alone():
    from detrnb.training.loop import _with_draws

    targets = [{"image_id": 3, "labels": []}, {"image_id": 5, "labels": []}]
    batch = (torch.zeros(2), torch.zeros(2), targets)
    drawn = {
        (seed, epoch, target["image_id"]): target["draws"]
        for seed in (0, 1)
        for epoch in (0, 1)
        for target in _with_draws(batch, seed, epoch)[2]
    }
    assert len(set(drawn.values())) == 8 and all(0 <= x < 2**63 for x in drawn.values())
    alone = _with_draws((batch[0], batch[1], targets[1:]), 1, 1)[2][0]["draws"]
    assert alone == drawn[1, 1, 5]
    assert "draws" not in targets[0]  # cached features hand out the same targets every epoch


def test_config_of_an_own_variant_survives_json():
    config = own_parts.config()
    assert Config.from_dict(config.model_dump(mode="json")) == config
