"""A checksum at the end of a JSON object, so that what a disk spoiled is not read as a result.

It is computed beginning with the one of the run's config.json, so that a file of another run fails
too. Objects without one, of runs of before there was any and of other codes, are taken as they are.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

KEY = "crc32"


def identity(folder: Path) -> int | None:
    """What tells a run's files from another's: the checksum of its config.json.

    None where there is none: of a run of before it was kept, or a config changed by hand; or where
    the file cannot be read, which is for its reader to say.
    """
    try:
        return json.loads((folder / "config.json").read_bytes()).get(KEY)
    except (OSError, ValueError, AttributeError):
        return None


def of_two_runs(one: int | None, other: int | None) -> bool:
    """Whether two identities are known, and are not of one run."""
    return None not in (one, other) and one != other


def is_sealed(config: Mapping[str, object], where: str) -> bool:
    """Whether a config.json has a checksum; where it has none, nothing of its run is checked.

    Raises:
        ValueError: what would be its checksum has another name by one character.
    """
    for key in config:
        if len(key) == len(KEY) and sum(a != b for a, b in zip(key, KEY, strict=True)) == 1:
            raise ValueError(f"{where}: {key!r} is {KEY!r} damaged; bring it back from a copy")
    return KEY in config


def sealed(value: Mapping[str, object], run: int | None = None) -> dict[str, object]:
    """An object as it is written: its checksum last.

    Args:
        value: as json reads it back.
        run: its identity; None where it has none, and for config.json itself.
    """
    return {**value, KEY: _checksum(value, run or 0)}


def opened(found: Mapping[str, object], where: str, run: int | None = 0) -> dict[str, object]:
    """An object that was read, without its checksum.

    Args:
        where: it was read, for the error.
        run: its identity; 0 for a config.json that has a checksum; None where it is not known,
            and nothing is checked.

    Raises:
        ValueError: the checksum is wrong, or not there.
    """
    value = {key: part for key, part in found.items() if key != KEY}
    if run is not None and found.get(KEY) != _checksum(value, run):
        of_another = ", is of another run than config.json" if run else ""
        raise ValueError(
            f"{where}: not as it was written (its {KEY} says so): it is damaged{of_another}, or"
            " was changed by hand. Bring it back from a copy; to keep a change, take"
            f" {KEY!r} out of config.json, and nothing of the run is checked any more"
        )
    return value


def _checksum(value: Mapping[str, object], run: int) -> int:
    return zlib.crc32(json.dumps(value).encode(), run)
