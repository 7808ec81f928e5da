"""What the scripts beside this one share: two sides of a comparison, timed in one run."""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from detrnb.training import default_device, device_name, seconds_of

DEVICE = default_device()


def arguments(description: str, repeats: int = 7) -> argparse.Namespace:
    """The command line that all have, and a line on the machine."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--reference", type=Path, metavar="CLONE", help="of facebookresearch/detr")
    parsed = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__} on {device_name(DEVICE)}, {threads} threads")
    return parsed


def medians(functions: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each function, called in turns so that a noisy machine slows all alike."""
    for function in functions:
        function()  # warm up
    rounds = [[seconds_of(function, DEVICE) for function in functions] for _ in range(repeats)]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def compare(
    name: str, before: Callable[[], object], ours: Callable[[], object], repeats: int
) -> dict[str, float]:
    """Print the medians of both and their ratio; gives seconds and ratio."""
    old, new = (seconds * 1e3 for seconds in medians([before, ours], repeats))
    print(f"{name:58} {old:9.1f} ms {new:9.1f} ms {old / new:6.2f} x", flush=True)
    return {"before_s": old / 1e3, "ours_s": new / 1e3, "times_as_fast": old / new}


def backward(function: Callable[[], Tensor]) -> Callable[[], None]:
    """Forward and backward of a function."""
    return lambda: function().float().square().mean().backward()
