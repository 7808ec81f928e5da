"""Files that are replaced wholly or not at all, whatever a full disk or a crash does."""

import errno
import io
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import BinaryIO

STALE_AFTER = 3600  # seconds; writing one file takes less
_COUNT = count()
_FULL = "; what was there stays. Make room on its disk and start again; a run goes on where it was"
_LOCKED = "; allow writing there, or work on a copy elsewhere"
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _FULL),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _LOCKED),
}


class _NotingFile(io.FileIO):
    """A file that remembers why it could not be written: torch.save raises an error of its own."""

    failed: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failed = error
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an error of the disk say which file could not be written, and what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = _REMEDIES.get(error.errno, "")
        told = type(error)(f"{path} could not be written: {reason}{remedy}")
        told.errno = error.errno
        raise told from error


def is_there(path: Path) -> bool:
    """Whether a folder lists a name: a link that leads nowhere is there, and is no missing file."""
    return os.path.lexists(path)


def write_text(path: Path, text: str) -> None:
    """Replace a file by a text, as `write_whole` does.

    Raises:
        OSError: as for `write_whole`.
    """
    write_whole(path, lambda file: file.write(text.encode()))


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace a file in one step, so that neither a reader nor a crash ever meets half of it.

    The folder is made as needed. What was there stays where writing fails.

    Args:
        write: puts the content into a file that is open for it.

    Raises:
        OSError: it could not be written; names the file.
    """
    # Two threads may write the same, or two processes, on a shared folder those of two machines.
    writer = f"{platform.node()}.{os.getpid()}.{next(_COUNT)}"
    beside = path.with_name(f".{path.name}.{writer}.tmp")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = _NotingFile(beside, "wb")
        try:
            with io.BufferedWriter(raw) as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException as error:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            if raw.failed and isinstance(error, Exception):
                raise raw.failed from None
            raise
        _sync_folder(path.parent)


def copy_whole(source: Path, path: Path) -> None:
    """Make a file a copy of another, as `write_whole` does."""
    with open(source, "rb") as content:
        write_whole(path, partial(shutil.copyfileobj, content))


def append_whole(path: Path, data: bytes) -> None:
    """Add to a file's end, all or nothing.

    Raises:
        OSError: it does not fit; names the file.
    """
    with naming(path), open(path, "ab", buffering=0) as file:
        start = file.tell()
        try:
            if file.write(data) != len(data):  # a full disk takes part of it
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(start)
            raise
        _sync_folder(path.parent)


def remove_left_over(folder: Path) -> None:
    """Delete the temporary files of `write_whole` in a folder whose processes are gone.

    Those of another machine, or of an earlier version, are gone when they are an hour old.
    """
    for path in folder.glob("*.tmp"):
        with suppress(OSError):  # another process may be quicker
            if _is_left_over(path):
                path.unlink()


def _is_left_over(path: Path) -> bool:
    process = re.fullmatch(rf"\..+\.{re.escape(platform.node())}\.(\d+)\.\d+\.tmp", path.name)
    if process and is_gone(int(process[1])):
        return True
    return time.time() - path.stat().st_mtime > STALE_AFTER


def is_gone(process: int) -> bool:
    """Whether no process of this machine has a number any more."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        pass
    return False


def _sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk: without it a crash may lose a file that was replaced."""
    with suppress(OSError):  # not every file system has this
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
