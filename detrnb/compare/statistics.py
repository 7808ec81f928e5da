"""Verdicts over seeds: paired t tests, Holm's correction, what a study could have seen.

Entries of a study share their seeds: a seed gives the baseline and the variant the same data order
and the same initial weights of shared parts, so that what both owe to chance falls out of their
difference.
"""

import math
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, stats

from detrnb.settings import nearest

LEVEL = 0.05  # of the whole study's false positives
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


def against_baseline(
    values: pd.DataFrame, baseline: str, unjudged: Collection[str] = ()
) -> pd.DataFrame:
    """Compare each entry with the baseline by a number of which more is better, such as AP.

    Args:
        values: one row a seed, one column an entry; NaN where a run is missing.
        baseline: a column.
        unjudged: entries that are described only, whatever their numbers, and so no comparison
            that others are adjusted for.

    Returns:
        One row for each other entry. `seeds`: pairs; `mean`, `spread`: of the entry over all its
        seeds; `difference`: of pairs, entry minus baseline, with `difference_spread` and its 95 %
        interval `low`, `high`, each by itself; `p_holm`: adjusted for all entries judged;
        `detectable`: see `detectable_difference`; `verdict`: `better`, `worse`, `no difference
        seen`, `described` for fewer than FEWEST_SEEDS pairs, or `not judged` for one of `unjudged`.

    Raises:
        ValueError: no such baseline.
    """
    if baseline not in values:
        known = ", ".join(map(str, values.columns))
        hint = nearest(baseline, values.columns)
        raise ValueError(f"no entry {baseline!r} to compare with; there are {known}{hint}")
    others = values.drop(columns=baseline)
    differences = {entry: (others[entry] - values[baseline]).dropna() for entry in others}
    judged = [
        entry
        for entry, found in differences.items()
        if len(found) >= FEWEST_SEEDS and entry not in unjudged
    ]
    rows = {}
    for entry, found in differences.items():
        rows[entry] = {
            "seeds": len(found),
            "mean": others[entry].mean(),
            "spread": others[entry].std(),
            "difference": found.mean(),
        }
        if len(found) >= 2:
            test = paired_test(found.to_numpy())
            rows[entry] |= {"difference_spread": test.spread, "low": test.low, "high": test.high}
        if entry in judged:
            seen = detectable_difference(float(test.spread), len(found), len(judged))
            rows[entry] |= {"p": float(test.p), "detectable": seen}
    columns = [
        *("seeds", "mean", "spread", "difference", "difference_spread", "low", "high"),
        *("p", "p_holm", "detectable"),
    ]
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=columns).astype(float)
    table["p_holm"] = pd.Series(holm(table.loc[judged, "p"].to_numpy()), index=judged)
    table = table.astype({"seeds": int})
    table["verdict"] = [
        "not judged" if row.Index in unjudged else _verdict(row) for row in table.itertuples()
    ]
    return table.rename_axis("entry")


def _verdict(row: object) -> str:
    if row.seeds < FEWEST_SEEDS:
        return "described"
    if row.p_holm >= LEVEL:
        return "no difference seen"
    return "better" if row.difference > 0 else "worse"
