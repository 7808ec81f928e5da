"""Hashes of source: what is computed decides, not how it is written down."""

import pytest

from detrnb.runs.source import hash_of_file

CODE = '''"""What it is for."""
import math


class Part:
    """A part."""

    size: int = 3

    def grow(self, by=None):
        """Grow."""
        # why
        return math.sqrt(self.size) + (by or 0)
'''
SAME = """
import math
class Part:
    size: int=3
    def grow(self,
             by=None):
        "Another docstring, and other formatting"
        return math.sqrt(
            self.size
        ) + (by or 0)  # because
"""


def written(tmp_path, text):
    path = tmp_path / "part.py"
    path.write_text(text)
    return hash_of_file(path)


def test_comments_docstrings_and_formatting_do_not_count(tmp_path):
    assert written(tmp_path, SAME) == written(tmp_path, CODE)
    assert len(written(tmp_path, CODE)) == 12


@pytest.mark.parametrize(
    "old, new",
    [
        ("+ (by", "- (by"),
        ("= 3", "= 4"),
        ("by or 0", "by or 0.0"),
        ("by=None", "by"),
        ("math.sqrt", "math.cbrt"),
        ("(self, by", "(self, *, by"),
        ("return math.sqrt(self.size) + (by or 0)", "return None"),
    ],
)
def test_what_changes_a_number_counts(tmp_path, old, new):
    assert old in CODE
    assert written(tmp_path, CODE.replace(old, new)) != written(tmp_path, CODE)


def test_nothing_is_not_none(tmp_path):
    assert written(tmp_path, "x = None") != written(tmp_path, "x = ()")
    assert written(tmp_path, "def f():\n    return") != written(tmp_path, "def f():\n    return 0")
    assert written(tmp_path, "f(*a)") != written(tmp_path, "f(**a)")
