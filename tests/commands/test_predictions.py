"""What `detrnb predict` leaves: each image has a picture of its own."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from detrnb.commands.predictions import _names


@pytest.mark.parametrize(
    "files, names",
    [
        (["x/a", "y/b"], ["a", "b"]),
        (["x/a", "y/a"], ["a_1", "a_2"]),
        (["x/a", "y/a", "x/a_1"], ["a_1_2", "a_2", "a_1"]),
        (["x/a_1", "y/a_1", "x/a", "y/a", "z/a"], ["a_1_1", "a_1_2", "a_3", "a_4", "a_5"]),
    ],
)
def test_every_picture_has_a_name_of_its_own(files, names):
    found = [SimpleNamespace(file=Path(f"{f}.jpg"), image_id=i + 1) for i, f in enumerate(files)]
    assert _names(found) == names


def test_one_image_that_is_given_twice_has_two_pictures():
    twice = [SimpleNamespace(file=Path("a.jpg"), image_id=7)] * 2
    assert _names(twice) == ["a_7", "a_7_2"]
