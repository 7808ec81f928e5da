"""What a process can tell about itself: versions, commit, machine, time."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from detrnb.runs.home import is_project

CODE = Path(__file__).resolve().parents[2]  # the clone that the package is imported from
RESULTS = "data/study"  # a study keeps its results there while it runs
PACKAGES = (
    *("torch", "torchvision", "detrnb", "timm", "accelerate", "numpy"),
    *("scipy", "pillow"),  # match, decode
)


def this_process() -> dict[str, object]:
    """What this process can tell about itself: versions, commit, machine, start time.

    Never raises; what cannot be had is None.
    """
    # An installed package's folder may lie in somebody else's repository.
    commit = _git(CODE, "rev-parse", "HEAD") if is_project(CODE) else None
    changes = _git(CODE, "status", "--porcelain", f":!{RESULTS}") if commit else None
    return {
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
        "git_commit": commit,
        "git_dirty": None if changes is None else bool(changes),
        "platform": platform.platform(),
        "cpu_count": cpu_count(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def is_uncommitted(path: Path) -> bool | None:
    """Whether a repository of git holds a file otherwise than in its last commit, or not at all;
    None where no repository tells, or it ignores the file.
    """
    told = _git(path.parent, "status", "--porcelain", "--", path.name)
    ignored = told == "" and not _git(path.parent, "ls-files", "--", path.name)
    return None if told is None or ignored else bool(told)


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_count() -> int | None:
    """Cores this process may use, which in a container are fewer than the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity
        return os.cpu_count()
