"""`python -m soak`: drills by name or all, for some minutes, into the table."""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

# As for tests: one thread adds up in one order, and no run is copied to where the user keeps runs.
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DETRNB_MIRROR": ""}
os.environ.pop("DETRNB_HOME", None)

MEMORY = Path("/dev/shm")  # where writing a hundred checkpoints costs no disk


def main() -> None:
    from soak.drill import keep, table
    from soak.drills import DRILLS

    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("drills", nargs="*", metavar="DRILL", help=", ".join(DRILLS))
    parser.add_argument("--minutes", type=float, default=240.0, help="for all of them together")
    asked = parser.parse_args()
    names = asked.drills or [*DRILLS]
    unknown = [name for name in names if name not in DRILLS]
    if unknown:
        parser.error(f"no drill {', '.join(unknown)}; there are {', '.join(DRILLS)}")
    for name in names:
        print(f"{name}:", flush=True)
        parent = MEMORY if os.access(MEMORY, os.W_OK) else None
        folder = Path(tempfile.mkdtemp(prefix=f"soak-{name}-", dir=parent))
        drill = DRILLS[name]
        try:
            drill.run(folder, 60 * asked.minutes / len(names))
        finally:
            if drill.done:
                keep(drill)
            shutil.rmtree(folder, ignore_errors=True)
    print(table())


if __name__ == "__main__":
    main()
