"""Image files that are there under another name than their record's.

Annotations that come from another machine bring its paths: a folder in front, backslashes, `%20`
for a space, another case, letters and their accents apart.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote


def found_elsewhere(folder: Path, missing: Iterable[str], present: set[str]) -> dict[str, str]:
    """Where in a folder the files are that names lead nowhere to.

    Args:
        folder: of the images, searched with all folders in it.
        missing: file names that lead to no file.
        present: those that do; what they name is nobody else's.

    Returns:
        Name -> path from the folder, of the names that fit one file alone which no other fits.
    """
    by_path: dict[str, list[str]] = {}
    by_name: dict[str, list[str]] = {}
    for inner, _, files in os.walk(folder):
        for file in files:
            path = os.path.relpath(os.path.join(inner, file), folder).replace(os.sep, "/")
            by_path.setdefault(_plain(path), []).append(path)
            by_name.setdefault(_plain(file), []).append(path)
    found = {name: _lookup(name, by_path, by_name) for name in missing}
    taken = Counter([*found.values(), *(os.path.normpath(name) for name in present)])
    return {name: path for name, path in found.items() if path and taken[path] == 1}


def _lookup(name: str, by_path: dict[str, list[str]], by_name: dict[str, list[str]]) -> str | None:
    """The one file that a name's end leads to: as much of its path as is here, or its last part."""
    for form in (name, unquote(name)):
        parts = _plain(form.replace("\\", "/")).split("/")
        ends = ["/".join(parts[start:]) for start in range(len(parts))]
        for paths in (*(by_path.get(end) for end in ends), by_name.get(parts[-1])):
            if paths:
                return paths[0] if len(paths) == 1 else None
    return None


def _plain(text: str) -> str:
    """Text by which names that differ in case or in how accents are written are one."""
    return unicodedata.normalize("NFC", text).casefold()
