"""A hook at every operation on files below a folder: open, write, fsync, replace, truncate, ...

Inside a process that nothing else happens in: what is hooked stays hooked until it ends.
"""

import builtins
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from detrnb.runs import writing

Act = Callable[[int, str, Path], None]  # number of the operation from 1, its kind, the file
PATHS = ("replace", "link", "unlink", "mkdir", "rmdir", "utime", "truncate")


class Hook:
    """Calls `act` before every operation below a folder.

    Args:
        torn: the number of an operation of which, if it is a write, half is done before `act`.
    """

    def __init__(self, folder: Path, act: Act, torn: int = 0) -> None:
        self.folder, self.act, self.torn, self.count = str(folder.resolve()), act, torn, 0
        self._inside = False

    def install(self) -> None:
        for name in PATHS:
            setattr(os, name, self._of_path(name, getattr(os, name)))
        fsync = os.fsync

        def hooked_fsync(handle: int) -> None:
            self._before("fsync", os.readlink(f"/proc/self/fd/{handle}"))
            fsync(handle)

        os.fsync = hooked_fsync
        raw = writing._NotingFile.write

        def hooked_write(file: object, data: bytes) -> int:
            try:
                self._before("write", file.name, lambda: raw(file, bytes(data)[: len(data) // 2]))
            except OSError as error:  # noted, as what hooked_write stands for would
                file.failed = error
                raise
            return raw(file, data)

        writing._NotingFile.write = hooked_write
        writing.open = self._open
        sys.addaudithook(self._audit)

    def _of_path(self, name: str, function: Callable) -> Callable:
        def hooked(*given: object, **named: object) -> object:
            self._before(name, given[-1] if name in ("replace", "link") else given[0])
            return function(*given, **named)

        return hooked

    def _open(self, path: object, *given: object, **named: object) -> object:
        file = builtins.open(path, *given, **named)  # noqa: SIM115  whoever asked closes it
        return _Appending(self, file) if given[:1] == ("ab",) else file

    def _audit(self, event: str, given: tuple) -> None:
        if event == "open" and isinstance(given[0], str | os.PathLike):
            flags = given[2] if isinstance(given[2], int) else 0
            if flags & (os.O_WRONLY | os.O_RDWR):
                self._before("open", given[0])

    def _before(self, kind: str, path: object, half: Callable[[], object] | None = None) -> None:
        place = os.path.abspath(os.fsdecode(path)) if not isinstance(path, int) else ""
        if self._inside or not place.startswith(self.folder):
            return
        self.count += 1
        self._inside = True
        try:
            if half is not None and self.count == self.torn:
                half()
            self.act(self.count, kind, Path(place))
        finally:
            self._inside = False


class _Appending:
    """The file that `append_whole` writes, hooked."""

    def __init__(self, hook: Hook, file: object) -> None:
        self.hook, self.file = hook, file

    def __enter__(self) -> "_Appending":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)

    def write(self, data: bytes) -> int:
        self.hook._before("write", self.file.name, lambda: self.file.write(data[: len(data) // 2]))
        return self.file.write(data)

    def truncate(self, size: int) -> int:
        self.hook._before("truncate", self.file.name)
        return self.file.truncate(size)


def noting(file: Path) -> Act:
    """Writes each operation as a line into a file elsewhere."""

    def act(number: int, kind: str, path: Path) -> None:
        with builtins.open(file, "a") as told:
            told.write(f"{kind} {path.name}\n")

    return act


def killing(at: int) -> Act:
    """Kills the process before an operation."""

    def act(number: int, kind: str, path: Path) -> None:
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return act


def failing(at: int, error: int) -> Act:
    """Has an operation and all of its kind on that file fail, as a full disk does."""
    struck: list[tuple[str, str]] = []

    def act(number: int, kind: str, path: Path) -> None:
        if number == at:
            struck.append((kind, path.name))
        if (kind, path.name) in struck:
            raise OSError(error, os.strerror(error), str(path))

    return act
