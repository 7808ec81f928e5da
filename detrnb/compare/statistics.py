"""Statistics over seeds: paired t tests, Holm's correction, what a study could have seen.

Entries of a study share their seeds: a seed gives the baseline and the variant the same data order
and the same initial weights of shared parts, so that what both owe to chance falls out of their
difference.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

LEVEL = 0.05  # of the false positives of a family of comparisons
POWER = 0.8  # at which a difference counts as one that the study could have seen
FEWEST_SEEDS = 5  # fewer are described, not judged


class PairedTest(NamedTuple):
    """Student's t test of paired differences, two-sided; each array lacks their last axis.

    Attributes:
        mean: of the differences.
        spread: their standard deviation (n - 1 in the denominator).
        low, high: the 95 % interval of the mean.
        p: of a mean of zero.
    """

    mean: np.ndarray
    spread: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def paired_test(differences: np.ndarray) -> PairedTest:
    """Test whether paired differences (..., n) have a mean of zero; n is 2 or more.

    Differences without any spread are certain: p is 0, or 1 where all are zero.
    """
    n = differences.shape[-1]
    mean, spread = differences.mean(-1), differences.std(-1, ddof=1)
    error = spread / math.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(mean / error), n - 1)
    p = np.where(mean == 0, 1.0, p)
    reach = stats.t.ppf(1 - LEVEL / 2, n - 1) * error
    return PairedTest(mean, spread, mean - reach, mean + reach, p)


def holm(p: np.ndarray) -> np.ndarray:
    """Adjust p values (..., m) for m comparisons, so that any false positive has chance LEVEL.

    The smallest is multiplied by m, the next by m - 1, and none falls below the one before it
    (Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979). Nothing is assumed of
    how the comparisons depend on each other; here they share the baseline's runs.
    """
    order = np.argsort(p, axis=-1)
    scaled = np.take_along_axis(p, order, -1) * np.arange(p.shape[-1], 0, -1)
    adjusted = np.empty_like(scaled)
    np.put_along_axis(adjusted, order, np.maximum.accumulate(scaled, -1).clip(max=1), -1)
    return adjusted


def power(difference: float, spread: float, seeds: int, comparisons: int = 1) -> float:
    """The chance that a true difference is found, by the noncentral t distribution.

    Args:
        spread: standard deviation of the paired differences.
        seeds: pairs, 2 or more.
        comparisons: m of the study. The level is LEVEL / m, the strictest that Holm's procedure
            asks of a comparison, so that the chance is at least this.
    """
    shift = difference / spread * math.sqrt(seeds)
    bound = stats.t.ppf(1 - LEVEL / comparisons / 2, seeds - 1)
    found = stats.nct.sf([bound, -bound], seeds - 1, shift)
    return float(found[0] + 1 - found[1])


def detectable_difference(spread: float, seeds: int, comparisons: int = 1) -> float:
    """The smallest true difference that a study finds with a chance of POWER.

    A plug-in: the spread measured stands for the true one, of which few seeds know little.

    Args:
        spread, seeds, comparisons: as for `power`.
    """

    def lacking(shift: float) -> float:
        return power(shift, 1.0, seeds, comparisons) - POWER

    return spread * optimize.brentq(lacking, 0.01, 1e4)


def seeds_needed(difference: float, spread: float, comparisons: int = 1) -> int:
    """Pairs of runs needed to find a true difference with a chance of POWER, FEWEST_SEEDS or more.

    Args:
        spread, comparisons: as for `power`.

    Raises:
        ValueError: a difference or spread that is not above 0.
    """
    if not (difference > 0 and spread > 0):
        raise ValueError(
            f"difference {difference} and spread {spread} must be above 0: take the size of the"
            " difference to see, and the standard deviation of paired differences"
        )
    seeds = FEWEST_SEEDS
    while power(difference, spread, seeds, comparisons) < POWER:
        seeds += max(1, seeds // 50)
    return seeds
