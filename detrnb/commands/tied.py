"""`python -m detrnb.commands.tied ...`: detrnb's command line in a process that ends with another.

The other one holds this one's standard input open; it ends when that does, however it ends.
"""

import os
import runpy
import signal
import sys
import time
from threading import Thread

GRACE = 10  # seconds to end in order


def tie() -> None:
    """From now on end when standard input does."""
    Thread(target=_end_with_the_other, daemon=True).start()


def _end_with_the_other() -> None:
    while os.read(sys.stdin.fileno(), 1):  # without Python's lock, which would outlive the end
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


if __name__ == "__main__":
    tie()
    runpy.run_module("detrnb", run_name="__main__", alter_sys=True)
