"""The rule of the second edition: is a difference there, and is it large enough to matter?

Two questions of the same paired differences, each at 5 %: Student's t test against zero, adjusted
within a family of comparisons (Holm), and two one-sided tests against ±DELTA (Schuirmann 1987). So
"no difference" is said only where one of DELTA would have been seen.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from scipy import stats

from detrnb.compare.statistics import FEWEST_SEEDS, LEVEL, POWER, holm, paired_test, seeds_needed

DELTA = 0.02  # AP: the smallest difference that matters

RULE = (
    f"Paired t test over replicates, Holm within each family at {100 * LEVEL:g} %: better, worse."
    f" Two one-sided t tests at {100 * LEVEL:g} % against plus and minus delta, each comparison by"
    " itself: with the former by less than it matters, alone equivalent; else cannot tell. Fewer"
    f" than {FEWEST_SEEDS} replicates are described; what is described or may not be judged is none"
    " of the comparisons that Holm adjusts for."
)

Verdict = Literal[
    "better", "worse", "equivalent", "cannot tell", "unstable", "described", "not judged"
]
_NONE: Mapping[str, int] = {}


@dataclass(frozen=True)
class Ruling:
    """What paired differences of a number say, of which more is better.

    Attributes:
        verdict: `unstable` where a run diverged; `described` for fewer than FEWEST_SEEDS pairs;
            `not judged` where a condition forbids it.
        within: whether the difference is shown to be smaller than `delta`, either way.
        pairs: how many.
        mean, spread, low, high: of the differences, with the 95 % interval of the mean, by itself;
            NaN where there are too few.
        p: of a mean of zero; `p_holm`, adjusted for the comparisons of its family.
        p_within: the larger of the two one-sided tests' p.
        comparisons: judged in the family.
        failed: runs that diverged.
        delta: the smallest difference that matters.
    """

    verdict: Verdict
    within: bool
    pairs: int
    mean: float
    spread: float
    low: float
    high: float
    p: float
    p_holm: float
    p_within: float
    comparisons: int
    failed: int
    delta: float

    @cached_property
    def needed(self) -> int | None:
        """Pairs that would find a difference of `delta`, and show none where there is none, each
        with a chance of POWER; None where a verdict is reached.
        """
        if self.verdict != "cannot tell":
            return None
        return pairs_needed(self.spread, self.delta, self.comparisons)

    @property
    def would(self) -> str:
        """How many pairs would tell where these cannot; empty where a verdict is reached."""
        if self.needed is None:
            return ""
        if self.needed <= self.pairs:  # this study is one of the fifth that POWER leaves
            return "most studies of as many pairs would"
        return f"about {self.needed} pairs would"

    @property
    def words(self) -> str:
        """The verdict as it is said, without numbers but those that belong to it."""
        if self.verdict == "unstable":
            return f"unstable ({self.failed} of {self.pairs + self.failed})"
        less = self.within and self.verdict in ("better", "worse")
        return f"{self.verdict}{', by less than it matters' if less else ''}"

    def __str__(self) -> str:
        interval = f"{self.mean:+.3f}, one pair"
        if self.pairs > 1:
            interval = f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f}), {self.pairs} pairs"
        if not self.pairs:
            interval = "no pairs"
        ends = {
            "described": f"; fewer than {FEWEST_SEEDS} are not judged",
            "cannot tell": f"; {self.would}",
            "equivalent": f", within ±{self.delta:g}",
            "unstable": "; of the others",
        }
        return f"{self.words}: {interval}{ends.get(self.verdict, '')}"


def rule(differences: np.ndarray, *, delta: float = DELTA, level: float = LEVEL) -> Ruling:
    """Judge paired differences, entry minus baseline, as a family of one.

    Args:
        differences: (n,), without missing ones.
        delta: the smallest difference that matters.
        level: of each test; half of it where the runs are looked at a second time.

    Raises:
        ValueError: no differences.
    """
    if not len(differences):
        raise ValueError("no pairs to judge: the two entries share no seed that both finished")
    return rule_family({"": differences}, delta=delta, level=level)[""]


def rule_family(
    differences: Mapping[str, np.ndarray],
    *,
    failed: Mapping[str, int] = _NONE,
    unjudged: Collection[str] = (),
    delta: float = DELTA,
    level: float = LEVEL,
) -> dict[str, Ruling]:
    """Judge the entries of a family: their paired differences from one baseline.

    Args:
        differences: by entry, (n,) each, without missing ones.
        failed: by entry, runs that diverged; such an entry stays one of the comparisons that the
            others are adjusted for, as one that finds nothing.
        unjudged: entries that a condition forbids to judge, and so no comparisons.
        delta, level: as for `rule`.
    """
    tests = {
        entry: paired_test(np.asarray(found, dtype=float))
        for entry, found in differences.items()
        if len(found) > 1
    }
    judged = [
        entry
        for entry, found in differences.items()
        if entry not in unjudged and (len(found) >= FEWEST_SEEDS or failed.get(entry))
    ]
    p = [1.0 if failed.get(entry) else float(tests[entry].p) for entry in judged]
    adjusted = dict(zip(judged, holm(np.array(p)), strict=True))
    rulings = {}
    for entry, found in differences.items():
        n, lost = len(found), failed.get(entry, 0)
        mean = float(np.mean(found)) if n else math.nan
        spread = low = high = own = p_within = math.nan
        if entry in tests:
            test = tests[entry]
            spread, low, high, own = (float(x) for x in (test.spread, test.low, test.high, test.p))
            p_within = _p_within(mean, spread, n, delta)
        p_holm = float(adjusted.get(entry, math.nan))
        if entry in unjudged:
            verdict = "not judged"
        elif lost:
            verdict = "unstable"
        elif entry not in adjusted:
            verdict = "described"
        elif p_holm < level:
            verdict = "better" if mean > 0 else "worse"
        else:
            verdict = "equivalent" if p_within < level else "cannot tell"
        rulings[entry] = Ruling(
            *(verdict, entry in adjusted and p_within < level, n, mean, spread, low, high),
            *(own, p_holm, p_within, len(judged), lost, delta),
        )
    return rulings


def _p_within(mean: float, spread: float, n: int, delta: float) -> float:
    """The larger p of the one-sided tests of mean <= -delta and of mean >= delta."""
    error = spread / math.sqrt(n)
    distance = delta - abs(mean)
    if error == 0:
        return float(distance <= 0)
    return float(stats.t.sf(distance / error, n - 1))


def pairs_needed(spread: float, delta: float = DELTA, comparisons: int = 1) -> int:
    """Pairs that find a difference of delta, and show none where there is none, each by POWER.

    Args:
        spread: standard deviation of paired differences, above 0.
        comparisons: of the family, the strictest that Holm's procedure asks of one.
    """
    pairs = seeds_needed(delta, spread, comparisons)
    while _chance_of_equivalence(spread, pairs, delta) < POWER:
        pairs += max(1, pairs // 50)
    return pairs


def _chance_of_equivalence(spread: float, pairs: int, delta: float) -> float:
    """How often two one-sided tests succeed where the true difference is zero; a plug-in."""
    room = delta * math.sqrt(pairs) / spread - stats.t.ppf(1 - LEVEL, pairs - 1)
    return max(0.0, 2 * float(stats.t.cdf(room, pairs - 1)) - 1)
