"""The rule of the second edition: is a difference there, and is it large enough to matter?

Two questions of the same paired differences, each at 5 %: Student's t test against zero, and two
one-sided tests against ±DELTA (Schuirmann 1987). So "no difference" is said only where one of DELTA
would have been seen.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from detrnb.compare.statistics import FEWEST_SEEDS, LEVEL, POWER, paired_test, seeds_needed

DELTA = 0.02  # AP: the smallest difference that matters

Verdict = Literal["better", "worse", "equivalent", "cannot tell", "described"]


@dataclass(frozen=True)
class Ruling:
    """What paired differences of a number say, of which more is better.

    Attributes:
        verdict: `described` for fewer than FEWEST_SEEDS pairs.
        within: whether the difference is shown to be smaller than DELTA, either way.
        pairs: how many.
        mean, low, high: of the differences, with the 95 % interval of the mean; NaN for one pair.
        p: of a mean of zero, adjusted where it is one of a family.
        p_within: the larger of the two one-sided tests' p.
        needed: pairs that would find a difference of DELTA, and show none where there is none, each
            with a chance of POWER; None where a verdict is reached.
    """

    verdict: Verdict
    within: bool
    pairs: int
    mean: float
    low: float
    high: float
    p: float
    p_within: float
    needed: int | None

    def __str__(self) -> str:
        interval = f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f}), {self.pairs} pairs"
        if self.verdict == "described":
            return f"described: {interval}; fewer than {FEWEST_SEEDS} are not judged"
        if self.verdict == "cannot tell":
            return f"cannot tell: {interval}; about {self.needed} pairs would"
        if self.verdict == "equivalent":
            return f"equivalent: {interval}, within ±{DELTA:g}"
        less = ", by less than it matters" if self.within else ""
        return f"{self.verdict}{less}: {interval}"


def rule(
    differences: np.ndarray,
    *,
    p: float | None = None,
    delta: float = DELTA,
    level: float = LEVEL,
) -> Ruling:
    """Judge paired differences, entry minus baseline.

    Args:
        differences: (n,), without missing ones.
        p: of a mean of zero as adjusted within a family (`holm`); the test's own where left out.
        delta: the smallest difference that matters.
        level: of each test; half of it where the runs are looked at a second time.

    Raises:
        ValueError: no differences.
    """
    n = len(differences)
    if not n:
        raise ValueError("no pairs to judge: the two entries share no seed that both finished")
    if n == 1:
        alone = float(differences[0])
        return Ruling("described", False, 1, alone, *[math.nan] * 4, None)
    test = paired_test(np.asarray(differences, dtype=float))
    mean, spread = float(test.mean), float(test.spread)
    p = float(test.p) if p is None else p
    p_within = _p_within(mean, spread, n, delta)
    found, within = p < level, p_within < level
    needed = None
    if n < FEWEST_SEEDS:
        verdict = "described"
    elif found:
        verdict = "better" if mean > 0 else "worse"
    elif within:
        verdict = "equivalent"
    else:
        verdict, needed = "cannot tell", pairs_needed(spread, delta)
    return Ruling(verdict, within, n, mean, float(test.low), float(test.high), p, p_within, needed)


def _p_within(mean: float, spread: float, n: int, delta: float) -> float:
    """The larger p of the one-sided tests of mean <= -delta and of mean >= delta."""
    error = spread / math.sqrt(n)
    distance = delta - abs(mean)
    if error == 0:
        return float(distance <= 0)
    return float(stats.t.sf(distance / error, n - 1))


def pairs_needed(spread: float, delta: float = DELTA) -> int:
    """Pairs that find a difference of delta, and show none where there is none, each by POWER.

    Args:
        spread: standard deviation of paired differences, above 0.
    """
    pairs = seeds_needed(delta, spread)
    while _chance_of_equivalence(spread, pairs, delta) < POWER:
        pairs += max(1, pairs // 50)
    return pairs


def _chance_of_equivalence(spread: float, pairs: int, delta: float) -> float:
    """How often two one-sided tests succeed where the true difference is zero; a plug-in."""
    room = delta * math.sqrt(pairs) / spread - stats.t.ppf(1 - LEVEL, pairs - 1)
    return max(0.0, 2 * float(stats.t.cdf(room, pairs - 1)) - 1)
