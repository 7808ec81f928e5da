"""How long to train, planned; and the warnings before it."""

import pytest

from detrnb.settings.config import LEFT_TO_THE_DATA, Config
from detrnb.settings.planning import cautions, describe, planned

CUSTOM = {"data.path": "data/own", "model.num_classes": 3}


def finetune(**train: object) -> Config:
    stated = {f"train.{key}": value for key, value in train.items()}
    return Config.preset("finetune", overrides={**CUSTOM, **stated})


@pytest.mark.parametrize(
    ("images", "batch", "epochs", "lr_drop", "warmup"),
    [
        (205, 4, 100, 67, 0.1),  # 51 steps an epoch: the most epochs
        (1_000, 4, 40, 27, 0.1),  # 10,000 steps
        (1_000, 32, 100, 67, 0.1),
        (118_287, 4, 12, 8, 0.0056),  # the fewest epochs; 2,000 steps of warm-up
        (3, 4, 100, 67, 0.1),  # less than a batch: fit says so
    ],
)
def test_finetuning_is_planned_by_steps(images, batch, epochs, lr_drop, warmup):
    train = planned(finetune(), images, batch).train
    assert (train.epochs, train.lr_drop, train.warmup) == (epochs, lr_drop, warmup)


@pytest.mark.parametrize(
    ("images", "batch", "epochs"),
    [(118_287, 16, 300), (1_000, 2, 600), (205, 4, 5883)],
)
def test_training_from_scratch_gets_the_references_epochs_and_authors_steps(images, batch, epochs):
    train = planned(finetune(init_from=None), images, batch).train
    assert train.epochs == epochs
    assert epochs * (images // batch) >= 300_000
    assert train.lr_drop == round(epochs * 2 / 3)


def test_what_is_stated_stays_and_the_rest_is_planned_for_it():
    train = planned(finetune(epochs=30), 1_000, 4).train
    assert (train.epochs, train.lr_drop, train.warmup) == (30, 20, 0.1)
    train = planned(finetune(lr_drop=5, warmup=0.0), 1_000, 4).train
    assert (train.epochs, train.lr_drop, train.warmup) == (40, 5, 0.0)
    coco = Config.preset("coco")
    assert planned(coco, 1_000, 4) == coco


def test_a_run_that_began_keeps_what_was_planned_then():
    begun = planned(finetune(), 1_000, 4)
    stated = Config.preset("finetune", overrides={**CUSTOM, "model.num_classes": None})
    assert stated.as_begun(begun.model_dump(mode="json")) == begun
    # What is stated is never taken from elsewhere.
    other = finetune(epochs=7, lr=1e-5)
    assert other.as_begun(begun.model_dump(mode="json")).train.epochs == 7
    assert other.as_begun(begun.model_dump(mode="json")).train.lr == 1e-5


def test_every_setting_that_may_be_none_until_the_data_is_seen_is_listed():
    preset = Config.preset("finetune").model_dump()
    open_ones = {
        section: tuple(key for key in keys if preset[section][key] is None)
        for section, keys in LEFT_TO_THE_DATA.items()
    }
    assert open_ones == LEFT_TO_THE_DATA


def test_length_is_told_in_words():
    config = planned(finetune(), 1_000, 4)
    assert describe(config, 1_000, 4) == (
        "1,000 images, 4 a step: 250 steps an epoch, 10,000 in 40 epochs, 1,000 of them warm-up, a"
        " tenth of the rate after 27"
    )
    short = planned(finetune(epochs=27, lr_drop=27), 1_000, 4)
    assert "tenth" not in describe(short, 1_000, 4)
    assert describe(Config.preset("toy"), 12_000, 32) == (
        "12,000 images, 32 a step: 375 steps an epoch, 2,250 in 6 epochs, 225 of them warm-up"
    )


@pytest.mark.parametrize(
    ("train", "images", "batch", "said"),
    [
        ({}, 1_000, 4, []),
        ({"lr": 1e-4}, 1_000, 4, []),  # the reference's for any batch
        ({"lr": 4e-4}, 1_000, 256, []),  # 16 times 16 images: 4 times the rate
        ({"lr": 5e-4}, 1_000, 256, ["scale it by the square root, 4.0e-04 here"]),
        ({"lr": 1e-3}, 1_000, 2, ["train.lr 0.001 is high for 2 images a step"]),
        ({"init_from": None}, 118_287, 16, []),
        ({"init_from": None, "epochs": 30}, 118_287, 16, ["221,760 steps on 118,287 images"]),
        ({"init_from": None}, 5_000, 2, ["images are few from scratch"]),
        ({"batch_size": 1}, 1_000, 1, ["never shows the model padding"]),
    ],
)
def test_warnings_follow_the_authors_rules(train, images, batch, said):
    found = cautions(planned(finetune(**train), images, batch), images, batch)
    assert len(found) == len(said)
    assert all(text in caution for text, caution in zip(said, found, strict=True))


def test_toy_set_is_not_warned_of():
    assert cautions(Config.preset("toy"), 12_000, 32) == []
