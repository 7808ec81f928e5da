"""One process at a time writes a run folder: the lock that says which; no torch here.

`lock.json` names process, host and start, and its time of change says when it was last renewed. It
is made by a hard link, or where a file system has none by an exclusive open; both are atomic on
local disks and on NFS from version 3 on. Times are compared as the folder's file server gives them,
so that hosts' clocks need not agree.

What cannot be had: a file system that keeps neither promise (some that show a cloud's storage), or
that shows another host's files minutes late, lets two processes in. A process that stood still for
five minutes may lose its lock and finds that out before it writes next, but not in the moment
between look and write.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from detrnb.runs.writing import is_gone, naming

RENEWED_EVERY, STALE_AFTER = 30.0, 300.0  # seconds
_KINDS = {"process": int, **dict.fromkeys(("host", "started", "namespace", "token"), str)}


class RunLock:
    """The right to write a run folder, from `acquire` to `release`.

    A thread renews it, so that nothing that takes long, such as an evaluation, loses it. Meanwhile
    SIGTERM ends the process in order, as an exception does.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "lock.json"
        self._mine: dict | None = None
        self._released = threading.Event()
        self._heeds_sigterm = False

    def acquire(self) -> None:
        """Take the lock; one that is stale is taken over, and that is said.

        Raises:
            ValueError: another process holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        mine = _this_process() | {"token": uuid.uuid4().hex}
        # Named so that `remove_left_over` knows whose it was, if this process is killed here.
        writer = f"{platform.node()}.{os.getpid()}.0"
        draft = self.folder / f".lock.{mine['token']}.{writer}.tmp"
        self._mine = mine  # before it is made: `release` then removes it whatever comes between
        try:
            with naming(self.path):
                draft.write_text(json.dumps(mine, indent=2) + "\n")
            while not (_create(draft, self.path) or self._take_over(draft)):
                time.sleep(0.1)  # another process is at it
        finally:
            draft.unlink(missing_ok=True)
        self._remove_dead_claims()
        self._released.clear()
        threading.Thread(target=self._renew, args=[mine["token"]], daemon=True).start()
        if threading.current_thread() is threading.main_thread():  # others may set no handler
            self._heeds_sigterm = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            if self._heeds_sigterm:
                signal.signal(signal.SIGTERM, _end)

    def check(self) -> None:
        """See that the lock is still this process's, before it writes.

        Raises:
            ValueError: it is not: the process stood still for long, or the file was deleted.
        """
        held = _read(self.path)
        if held.get("token") != self._mine["token"]:
            now = f"which {_who(held)} holds now" if held else "which is gone"
            raise ValueError(
                f"{self.folder}: this process has lost its {self.path.name}, {now}; it writes"
                " nothing more. The run goes on from its last epoch when it is started again"
            )

    def release(self) -> None:
        """Give the lock back; nothing where this process holds none."""
        if self._mine is None:
            return
        self._released.set()
        try:
            with _changing(self.path, self._mine) as mine:
                if mine:
                    self.path.unlink()
        except OSError:  # a full disk has no room for a claim; removing needs none
            with suppress(OSError):
                if _read(self.path).get("token") == self._mine["token"]:
                    self.path.unlink()
        self._mine = None
        if self._heeds_sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def remove_dead(self) -> None:
        """Remove what a process left that was killed after its run's last word: nobody else will
        take its lock over. Nothing where the folder cannot be written.
        """
        with suppress(OSError):
            held = _read(self.path)
            if _is_gone(held):
                with _changing(self.path, held) as same:
                    if same:
                        self.path.unlink()
            self._remove_dead_claims()

    def _remove_dead_claims(self) -> None:
        """Those of processes that were killed while they changed the lock."""
        for claim in self.folder.glob(".lock.*.claim"):
            if _is_gone(_read(claim)):
                claim.unlink(missing_ok=True)

    def _renew(self, token: str) -> None:
        while not self._released.wait(RENEWED_EVERY):
            with suppress(OSError):  # a network that is away for a moment
                if _read(self.path).get("token") != token:
                    return
                os.utime(self.path)

    def _take_over(self, draft: Path) -> bool:
        """Put the draft in the place of a stale lock; False where that changed meanwhile.

        Raises:
            ValueError: it is not stale.
        """
        held = _read(self.path)
        try:
            os.utime(draft)
            silent = draft.stat().st_mtime - self.path.stat().st_mtime
        except FileNotFoundError:
            return False
        if _is_gone(held):
            why = "whose process is gone"
        elif silent > STALE_AFTER:
            why = f"which was not renewed for {silent / 60:.0f} minutes"
        else:
            raise ValueError(
                f"{self.folder} is being trained by {_who(held)}; wait for it or end it, or give"
                " this run another name"
            )
        with _changing(self.path, held) as same:
            if same:
                os.replace(draft, self.path)
                print(f"{self.folder.name}: took over the lock of {_who(held)}, {why}", flush=True)
        return same


def _create(draft: Path, path: Path) -> bool:
    """Make the lock with the draft's content unless there is one."""
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError:
        if draft.stat().st_nlink == 2:  # made, though the network lost the answer
            return True
        try:  # a file system without hard links
            with path.open("x") as file:
                file.write(draft.read_text())
        except FileExistsError:
            return False
    return True


@contextmanager
def _changing(path: Path, held: Mapping[str, object]) -> Iterator[bool]:
    """Inside, only this process may replace or remove the lock as it was read.

    Of two that find the same lock stale, the second must not replace the first one's new lock.

    Yields:
        Whether the lock is still that one, and nobody else is changing it.
    """
    claim = path.with_name(f".lock.{held.get('token')}.claim")
    while _is_gone(dead := _read(claim)):
        # One was killed just here. Its claim stays: of two that remove it, the second would remove
        # the first one's new claim.
        claim = path.with_name(f".lock.{dead['token']}.claim")
    with suppress(FileNotFoundError):
        if time.time() - claim.stat().st_mtime > STALE_AFTER:  # of one on another host
            claim.unlink()
    try:
        file = claim.open("x")
    except FileExistsError:
        yield False
        return
    try:
        with file:  # which a full disk may refuse
            file.write(json.dumps(_this_process() | {"token": uuid.uuid4().hex}))
        yield _read(path).get("token") == held.get("token")
    finally:
        claim.unlink(missing_ok=True)


def _read(path: Path) -> dict:
    """Who holds a lock; empty where there is none, or nothing that says who: only its beginning."""
    try:
        held = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    kinds = {key: type(value) for key, value in held.items()} if isinstance(held, dict) else {}
    return held if kinds.items() >= _KINDS.items() else {}


def _this_process() -> dict[str, object]:
    return {
        "process": os.getpid(),
        "host": platform.node(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "namespace": _namespace(),
        "life": _life(os.getpid()),
    }


def _is_gone(held: Mapping[str, object]) -> bool:
    """Whether a lock's process is known to have ended: only on its own host can that be seen."""
    here = (platform.node(), _namespace())
    if (held.get("host"), held.get("namespace")) != here:
        return False
    return _life(held["process"]) != held.get("life")


def _namespace() -> str:
    """In which process numbers count: containers of one host have each their own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:  # macOS
        return ""


def _life(process: int) -> str | None:
    """What tells a process from a later one of its number; None where there is none."""
    if is_gone(process):
        return None
    try:
        state, *rest = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # macOS
        return "unknown"
    return None if state == "Z" else rest[18]  # ended, but not yet waited for; start in ticks


def _who(held: Mapping[str, object]) -> str:
    if not held:
        return "an unknown process"
    return f"process {held['process']} on {held['host']} since {held['started']}"


def _end(signum: int, frame: object) -> NoReturn:
    raise SystemExit(128 + signum)
