"""What the scripts beside this one share: contestants in turns, what they found, the command line.

Contestants take turns round by round, so that other load on the machine slows all alike; a ratio is
of two times of one round, and its spread is over the rounds. A contestant that is not there, fails
or gives other results is left out and said; ours failing ends the script.
"""

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from tables import Row, markdown, spread
from torch import Tensor

from detrnb.training import default_device, device_name, seconds_of

DEVICE = default_device()
OURS = "ours"
LEAST, MOST = 3, 15  # rounds
SECONDS = 12.0  # after which no further round begins
NO_REFERENCE = "no clone of facebookresearch/detr was named; --reference CLONE"


@dataclass(frozen=True)
class Options:
    """What every script is told.

    Attributes:
        reference: a clone of facebookresearch/detr, or None.
        rounds: of each contest; None for as many as `SECONDS` allow.
        data: images in COCO layout, in place of those that a script has of its own.
    """

    reference: Path | None = None
    rounds: int | None = None
    data: Path | None = None


@dataclass
class Findings:
    """What a script found.

    Attributes:
        tables: by heading, rows whose cells have the column's name; see `tables`.
        left_out: contestant -> why.
    """

    tables: dict[str, list[Row]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def leaving_out(self, contestant: str) -> Iterator[None]:
        """Whatever fails inside leaves the contestant out, and the others' numbers stay."""
        try:
            yield
        except Exception as error:
            words = str(error).strip() or "no words"
            self.left_out[contestant] = f"{type(error).__name__}: {words.splitlines()[0]}"


def in_turns(
    sides: Mapping[str, Callable[[], object]], options: Options, seconds: float = SECONDS
) -> dict[str, np.ndarray]:
    """Seconds of each side, a number a round.

    Args:
        sides: functions; one may give the seconds itself, as a float, of which all else is aside.
    """
    for function in sides.values():
        function()  # warm up
    begin, rounds = time.perf_counter(), []
    while _another(len(rounds), time.perf_counter() - begin, options, seconds):
        rounds.append([_seconds(function) for function in sides.values()])
    return {name: np.array(row) for name, row in zip(sides, zip(*rounds, strict=True), strict=True)}


def _another(done: int, taken: float, options: Options, seconds: float) -> bool:
    if options.rounds is not None:
        return done < options.rounds
    return done < LEAST or done < MOST and taken < seconds


def _seconds(function: Callable[[], object]) -> float:
    told = []
    taken = seconds_of(lambda: told.append(function()), DEVICE)
    return told[0] if isinstance(told[0], float) else taken


def beside(what: str, times: Mapping[str, np.ndarray]) -> list[Row]:
    """A row for each contestant beside ours, in ms: least of both, ours in shares of its time."""
    ours = times[OURS]
    rows = [
        {
            "what": what,
            "ours, ms": 1e3 * float(ours.min()),
            "beside": name,
            "its ms": 1e3 * float(theirs.min()),
            "ours / its": spread(ours / theirs),
        }
        for name, theirs in times.items()
        if name != OURS
    ]
    return rows or [{"what": what, "ours, ms": 1e3 * float(ours.min()), "beside": "nobody"}]


def in_own_process(script: str, *arguments: str) -> float:
    """The number that a script prints last, with all that it took before in a process of its own.

    Raises:
        RuntimeError: it failed; with its last words.
    """
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or "no words").splitlines()[-1])
    return float(done.stdout.split()[-1])


def process_memory(entry: str, pid: int | str = "self") -> float:
    """VmRSS, VmHWM (its peak) or Pss of a process, as Linux tells them, in MiB."""
    lines = Path(f"/proc/{pid}/{'smaps_rollup' if entry == 'Pss' else 'status'}").read_text()
    return int(lines.split(f"{entry}:")[1].split()[0]) / 1024


def memory_now() -> float:
    """What this process takes: allocated on a CUDA device, else resident, in MiB."""
    gc.collect()
    if DEVICE.type == "cuda":
        return torch.cuda.memory_allocated(DEVICE) / 2**20
    return process_memory("VmRSS")


def backward(function: Callable[[], Tensor]) -> Callable[[], None]:
    """Forward and backward of a function."""
    return lambda: function().float().square().mean().backward()


def main(
    description: str,
    results: Callable[[Options], Findings],
    alone: Mapping[str, Callable[[Options], float]] | None = None,
) -> None:
    """The command line of a script: measure, print the tables, and keep them where asked to.

    Args:
        alone: numbers that are taken in a process of their own, by name; `--alone NAME` prints one.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=Path, metavar="CLONE", help="of facebookresearch/detr")
    parser.add_argument(
        "--rounds", type=int, help=f"of each contest; else what {SECONDS:.0f} s allow"
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="images in place of its own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found")
    parser.add_argument("--alone", choices=sorted(alone or ()), help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    options = Options(parsed.reference, parsed.rounds, parsed.data)
    if parsed.alone:
        print(alone[parsed.alone](options))
        return
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__} on {device_name(DEVICE)}, {threads} threads", flush=True)
    found = results(options)
    for heading, rows in found.tables.items():
        print(f"\n{heading}\n\n{markdown(rows)}")
    for contestant, why in found.left_out.items():
        print(f"\nleft out: {contestant}: {why}")
    if parsed.json:
        parsed.json.write_text(json.dumps(asdict(found)))
