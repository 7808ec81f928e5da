"""Runs: determinism, resuming, refusal, divergence, and what lies in the folder."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from interrupting import interrupted

import detrnb
from detrnb import Config, fit, load_run, open_split
from detrnb.compare import read_record
from detrnb.datasets import make_loader
from detrnb.datasets.splits import split_paths, with_classes
from detrnb.datasets.toy import toy_folder
from detrnb.model.detr import build_criterion, build_detr
from detrnb.runs.folder import RunFolder
from detrnb.settings.config import TrainConfig
from detrnb.training import origin as origins
from detrnb.training import run as engine
from detrnb.training.device import make_accelerator
from detrnb.training.global_batch import TrainingDiverged
from detrnb.training.loop import _log_part, evaluate, train_one_epoch
from detrnb.training.metrics import evaluate_coco, load_ground_truth
from detrnb.training.opening import Run
from detrnb.training.prepare import build_optimizer, open_data, rate_factor

TINY = {
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 2,
    "data.toy.num_images": (12, 6, 4),
    "train.batch_size": 4,
    "train.epochs": 3,
}


def tiny(**train: object) -> Config:
    dotted = {f"train.{key}": value for key, value in train.items()}
    return Config.preset("smoke", overrides={**TINY, **dotted})


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder to run in, with one finished run, made once for this file."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fit(tiny(), name="unbroken")
    return folder


@pytest.fixture(autouse=True)
def _inside(project, monkeypatch):
    monkeypatch.chdir(project)


def log_of(name: str) -> list[dict]:
    """A run's log, times aside."""
    log = RunFolder(f"runs/{name}").read_log()
    return [{k: v for k, v in line.items() if not k.endswith("_time_s")} for line in log]


def test_two_runs_of_one_config_give_equal_logs():
    fit(tiny(), name="again")
    assert log_of("again") == log_of("unbroken")


def _assert_as_unbroken(run: Run) -> None:
    """The run's log, best epoch and weights are those of the unbroken run."""
    assert log_of(run.path.name) == log_of("unbroken")
    best = run.log["AP"].idxmax()
    assert torch.load(run.path / "best.pt", weights_only=True)["epoch"] == best
    expected = load_run("runs/unbroken").model.state_dict()
    for key, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, expected[key]), key


def test_run_killed_in_an_epoch_resumes_to_the_log_of_the_unbroken():
    code = "import sys, json; from detrnb import Config, fit; "
    code += "fit(Config.from_dict(json.load(sys.stdin)), name='killed')"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(Path(detrnb.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    process.stdin.write(tiny().model_dump_json())
    process.stdin.close()
    for line in process.stdout:
        if line.startswith("epoch 2/3"):
            process.kill()
            break
    process.wait()
    process.stdout.close()
    assert len(log_of("killed")) == 2
    with open("runs/killed/log.txt", "a") as file:
        file.write('{"train_lr": 0.0')  # a line torn by the crash
    run = fit(tiny(), name="killed")
    _assert_as_unbroken(run)
    assert len(run.provenance["resumed"]) == 1


def test_run_killed_in_evaluation_evaluates_again_and_loses_no_line():
    with interrupted("evaluate_epoch"):
        fit(tiny(), name="unevaluated")
    assert len(log_of("unevaluated")) == 1
    _assert_as_unbroken(fit(tiny(), name="unevaluated"))


def test_dropout_and_images_resume_to_the_log_of_the_unbroken():
    """Nothing cached, everything random: augmentation by epoch and index, dropout by epoch."""
    overrides = {
        **TINY,
        "model.dropout": 0.3,
        "data.num_workers": 2,
        "data.train_sizes": (96, 128),
        "data.eval_size": 96,
        "data.flip": True,
        "train.cache_features": False,
        "train.epochs": 2,
    }
    config = Config.preset("smoke", overrides=overrides)
    fit(config, name="augmented")
    with interrupted("train_epoch"):
        fit(config, name="augmented-killed")
    fit(config, name="augmented-killed")
    assert log_of("augmented-killed") == log_of("augmented")


def test_run_goes_on_where_gradients_need_a_scale(monkeypatch):
    """As from a processor, or a GPU with bf16, to one without; its arithmetic aside."""
    with interrupted("train_epoch"):
        fit(tiny(), name="scaled")
    make = make_accelerator

    def scaling(precision):
        accelerator = make(precision)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
        return accelerator

    monkeypatch.setattr("detrnb.training.run.make_accelerator", scaling)
    fit(tiny(), name="scaled")
    state = torch.load("runs/scaled/last.pt", weights_only=True)
    assert state["scaler"]["scale"] == 1.0
    for ours, theirs in zip(log_of("scaled"), log_of("unbroken"), strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)


def test_finished_run_is_opened_not_trained(monkeypatch):
    monkeypatch.setattr(engine, "prepare", None)
    run = fit(tiny(), name="unbroken")
    assert len(run.log) == 3
    assert not run.model.training


def test_folder_of_another_config_is_refused_and_kept():
    before = log_of("unbroken")
    with pytest.raises(
        ValueError, match=r"another config \(train\.lr: 0\.0005 there, 0\.001 now\)"
    ):
        fit(tiny(lr=1e-3), name="unbroken")
    with pytest.raises(ValueError, match=r"train\.init_from='runs/unbroken'"):
        fit(tiny(lr=1e-3), name="unbroken")
    with pytest.raises(ValueError, match="resume is 'never'"):
        fit(tiny(), resume="never", name="unbroken")
    assert log_of("unbroken") == before


def test_what_is_no_choice_is_refused_and_not_taken_for_another():
    with pytest.raises(ValueError, match="resume is False; expected 'auto' or 'never'"):
        fit(tiny(), resume=False, name="unbroken")
    for checkpoint in ("final", "ema"):
        with pytest.raises(ValueError, match=f"is '{checkpoint}'; expected 'last' or 'best'"):
            load_run("runs/unbroken", checkpoint)


def test_a_folder_of_another_tools_model_is_no_run(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["DetrForObjectDetection"]}')
    with pytest.raises(ValueError, match="is no run folder: .*train.init_from="):
        load_run(tmp_path)


def test_images_of_ones_own_are_not_passed_over_for_drawn_ones(project):
    mine = project / "data" / "mine" / "train2017"
    mine.mkdir(parents=True)
    (mine / "a.jpg").touch()
    for changed in ({}, {"data.toy.digits": (2, 3)}):
        overrides = {"data.path": "data/mine", **changed}
        with pytest.raises(ValueError, match="holds others .train2017., .*--preset finetune"):
            fit(Config.preset("smoke", overrides=overrides))
    assert not list((project / "data").glob("mine-*"))


def test_name_says_preset_variant_seed_and_config(monkeypatch):
    monkeypatch.setattr("detrnb.training.run._train", lambda config, folder, state: folder)
    monkeypatch.setattr("detrnb.training.run.load_run", lambda path: path)
    path = fit(tiny())
    assert path.name.startswith("smoke-detr-s0-")
    assert fit(tiny(lr=1e-3)) != path


def test_run_of_a_version_with_fewer_settings_is_the_same_run(monkeypatch):
    monkeypatch.setattr("detrnb.training.run._train", lambda config, folder, state: folder)
    monkeypatch.setattr("detrnb.training.run.load_run", lambda path: path)
    path = fit(tiny(clip_max_norm=0.1))  # the default
    settings = json.loads((path / "config.json").read_text())
    del settings["train"]["clip_max_norm"], settings["crc32"]
    (path / "config.json").write_text(json.dumps(settings))
    assert fit(tiny()) == path
    with pytest.raises(ValueError, match=r"clip_max_norm: 0\.1 there, 0\.2 now"):
        fit(tiny(clip_max_norm=0.2), name=path.name)


def test_log_line_has_the_references_keys_in_its_order():
    line = log_of("unbroken")[0]
    losses = ["loss_ce", "loss_bbox", "loss_giou"]
    scaled = [*losses, *(f"{name}_0" for name in losses)]
    unscaled = ["loss_ce", "class_error", "loss_bbox", "loss_giou", "cardinality_error"]
    unscaled += [f"{name}_0" for name in unscaled if name != "class_error"]
    part = ["class_error", "loss", *scaled, *(f"{name}_unscaled" for name in unscaled)]
    expected = ["train_lr", *(f"train_{name}" for name in part), *(f"test_{n}" for n in part)]
    expected += ["test_coco_eval_bbox", "epoch", "n_parameters"]
    assert list(line)[: len(expected)] == expected
    assert len(line["test_coco_eval_bbox"]) == 12
    total = sum(line[f"train_{name}"] for name in scaled)
    assert line["train_loss"] == pytest.approx(total, rel=1e-6)
    assert line["train_loss_bbox"] == pytest.approx(5 * line["train_loss_bbox_unscaled"])


def test_six_layers_give_the_46_and_45_keys_of_the_reference():
    criterion = build_criterion(Config.preset("coco").model)
    names = {
        f"{n}{s}": 1.0
        for s in ["", "_0", "_1", "_2", "_3", "_4"]
        for n in ("loss_ce", "class_error", "loss_bbox", "loss_giou", "cardinality_error")
        if not (s and n == "class_error")
    }
    weights = criterion.weights_of(names)
    line = _log_part("train", {"lr": 1.0, "loss": 1.0, **names}, weights)
    assert len(line) == 46
    names = {"loss": 1.0, **names}
    assert len(_log_part("test", names, weights)) == 45


def test_every_key_of_the_log_is_explained():
    readme = (Path(detrnb.__file__).parents[1] / "data" / "README.md").read_text()
    explained = set(re.findall(r"^\| `(\w+)`", readme, re.MULTILINE))
    for key in RunFolder("runs/unbroken").read_log()[0]:
        bare = key.removeprefix("train_").removeprefix("test_").removesuffix("_unscaled")
        assert re.sub(r"_\d+$", "", bare) in explained, key


def test_patience_ends_a_run_that_no_longer_gets_better(capsys):
    # A rate of almost nothing: AP stays what it is after the first epoch.
    config = tiny(lr=1e-12, epochs=6, patience=2)
    run = fit(config, name="patient")
    assert len(run.log) == 3
    assert "no better AP for 2 epochs: done" in capsys.readouterr().out
    assert torch.load(run.path / "best.pt", weights_only=True)["epoch"] == 0
    fit(config, name="patient")
    assert "patient: opened the finished run" in capsys.readouterr().out
    assert read_record(run).epochs_missing == 0


def test_provenance_says_how_the_run_was_made():
    provenance = RunFolder("runs/unbroken").read_provenance()
    assert provenance["seed"] == 0
    assert provenance["global_batch"] == 4
    assert provenance["steps_per_epoch"] == 3
    assert provenance["wall_time_s"] > 0
    assert provenance["peak_memory_mb"] > 0
    assert set(provenance["data"]) == {"instances_train2017", "instances_val2017"}


def test_run_evaluates_any_split_as_its_log_says():
    run = load_run("runs/unbroken")
    evaluation = run.evaluate()
    logged = run.log["test_coco_eval_bbox"].iloc[-1]
    assert evaluation.metrics.stats == pytest.approx(logged, abs=1e-6)
    assert run.log["test_loss"].iloc[-1] == pytest.approx(evaluation.log["test_loss"], rel=1e-2)
    test = run.evaluate("test2017")
    assert len(test.detections) == 4
    dataset = open_split(run.config.data, "test2017")
    again = evaluate_coco(load_ground_truth(dataset.annotations), test.detections)
    assert again == test.metrics


def test_evaluation_measures_by_what_was_read():
    """Whatever becomes of the annotation file while a run trains."""
    run = load_run("runs/unbroken")
    expected = run.evaluate("test2017").metrics
    dataset = open_split(run.config.data, "test2017")
    copy = dataset.annotations.read_bytes()
    dataset.annotations.write_text("{")
    try:
        loader = make_loader(dataset, 4, num_workers=0)
        criterion = build_criterion(run.config.model)
        found = evaluate(run.model, criterion, loader, make_accelerator("auto"))
    finally:
        dataset.annotations.write_bytes(copy)
    assert found.metrics == expected


def test_own_data_trains_with_a_preset_that_makes_its_own():
    made = toy_folder(tiny().data)
    own = {"data.path": made, "data.toy": None, "model.num_classes": None}
    overrides = {**TINY, **own, "train.epochs": 1}
    del overrides["data.toy.num_images"]
    run = fit(Config.preset("smoke", overrides=overrides), name="own")
    assert (run.config.data.toy, run.config.model.num_classes, len(run.log)) == (None, 4, 1)


def test_init_from_starts_at_a_runs_weights_with_a_fresh_schedule(monkeypatch):
    started = {}

    def note(ready, *rest):
        started.update({k: v.clone() for k, v in ready.model.state_dict().items()})
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "train_epoch", note)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(init_from="runs/unbroken"), name="started")
    expected = load_run("runs/unbroken", checkpoint="best").model.state_dict()
    assert all(torch.equal(tensor.cpu(), expected[key]) for key, tensor in started.items())
    assert log_of("unbroken")
    shutil.rmtree("runs/started")


def test_nan_in_weights_stops_the_run_naming_step_image_and_tensor():
    with interrupted("train_epoch"):
        fit(tiny(), name="diverging")
    state = torch.load("runs/diverging/last.pt", weights_only=True)
    good = (state["epoch"], log_of("diverging"))
    state["model"]["bbox_embed.layers.2.bias"][0] = math.nan
    torch.save(state, "runs/diverging/last.pt")
    with pytest.raises(TrainingDiverged, match=r"pred_boxes of decoder layer 1 .*epoch 2, step 1"):
        fit(tiny(), name="diverging")
    kept = torch.load("runs/diverging/last.pt", weights_only=True)
    assert (kept["epoch"], log_of("diverging")) == good


def test_nan_after_the_epoch_keeps_the_last_checkpoint(monkeypatch):
    def spoiled(model, *rest, **settings):
        model.bbox_embed.layers[2].bias.data[0] = math.nan
        return {}

    with interrupted("train_epoch"):
        fit(tiny(), name="spoiled")
    before = torch.load("runs/spoiled/last.pt", weights_only=True)
    monkeypatch.setattr("detrnb.training.epochs.train_one_epoch", spoiled)
    with pytest.raises(TrainingDiverged, match=r"bbox_embed\.layers\.2\.bias .*after epoch 2"):
        fit(tiny(), name="spoiled")
    after = torch.load("runs/spoiled/last.pt", weights_only=True)
    assert after["epoch"] == before["epoch"] == 0


def test_log_and_checkpoint_that_disagree_are_refused():
    shutil.copytree("runs/unbroken", "runs/disagreeing")
    (RunFolder("runs/disagreeing").log_path).unlink()
    with pytest.raises(ValueError, match=r"log\.txt holds 0 epochs, last\.pt 3"):
        fit(tiny(), name="disagreeing")


def _break_off(config: Config, name: str) -> RunFolder:
    """A run of which the first epoch is there."""
    with interrupted("train_epoch"):
        fit(config, name=name)
    return RunFolder(f"runs/{name}")


def test_run_does_not_go_on_with_other_data(monkeypatch):
    _break_off(tiny(), "other-data")
    monkeypatch.setattr("detrnb.training.origin.fingerprint", lambda annotations: "changed")
    with pytest.raises(ValueError, match="trained on other annotations or images"):
        fit(tiny(), name="other-data")


def _own_data(folder: Path) -> Config:
    """The config of a data set of one's own: a copy of the toy set's files."""
    if not folder.exists():
        images, _ = split_paths(tiny().data, "train2017")
        shutil.copytree(images.parent, folder)
    config = tiny()
    data = config.data.model_copy(update={"toy": None, "path": str(folder)})
    return config.model_copy(update={"data": data})


def test_run_does_not_go_on_with_exchanged_images_but_with_copied_ones(tmp_path, capsys):
    config = _own_data(tmp_path / "own")
    _break_off(config, "exchanged")
    first, second, *_ = sorted((tmp_path / "own" / "val2017").iterdir())
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(ValueError, match=r"other annotations or images \(instances_val2017: "):
        fit(config, name="exchanged")
    first.write_bytes(content)  # another time, the same name and size
    capsys.readouterr()
    run = fit(config, name="exchanged")
    said = capsys.readouterr().out
    assert "image files were changed, copied or drawn anew since: instances_val2017" in said
    assert run.provenance["resumed"][0]["image_files"] != run.provenance["image_files"]


def test_run_of_0_1_goes_on_with_its_annotations_and_says_what_is_not_known(tmp_path, capsys):
    config = _own_data(tmp_path / "own")
    folder = _break_off(config, "old")
    new = folder.read_provenance()
    old = {key: value for key, value in new.items() if key not in ("code", "image_files")}
    old["data"] = {name: print_.partition("+")[0] for name, print_ in new["data"].items()}
    folder.write_provenance(old)
    run = fit(config, name="old")
    assert "old goes on, but 0.1 kept no hash of its code\n" in capsys.readouterr().out
    assert run.provenance["resumed"][0]["code"] == new["code"]
    load_run(run.path)
    assert "old: trained by code that is not known" in capsys.readouterr().out


def test_what_a_run_goes_on_with_and_rounds_otherwise_is_said(tmp_path, capsys):
    config = _own_data(tmp_path / "own")
    folder = _break_off(config, "moved")
    before = folder.read_provenance()
    versions = {name: version for name, version in before["versions"].items() if name != "pillow"}
    other = {"threads": 96, "instruction_set": "ALTIVEC", "versions": versions | {"numpy": "0.9"}}
    folder.write_provenance(before | other)
    run = fit(config, name="moved")
    said = capsys.readouterr().out
    now = before["versions"]["numpy"]
    assert "moved goes on, but its threads was 96 and is" in said
    assert "its instruction_set was ALTIVEC" in said
    assert f"its numpy was 0.9 and is {now} now, which rounds otherwise" in said
    assert "pillow" not in said
    assert run.provenance["resumed"][0]["threads"] == before["threads"]


def test_generated_data_drawn_anew_are_the_same_data(capsys):
    config = tiny()
    folder = _break_off(config, "redrawn")
    images, _ = split_paths(config.data, "val2017")
    image = next(images.iterdir())
    image.write_bytes(image.read_bytes() + b"\0")  # as another library may write it
    fit(config, name="redrawn")
    said = capsys.readouterr().out
    assert "redrawn goes on, but image files were changed, copied or drawn anew since" in said
    assert log_of("redrawn") == log_of("unbroken")
    assert set(folder.read_provenance()["data"].values()) == set(
        RunFolder("runs/unbroken").read_provenance()["data"].values()
    )


def _edit(monkeypatch, name: str) -> None:
    """Make a file of the package another one, as to its hash."""
    before = origins.hash_of_file
    monkeypatch.setattr(
        origins, "hash_of_file", lambda path: "edited" if path.name == name else before(path)
    )


def test_run_of_other_code_is_opened_and_the_files_are_said(monkeypatch, capsys):
    load_run("runs/unbroken")
    assert capsys.readouterr().out == ""
    _edit(monkeypatch, "criterion.py")
    fit(tiny(), name="unbroken")
    opened, said = capsys.readouterr().out.splitlines()
    assert opened.startswith("unbroken: opened the finished run")
    assert said == "unbroken: trained by other code than there is now: loss/criterion.py"
    monkeypatch.undo()


def test_run_that_other_code_goes_on_with_says_so_and_keeps_both(project, monkeypatch, capsys):
    folder = _break_off(tiny(), "edited")
    with monkeypatch.context() as patch:
        patch.chdir(project)
        _edit(patch, "loop.py")
        fit(tiny(), name="edited")
        said = capsys.readouterr().out
        assert "edited goes on, but its code has changed: training/loop.py\n" in said
        # Opened by the second code: part of it is of the first.
        assert "edited: trained by other code than there is now: training/loop.py\n" in said
    kept = folder.read_provenance()
    assert kept["resumed"][0]["code"]["training/loop.py"] == "edited"
    assert kept["code"]["training/loop.py"] != "edited"


def test_provenance_hashes_every_file_that_computes_and_the_variants_in_use():
    code = origins.code_of(Config.preset("smoke", variant="adaptive_res+svd_split"))
    assert {"boxes.py", "loss/matcher.py", "model/transformer.py", "datasets/coco.py"} < set(code)
    assert {"training/loop.py", "training/global_batch.py", "datasets/toy_drawing.py"} < set(code)
    variants = {name for name in code if name.startswith("variants/")}
    assert variants == {"variants/adaptive_res.py", "variants/svd_split.py"}
    assert not any("__init__" in name or "checking" in name for name in code)
    assert "datasets/toy.py" not in origins.code_of(Config.preset("coco"))
    assert RunFolder("runs/unbroken").read_provenance()["code"] == origins.code_of(tiny())


def test_settings_that_change_no_number_are_no_other_run(capsys):
    """Another number of workers, and passes that share out the same images a step."""
    folder = _break_off(tiny(), "shared-out")
    begun = folder.read_config()
    shared = {"data.num_workers": 1, "train.batch_size": 2, "train.accumulate": 2}
    run = fit(Config.preset("smoke", overrides={**TINY, **shared}), name="shared-out")
    said = capsys.readouterr().out
    for change in ("data.num_workers was 0 and is 1 now", "train.batch_size was 4 and is 2 now"):
        assert change in said
    assert folder.read_config() == begun and len(run.log) == 3
    assert run.provenance["global_batch"] == 4
    for ours, theirs in zip(log_of("shared-out"), log_of("unbroken"), strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
    more = Config.preset("smoke", overrides={**TINY, "data.num_workers": 1})
    assert len(fit(more, name="unbroken").log) == 3


def test_precision_that_differs_is_said(capsys):
    """As of a run that 0.1 began in the bfloat16 of its processor."""
    folder = _break_off(tiny(), "precise")
    folder.write_provenance(folder.read_provenance() | {"precision": "bf16"})
    fit(tiny(), name="precise")
    assert "its precision was bf16 and is no now" in capsys.readouterr().out


def test_run_that_is_being_trained_is_refused_and_left_alone():
    folder = _break_off(tiny(), "held")
    before = {path: path.stat().st_mtime_ns for path in folder.path.iterdir()}
    folder.lock.acquire()
    with pytest.raises(ValueError, match=r"held is being trained by process \d+ on .* since 20"):
        fit(tiny(), name="held")
    folder.lock.release()
    assert {path: path.stat().st_mtime_ns for path in folder.path.iterdir()} == before
    fit(tiny(), name="held")
    assert log_of("held") == log_of("unbroken") and not folder.lock.path.exists()


def test_run_that_lost_its_lock_writes_nothing_more(monkeypatch):
    train_epoch = engine.train_epoch

    def slow(ready, config, epoch, on_step):
        state = train_epoch(ready, config, epoch, on_step)
        if epoch == 1:
            Path("runs/overtaken/lock.json").unlink()
        return state

    monkeypatch.setattr(engine, "train_epoch", slow)
    with pytest.raises(ValueError, match=r"has lost its lock\.json"):
        fit(tiny(), name="overtaken")
    assert len(log_of("overtaken")) == 1
    assert torch.load("runs/overtaken/last.pt", weights_only=True)["epoch"] == 0


def test_finished_run_is_opened_without_a_word_written():
    """Also where nothing can be written, or somebody else's lock was left."""
    shutil.copytree("runs/unbroken", "runs/archived")
    Path("runs/archived/lock.json").write_text('{"process": 1, "host": "x", "started": "then"}')
    before = {path: path.stat().st_mtime_ns for path in Path("runs/archived").iterdir()}
    fit(tiny(), name="archived")
    assert {path: path.stat().st_mtime_ns for path in Path("runs/archived").iterdir()} == before


def test_finished_run_is_rid_of_the_lock_of_a_process_killed_at_its_end():
    shutil.copytree("runs/unbroken", "runs/killed_late")
    code = "import os; from pathlib import Path; from detrnb.runs import RunLock\n"
    code += "RunLock(Path('runs/killed_late')).acquire(); os._exit(9)"
    environment = os.environ | {"PYTHONPATH": str(Path(detrnb.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], env=environment)
    assert Path("runs/killed_late/lock.json").exists()
    fit(tiny(), name="killed_late")
    assert not Path("runs/killed_late/lock.json").exists()


def test_infinite_loss_names_the_images_of_the_batch():
    config = tiny(precision="fp32")
    accelerator = make_accelerator("fp32")
    model, criterion = build_detr(config.model), build_criterion(config.model)
    boxes = torch.full((1, 4), math.inf)
    target = {"labels": torch.zeros(1, dtype=torch.int64), "boxes": boxes, "image_id": 77}
    loader = [(torch.zeros(1, 112, 8, 8), torch.zeros(1, 128, 128, dtype=torch.bool), [target])]
    optimizer = build_optimizer(model, config.train)
    with pytest.raises(TrainingDiverged, match=r"image ids \[77\]"):
        train_one_epoch(model, criterion, loader, optimizer, accelerator, 0)


def test_faulty_data_is_refused_before_training_with_all_its_faults(capsys):
    config = Config.preset(
        "smoke", overrides={**TINY, "data.path": "data/faulty", "model.num_classes": 5}
    )
    file = split_paths(config.data, "val2017")[1]  # makes it
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [500, 0, 10, 10]
    content["annotations"][1]["bbox"][2] = 0
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the data has errors:") as refused:
        fit(config, name="faulty")
    said = str(refused.value)
    assert "train2017: other classes than the model's (1): the file has 4 classes" in said
    assert "val2017: box outside its image (1): annotation 1 " in said
    content["annotations"][0]["bbox"] = [0, 0, 10, 10]
    file.write_text(json.dumps(content))
    accelerator = make_accelerator("fp32")
    open_data(tiny().model_copy(update={"data": config.data}), accelerator)
    assert "warning: val2017: box of no area (1)\n" in capsys.readouterr().out
    open_data(tiny(), accelerator)
    assert capsys.readouterr().out == ""


def test_classes_are_kept_with_the_weights(monkeypatch):
    state = torch.load("runs/unbroken/best.pt", weights_only=True)
    assert state["classes"] == {0: (1, "0"), 1: (2, "3"), 2: (3, "4"), 3: (4, "7")}
    run = load_run("runs/unbroken")
    assert replace(run, classes=None).class_names == ("0", "3", "4", "7")  # from the data
    monkeypatch.setattr("detrnb.training.opening.open_split", None)
    assert run.class_names == load_run(run.path, "best").class_names == ("0", "3", "4", "7")


def test_run_is_not_evaluated_on_other_categories():
    run = load_run("runs/unbroken")
    other = replace(run, classes={**run.classes, 0: (1, "zero")})
    with pytest.raises(ValueError, match=r"only here: 1 '0'; only there: 1 'zero'"):
        other.evaluate()


def test_classes_come_from_the_data_unless_given(monkeypatch):
    monkeypatch.setattr("detrnb.training.run._train", lambda config, folder, state: folder)
    monkeypatch.setattr("detrnb.training.run.load_run", lambda path: path)
    asked = Config.preset("smoke", overrides={**TINY, "model.num_classes": None})
    with pytest.raises(ValueError, match=r"model\.num_classes is None.*with_classes\(config\)"):
        build_detr(asked.model)
    with pytest.raises(ValueError, match=r"model\.num_classes is None"):
        build_criterion(asked.model)
    assert with_classes(asked) == tiny(epochs=3)
    path = fit(asked)
    assert json.loads((path / "config.json").read_text())["model"]["num_classes"] == 4
    assert fit(tiny(epochs=3)) == path  # as if 4 had been given


def test_missing_data_is_named():
    config = Config.preset("coco", overrides={"data.path": "data/nowhere"})
    with pytest.raises(ValueError, match="COCO layout"):
        open_split(config.data, "val2017")


def test_empty_or_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        load_run(tmp_path)
    shutil.copy("runs/unbroken/config.json", tmp_path)
    with pytest.raises(ValueError, match=r"no weights at .*last\.pt"):
        load_run(tmp_path)


def test_step_schedule_drops_once_as_the_references():
    train = TrainConfig(epochs=6, lr_drop=2)
    factors = [rate_factor(train, 3)(step) for step in range(18)]
    assert factors == pytest.approx([1] * 6 + [0.1] * 6 + [0.01] * 6)


def test_cosine_schedule_rises_then_falls_to_nothing():
    train = TrainConfig(epochs=2, schedule="cosine", warmup=0.2)
    factors = [rate_factor(train, 10)(step) for step in range(20)]
    assert factors[:4] == pytest.approx([0.25, 0.5, 0.75, 1])
    assert factors[4] == 1
    assert factors[12] == pytest.approx(0.5)
    assert sorted(factors[4:], reverse=True) == factors[4:]
    assert 0 < factors[-1] < 0.02


def test_features_are_kept_for_other_runs_until_an_image_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other = ({"epochs": 1, "seed": seed} for seed in (0, 1))
    first = fit(tiny(**one))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs/features").iterdir()}
    assert len(kept) == 2  # of the training and of the validation split
    fit(tiny(**other))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list((tmp_path / "runs/features").iterdir())) == 2
    image = next(split_paths(first.config.data, "val2017")[0].iterdir())
    os.utime(image, (1, 1))
    fit(tiny(epochs=1, seed=2))
    assert len(list((tmp_path / "runs/features").iterdir())) == 3
