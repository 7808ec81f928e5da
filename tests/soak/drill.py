"""What a drill is, and the table of all of them."""

import json
import os
import platform
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results.json"
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Try:
    """One attempt to break something.

    Attributes:
        part: of the drill, such as `SIGKILL between file operations`.
        survived: whether all held that is promised; None where it could not be tried here.
        why: what did not hold, or why it was not tried.
    """

    part: str
    survived: bool | None
    why: str = ""


@dataclass
class Drill:
    """A drill and what came of it.

    Attributes:
        tries: makes attempts, in a folder of their own, without an end or with one. It mixes its
            parts, so that ending it at any time has tried something of each.
        taught: what its failures led to, each with its test, in words.
    """

    name: str
    tries: Callable[[Path], Iterator[Try]]
    taught: str = ""
    done: list[Try] = field(default_factory=list)
    commit: str = ""

    def run(self, folder: Path, seconds: float) -> None:
        """Try until the time is over or nothing is left to try."""
        self.commit, end = _commit(), time.monotonic() + seconds  # of the code that is tried
        for one in self.tries(folder):
            self.done.append(one)
            mark = {True: ".", False: "F", None: "-"}[one.survived]
            print(mark, end="" if one.survived else f" {one.part}: {one.why}\n", flush=True)
            if time.monotonic() > end:
                break
        print(flush=True)

    def result(self) -> dict:
        """As `results.json` keeps it."""
        counted = [one for one in self.done if one.survived is not None]
        parts = Counter(one.part for one in counted)
        kept = Counter(one.part for one in counted if one.survived)
        return {
            "tries": len(counted),
            "survived": sum(kept.values()),
            "parts": {part: [count, kept[part]] for part, count in parts.items()},
            "failed": sorted({f"{t.part}: {t.why}" for t in counted if not t.survived})[:20],
            "not tried": sorted({f"{t.part}: {t.why}" for t in self.done if t.survived is None}),
            "taught": self.taught,
            "date": datetime.now(UTC).isoformat(timespec="minutes"),
            "commit": self.commit,
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        }


def keep(drill: Drill) -> None:
    """Put a drill's result in the place of its last one; the others' stay."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[drill.name] = drill.result()
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def table() -> str:
    """All results as text, a drill a block."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    lines = []
    for name, result in results.items():
        lines.append(f"{name:<12}{result['survived']:>6} of {result['tries']:>6} survived")
        for part, (tries, kept) in result["parts"].items():
            lines.append(f"{'':<12}{kept:>6} of {tries:>6} {part}")
        lines += [f"{'':<12}failed: {text}" for text in result["failed"]]
        lines += [f"{'':<12}- {text}" for text in result["not tried"]]
        lines.append(f"{'':<12}taught: {result['taught'] or 'nothing'}")
    return "\n".join(lines)


def _commit() -> str:
    def git(*words: str) -> str:
        asked = ["git", "-C", str(ROOT), *words]
        return subprocess.run(asked, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
