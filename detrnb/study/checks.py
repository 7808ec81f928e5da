"""What a check is: gives what was seen, and raises where that is not as it should be."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from detrnb.study.bench import Bench

Check = Callable[[Bench], str]
OUTPUTS = ("pred_logits", "pred_boxes")


class Fault(ValueError):
    """What was seen is not as it should be."""


class Skipped(ValueError):
    """A check that means nothing here, and why."""


@dataclass(frozen=True)
class Named:
    """A check with its name and what to do where it fails."""

    name: str
    remedy: str
    run: Check


def check(name: str, remedy: str) -> Callable[[Check], Named]:
    """Over a function: the check that it makes."""
    return lambda run: Named(name, remedy, run)


def near(what: str, found: Tensor, expected: Tensor) -> float:
    """The largest difference; a Fault where it is more than rounding."""
    if not found.isfinite().all():
        raise Fault(f"{what} are not finite")
    largest = (found - expected).abs().max().item() if found.numel() else 0.0
    if largest > 2e-5 + 1e-4 * expected.abs().max().item():
        raise Fault(f"{what} differ by {largest:.1e}")
    return largest
