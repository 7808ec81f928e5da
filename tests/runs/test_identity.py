"""The one definition of "the same run": settings, data, code."""

import pytest

from detrnb import Config
from detrnb.runs.identity import (
    ABSENT,
    code_differences,
    config_differences,
    data_differences,
    same_data,
    trained_by,
    what_counts,
)


def counted(**dotted: object) -> dict:
    overrides = {key.replace("__", "."): value for key, value in dotted.items()}
    return what_counts(Config.preset("smoke", overrides=overrides).model_dump(mode="json"))


def of_batch(batch_size: int) -> dict:
    overrides = {"train.batch_size": batch_size}
    return Config.preset("smoke", overrides=overrides).model_dump(mode="json")


def test_config_differences_are_dotted_and_complete():
    old = {"train": {"lr": 1e-4, "epochs": 2}, "model": {"options": {}, "layers": (1, 2)}}
    new = {"train": {"lr": 1e-5, "epochs": 2}, "model": {"layers": [1, 2], "depth": None}}
    assert config_differences(old, new) == {
        "train.lr": (1e-4, 1e-5),
        "model.options": ({}, ABSENT),
        "model.depth": (ABSENT, None),
    }
    assert config_differences(old, old) == {}


def test_settings_that_change_no_number_do_not_count():
    assert counted(data__num_workers=7) == counted()
    assert what_counts({"preset_name": "mine"}) == what_counts({"preset_name": "toy"})
    assert counted(train__batch_size=4, train__accumulate=2) == counted(train__batch_size=8)
    assert counted(train__batch_size=4) != counted(train__batch_size=8)
    assert what_counts(of_batch(4), 2) == what_counts(of_batch(8))
    assert what_counts(of_batch(8), 2) != what_counts(of_batch(8))
    grouped = {"data__group_by_aspect": True}  # there a batch's size says which images meet
    assert counted(train__batch_size=4, train__accumulate=2, **grouped) != counted(**grouped)
    by_aspect = of_batch(8)
    by_aspect["data"]["group_by_aspect"] = True
    assert what_counts(by_aspect, 2) != what_counts(by_aspect)


def test_every_other_setting_counts():
    """Whatever is added later counts too, unless it is named as one that does not."""
    settings = Config.preset("smoke").model_dump(mode="json")
    apart = {"model": [], "data": ["num_workers"]}
    apart |= {"train": ["batch_size", "accumulate", "trackers"]}
    for section, names in apart.items():
        for key in settings[section].keys() - set(names):
            changed = {**settings, section: {**settings[section], key: "another"}}
            assert what_counts(changed) != what_counts(settings), key


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("aa", "aa", True),
        ("aa", "ab", False),
        ("aa+bb", "aa+bb", True),
        ("aa+bb", "aa+bc", False),  # images were exchanged
        ("aa", "aa+bb", True),  # of 0.1, or generated: its annotations tell all that is known
        ("aa", "ab+bb", False),
    ],
)
def test_data_are_the_same_as_far_as_both_fingerprints_tell(one, other, same):
    assert same_data(one, other) is same
    assert bool(data_differences({"val": one}, {"val": other})) is not same


def test_split_of_another_name_is_other_data():
    assert data_differences({"a": "aa"}, {"b": "aa"}) == {"a": ("aa", ABSENT), "b": (ABSENT, "aa")}


def test_code_of_a_run_is_all_that_trained_it():
    old, new = {"x.py": "1"}, {"x.py": "2", "y.py": "3"}
    assert trained_by({"code": old, "resumed": [{}, {"code": new}]}) == [old, new]
    assert trained_by({"resumed": [{"code": new}]}) == [None, new]  # begun by 0.1
    assert code_differences(old, new) == ["x.py", "y.py"]
    assert code_differences(new, new) == []
