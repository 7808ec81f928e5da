"""Image files that are there under another name than their record's are found, never guessed."""

import unicodedata

import pytest

from detrnb.datasets.misplaced import found_elsewhere


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "sub/b.jpg", "two words.jpg", "sub/c.png", "other/c.png", "50%25.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / unicodedata.normalize("NFC", "é.jpg")).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("images\\sub\\a.jpg", "a.jpg"),
        ("/home/somebody/images/a.jpg", "a.jpg"),
        ("C:\\images\\A.JPG", "a.jpg"),
        ("b.jpg", "sub/b.jpg"),
        ("images/sub/b.jpg", "sub/b.jpg"),
        ("two%20words.jpg", "two words.jpg"),
        ("x/50%25.jpg", "50%25.jpg"),
        (unicodedata.normalize("NFD", "é.jpg"), "é.jpg"),
        ("images/other/c.png", "other/c.png"),
    ],
)
def test_a_file_is_found_under_the_end_of_its_name(folder, name, path):
    assert found_elsewhere(folder, [name], set()) == {name: path}


@pytest.mark.parametrize("name", ["c.png", "d.jpg", "a", "sub", "images/third/c.png", "a.jpg/"])
def test_a_name_that_fits_none_or_several_is_left_missing(folder, name):
    assert found_elsewhere(folder, [name], set()) == {}


def test_one_file_is_not_found_for_two_names(folder):
    assert found_elsewhere(folder, ["x/a.jpg", "y/a.jpg"], set()) == {}
    assert found_elsewhere(folder, ["x/a.jpg"], {"./a.jpg"}) == {}


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
    assert found_elsewhere(tmp_path / "none", ["a.jpg"], set()) == {}
