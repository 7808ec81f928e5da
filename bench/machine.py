"""Print, as JSON, what results are of: machine, versions, commit, date.

python bench/machine.py [CLONE of the reference]
"""

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch
from timing import DEVICE

from detrnb.runs import this_process
from detrnb.training import device_name, seconds_of

SIDE = 2048  # of the matrices whose product tells how fast the machine is
CONTESTANTS = ("transformers", "pycocotools", "faster-coco-eval")


def processor() -> str:
    """What its maker calls it."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def gigaflops() -> float:
    """Float32 products of large matrices, billions of operations a second."""
    a, b = torch.rand(2, SIDE, SIDE, device=DEVICE)
    a @ b
    least = min(seconds_of(lambda: a @ b, DEVICE) for _ in range(3))
    return 2 * SIDE**3 / least / 1e9


def version(package: str) -> str | None:
    """Of a contestant; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit_of(clone: str) -> str:
    """Of the reference's clone."""
    command = ["git", "-C", clone, "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip()[:7] or "of a commit that git cannot tell"


if __name__ == "__main__":
    here = this_process()
    dirty = " and changes" if here["git_dirty"] else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    about = {
        "machine": {
            "processor": processor(),
            "cores": here["cpu_count"],
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "memory_gib": round(memory, 1),
            "system": here["platform"],
        },
        "device": device_name(DEVICE) if DEVICE.type == "cuda" else None,
        "gflops": round(gigaflops(), 1),
        # Our own code is told by its commit.
        "versions": {name: v for name, v in here["versions"].items() if name != "detrnb"}
        | {name: version(name) for name in CONTESTANTS}
        | {"reference": commit_of(sys.argv[1]) if len(sys.argv) > 1 else None},
        "commit": f"{str(here['git_commit'])[:7]}{dirty}",
        "date": here["started"],
    }
    print(json.dumps(about))
