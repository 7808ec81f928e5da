"""The lists of a JSON file, element by element, so that a large file is never in memory as a whole.

COCO's training annotations are 450 MB of text and several times that as Python objects.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

WINDOW = 1 << 20  # characters read at a time

_SPACE = re.compile(r"[ \t\n\r]*")
_END = re.compile(r"[ \t\n\r,:\]}]")  # what may follow a value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of JSON, whose keys say one thing each."""
    whole = dict(pairs)
    if len(whole) < len(pairs):
        for key, value in pairs:
            if whole[key] != value:
                raise ValueError(f"two values of the key {key!r} in one object")
    return whole


_decode = json.JSONDecoder(object_pairs_hook=_object).raw_decode


def json_lists(path: Path) -> Iterator[tuple[str, Iterator[object]]]:
    """Every list of the object that a JSON file holds, in the file's order.

    Args:
        path: UTF-8 text.

    Yields:
        Name and elements of a list. What the caller leaves of the elements is skipped, as are
        values that are no lists.

    Raises:
        ValueError: the file is not JSON, is cut off, or holds something else than an object; names
            the file, the place in characters and the list.
        OSError: it cannot be read.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        window = _Window(path, file)
        window.take("{")
        if window.peek() == "}":
            return
        while True:
            name = window.value()
            window.take(":")
            if window.peek() == "[":
                elements = _elements(window, name)
                yield str(name), elements
                for _ in elements:
                    pass
            else:
                window.value()
            if window.take(",}") == "}":
                break
        if window.peek():
            raise window.error("goes on after its end")


def _elements(window: "_Window", name: object) -> Iterator[object]:
    """The elements of the list that begins here."""
    window.take("[")
    if window.peek() == "]":
        window.take("]")
        return
    number = 0
    while True:
        window.inside = f", in element {number} of its list {name!r}"
        yield window.value()
        if window.take(",]") == "]":
            break
        number += 1
    window.inside = ""


class _Window:
    """What of the file is in memory, and how far it is used up."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self.file = path, file
        self.text, self.at = "", 0
        self.before = 0  # characters of the file in front of the window
        self.inside = ""  # where in the file, in words

    def error(self, problem: str) -> ValueError:
        """What is wrong, and where."""
        place = f"character {self.before + self.at:,}{self.inside}"
        return ValueError(f"{self.path} is not a whole JSON object: it {problem} at {place}")

    def peek(self) -> str:
        """The next character that is no white space; empty at the file's end."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()
            if self.at < len(self.text) or not self._read_on():
                return self.text[self.at : self.at + 1]

    def take(self, expected: str) -> str:
        """Use up the next character, one of those expected."""
        found = self.peek()
        if not found:
            raise self.error("is cut off")
        if found not in expected:
            raise self.error(f"has {found!r} in place of {' or '.join(map(repr, expected))}")
        self.at += 1
        return found

    def value(self) -> object:
        """Use up the next value."""
        if not self.peek():
            raise self.error("is cut off")
        while True:
            try:
                value, end = _decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if self._read_on():  # it may only reach out of the window
                    continue
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self.text)
                self.at = error.pos
                raise self.error("is cut off" if cut else f"has {error.msg!r}") from None
            except ValueError as error:  # of a key, or of a number of thousands of digits
                raise self.error(f"has {error}") from None
            except RecursionError:
                raise self.error("has too many lists or objects inside each other") from None
            # A number may go on beyond the window: '1.' is read as 1.
            if _END.match(self.text, end) or not self._read_on():
                self.at = end
                return value

    def _read_on(self) -> bool:
        """Drop what is used up and read as much again as is left; False at the file's end."""
        try:
            more = self.file.read(max(WINDOW, len(self.text) - self.at))
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path} is not UTF-8 text ({error}); save it as such") from None
        if more:
            self.text, self.before = self.text[self.at :] + more, self.before + self.at
            self.at = 0
        return bool(more)
