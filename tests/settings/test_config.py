"""Configs refuse what cannot be, name what was meant, and survive JSON."""

import json

import pytest

from detrnb.settings.config import PRESETS, Config


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    config = Config.preset(name, seed=3)
    assert Config.from_dict(json.loads(config.model_dump_json())) == config
    assert config.train.seed == 3
    assert config.model.variant == "detr"


def test_coco_preset_is_the_references():
    config = Config.preset("coco")
    model, train = config.model, config.train
    assert (model.backbone, model.num_encoder_layers, model.num_decoder_layers) == (
        "resnet50",
        6,
        6,
    )
    assert (model.d_model, model.num_heads, model.dim_feedforward) == (256, 8, 2048)
    assert (model.num_queries, model.num_classes, model.dropout) == (100, 91, 0.1)
    assert (train.lr, train.lr_backbone, train.weight_decay) == (1e-4, 1e-5, 1e-4)
    assert (train.epochs, train.lr_drop, train.batch_size, train.clip_max_norm) == (
        300,
        200,
        2,
        0.1,
    )
    assert config.data.train_sizes == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    assert (config.data.eval_size, config.data.max_size) == (800, 1333)


def test_overrides_win_and_leave_the_preset_as_it_was():
    before = Config.preset("smoke")
    changed = Config.preset("smoke", overrides={"data.toy.num_images": (5, 4, 3), "train.lr": 1e-3})
    assert changed.data.toy.num_images == (5, 4, 3)
    assert changed.train.lr == 1e-3
    assert changed.data.toy.digits == before.data.toy.digits
    assert Config.preset("smoke") == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.epoch": 3}, r"unknown setting 'train\.epoch'; did you mean 'epochs'"),
        ({"data.toy.digitz": (1,)}, r"'data\.toy\.digitz'; did you mean 'digits'"),
        ({"epochs": 3}, "must name its section"),
        ({"train.lr.x": 3}, "'lr' is a value, not a section"),
        ({"train.lr": -1.0}, r"train\.lr: .*found -1\.0"),
        ({"train.epochs": 0}, r"train\.epochs: .*found 0"),
        ({"train.epochs": "many"}, r"train\.epochs: .*found 'many'"),
        ({"train.schedule": "step2"}, r"train\.schedule: .*'step'.*found 'step2'"),
        ({"train.lr_drop": 5}, "train.lr_drop=5 would do nothing: the schedule is 'cosine'"),
        (
            {"model.backbone_weights": "mine.pth", "train.init_from": "runs/a"},
            "model.backbone_weights='mine.pth' would do nothing",
        ),
        ({"model.d_model": 30}, "must be a multiple of num_heads"),
        ({"model.variant": "det"}, r"unknown variant 'det'.*did you mean 'detr'"),
        ({"model.options.nothing.x": 1}, "options of unknown variant 'nothing'"),
        ({"train.lr_backbone": 1e-5}, "cache_features needs"),
        ({"data.flip": True}, "train_sizes=None leaves images as they are"),
        ({"data.train_sizes": ()}, "data.train_sizes: .*at least 1 item"),
        ({"data.train_sizes": (0,)}, "data.train_sizes.0: .*greater than 0"),
        ({"train.seed": 2**63}, f"train.seed: .*, found {2**63}"),
        ({"train.seed": 2**43}, f"train.seed: .*less than {2**43}"),
        ({"train.seed": -1}, "train.seed: .*greater than or equal to 0"),
    ],
)
def test_impossible_settings_are_refused_with_the_nearest_name(overrides, message):
    with pytest.raises(ValueError, match=message):
        Config.preset("smoke", overrides=overrides)


def test_a_section_that_the_preset_fills_can_be_emptied_or_filled_otherwise():
    own = Config.preset("smoke", overrides={"data.path": "photos", "data.toy": None})
    assert own.data.toy is None
    toy = Config.preset("smoke").data.toy
    for stated in ({"data.toy": {"num_images": (5, 4, 3)}}, {"data.toy.num_images": (5, 4, 3)}):
        changed = Config.preset("smoke", overrides=stated).data.toy
        assert changed == toy.model_copy(update={"num_images": (5, 4, 3)})
    seeded = Config.preset("smoke", overrides={"data.toy": {"seed": 1}}).data.toy
    assert seeded == toy.model_copy(update={"seed": 1})


def test_unknown_preset_names_the_known():
    with pytest.raises(ValueError, match="unknown preset 'tooy'; known: coco, finetune, toy"):
        Config.preset("tooy")


def test_numbers_written_as_text_are_read():
    """Papermill's -y option passes 1e-3 as text (PyYAML 1.1)."""
    assert Config.preset("smoke", overrides={"train.lr": "1e-3"}).train.lr == 1e-3


def test_config_is_frozen():
    config = Config.preset("smoke")
    with pytest.raises(ValueError, match="frozen"):
        config.train.lr = 1.0
