"""Files that are replaced wholly or not at all."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace a file in one step, so that neither a reader nor a crash ever meets half of it.

    The folder is made as needed. What was there stays where writing fails.

    Args:
        write: puts the content into a file that is open for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # two processes may write the same
    try:
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def copy_whole(source: Path, path: Path) -> None:
    """Make a file a copy of another, as `write_whole` does."""
    with open(source, "rb") as content:
        write_whole(path, partial(shutil.copyfileobj, content))
