"""`detrnb train`: settings as typed, what is wrong in one paragraph, where the run is."""

import json

import pytest

from detrnb.commands import main
from detrnb.runs import RunFolder
from detrnb.training.global_batch import TrainingDiverged

TYPED = [
    "data.toy.num_images=[8, 2, 2]",
    "train.epochs=1",
    "model.num_encoder_layers=1",
    "model.num_decoder_layers=1",
]


def test_trains_what_is_typed_and_says_where(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    typed = ["--preset", "smoke", *TYPED, "--seed", "3", "--name", "typed", "train.lr=1e-3"]
    assert main(["train", *typed]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith(f"{tmp_path / 'runs' / 'typed'}: AP ") and last.endswith("after epoch 1")
    assert main(["train", *typed, "--resume", "never"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and "resume is 'never'" in errors[0]
    test = tmp_path / "runs" / "typed" / "test.json"
    assert not test.exists()
    assert main(["train", *typed, "--test"]) == 0  # of the run that is there
    assert json.loads(test.read_text())["split"] == "test2017"


def test_values_become_what_the_setting_is(monkeypatch):
    configs = []
    monkeypatch.setattr(
        "detrnb.training.fit", lambda config, **rest: configs.append(config) or 1 / 0
    )
    typed = ["--preset", "coco", "--variant", "svd_split", "data.path=data/my coco"]
    typed += ["model.options.svd_split.layers=[0, 2]", "data.crop=false", "train.epochs=50"]
    typed += ["data.eval_size=null", "train.precision=fp32", "train.lr=1e-3"]
    with pytest.raises(ZeroDivisionError):
        main(["train", *typed, "--debug"])
    (config,) = configs
    assert config.data.path == "data/my coco"
    assert config.data.crop is False and config.data.eval_size is None
    assert config.train.epochs == 50 and config.train.lr == 1e-3
    assert config.model.options == {"svd_split": {"layers": [0, 2]}}


@pytest.mark.parametrize(
    "typed, complaint",
    [
        (["--preset", "smoke", "train.epoch=2"], "did you mean 'epochs'"),
        (["--preset", "smoke", "train.epochs=two"], "train.epochs: Input should be a valid int"),
        (["--preset", "smoke", "train.epochs=0", "train.lr=-1"], "train.lr: Input should be gr"),
        (["--preset", "cocoa"], "unknown preset 'cocoa'"),
        (["--preset", "smoke", "epochs"], "'epochs' is not KEY=VALUE"),
        (["--preset", "smoke", "--epochs=2"], "No such option '--epochs'"),
        (["train.epochs=2"], "Missing option '--preset'"),
        (
            ["--preset", "smoke", "train.lr=1e-4", "train.epochs=2", "train.lr=1e-3"],
            "train.lr is typed twice, as 0.0001 and as 0.001; leave one out",
        ),
        (
            ["--preset", "smoke", "--variant", "detr", "model.variant=svd_split"],
            "--variant and model.variant= are typed; leave one out",
        ),
        (
            ["--preset", "smoke", "--seed", "0", "train.seed=1"],
            "--seed and train.seed= are typed; leave one out",
        ),
    ],
)
def test_impossible_settings_are_refused_in_one_paragraph(typed, complaint, capsys, monkeypatch):
    monkeypatch.setattr("detrnb.training.fit", None)
    assert main(["train", *typed]) == 2
    captured = capsys.readouterr()
    assert complaint in captured.err and captured.out == ""
    assert captured.err.endswith(" (detrnb train --help tells more)\n")
    assert "\n\n" not in captured.err  # one paragraph


def test_variant_and_seed_may_be_typed_as_settings(monkeypatch):
    configs = []
    monkeypatch.setattr(
        "detrnb.training.fit", lambda config, **rest: configs.append(config) or 1 / 0
    )
    typed = ["--preset", "smoke", "model.variant=svd_split", "train.seed=3"]
    assert main(["train", *typed]) == 1
    assert (configs[0].model.variant, configs[0].train.seed) == ("svd_split", 3)


def test_without_images_to_test_on_nothing_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("detrnb.training.fit", None)
    typed = ["train", "--preset", "coco", "data.path=data/none", "--name", "tested", "--test"]
    assert main(typed) == 2
    told = capsys.readouterr().err
    assert "--test: there is no test2017 in data/none; expected its images and" in told
    assert "leave --test out" in told
    RunFolder(tmp_path / "runs" / "tested").write_test("test2017", 0, [0.1] * 12, {}, 1.0)
    monkeypatch.setattr("detrnb.training.fit", lambda config, **rest: 1 / 0)
    assert main(typed) == 1  # tested already: nothing is asked of the data
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_run_that_diverges_ends_with_its_error(capsys, monkeypatch):
    def diverge(config, **rest):
        raise TrainingDiverged("loss is not finite at epoch 3")

    monkeypatch.setattr("detrnb.training.fit", diverge)
    assert main(["train", "--preset", "smoke"]) == 1
    assert capsys.readouterr().err == "loss is not finite at epoch 3\n"
