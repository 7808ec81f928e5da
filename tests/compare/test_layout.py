"""Tables in a terminal: nothing is lost, whatever is long."""

import re

import pytest

from detrnb.compare import layout


def letters(text: str) -> str:
    return "".join(sorted(re.sub(r"\s", "", text)))


def test_table_that_fits_is_left_as_it_is():
    assert layout.columns([("run", "AP"), ("detr", "0.31")]) == "run   AP\ndetr  0.31"


@pytest.mark.parametrize("name", ["n" * 250, "a-long_name-" * 30, "many words " * 40])
@pytest.mark.parametrize("numbers", [3, 8])
def test_long_name_is_wrapped_and_numbers_are_whole(name, numbers):
    cells = [f"{1000 + i},{i}99,000" for i in range(numbers)]
    rows = [("run", *["params"] * numbers), (name, *cells), ("short", *cells)]
    text = layout.columns(rows)
    assert max(map(len, text.splitlines())) <= (100 if numbers == 3 else 130)
    assert letters(text) == letters("".join(map("".join, rows)))
    assert all(cell in text for cell in cells)


def test_two_long_names_share_the_width():
    rows = [("", "x" * 300, "y" * 300), ("learning rate", "0.0001", "5e-05")]
    text = layout.columns(rows)
    assert max(map(len, text.splitlines())) <= 100 and letters(text) == letters(
        "".join(sum(rows, ()))
    )


@pytest.mark.parametrize("count", [40, 200])
def test_more_columns_than_a_terminal_has_room_for_stay_readable(count):
    rows = [[f"a rather long heading {i}" for i in range(count)], ["0.123456"] * count]
    text = layout.columns(rows)
    assert letters(text) == letters("".join(map("".join, rows)))
    assert text.count("0.123456") == count


def test_empty_cells_and_columns_break_nothing():
    assert layout.columns([("", "AP"), ("", "0.3")]) == "   AP\n   0.3"
    assert layout.columns([("", "")]) == ""
