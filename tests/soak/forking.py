"""Processes that start warm: torch is imported once, and each drill's process is a fork."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

HANGING = 300  # seconds after which a process is taken to wait for ever


class Child:
    """A process that runs a function in a folder, and what it says.

    Args:
        do: gives the exit code.
        folder: to run in.
    """

    def __init__(self, do: Callable[[], int], folder: Path) -> None:
        self.output = folder / f"said-{time.monotonic_ns()}.txt"
        sys.stdout.flush()
        self.process = os.fork()
        self.code: int | None = None
        if self.process == 0:
            self._be(do, folder)

    def _be(self, do: Callable[[], int], folder: Path) -> None:
        """What the process does; it never returns."""
        code = 70
        try:
            os.setsid()  # its own group: what it starts ends with it
            file = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            for stream in (1, 2):
                os.dup2(file, stream)
            sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
            os.chdir(folder)
            code = do()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code or 0)

    def poll(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        if self.code is None:
            process, status = os.waitpid(self.process, os.WNOHANG)
            if process:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(self, timeout: float = HANGING) -> int:
        """As `poll`, when it ends; one that hangs is killed, which is minus SIGKILL."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                self.end()
                break
            time.sleep(0.005)
        return self.code

    def signal(self, number: int) -> bool:
        """Send a signal; False where the process had ended before."""
        if self.poll() is not None:
            return False
        os.kill(self.process, number)
        return True

    def end(self) -> None:
        """Kill it and what it started."""
        if self.code is None:
            try:
                os.killpg(self.process, signal.SIGKILL)
            except ProcessLookupError:
                os.kill(self.process, signal.SIGKILL)
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""
