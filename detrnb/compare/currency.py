"""What a gain costs: AP at equal time, the baseline's budget curve, what epoch 1 foretells.

Intervals are a Bayesian bootstrap's (Rubin 1981): replicates are weighted at random, never left
out, so that comparisons of few replicates can share one drawing with those of many. By itself it is
too narrow for few: of three replicates' means it covers 68 %. So a mean's drawings are stretched
until they spread as Student's t has it of as many replicates. Shares and rank correlations are not,
and with six replicates a little too narrow.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

DRAWS = 2000


def budget_curve(
    values: pd.DataFrame,
    baseline: str,
    budgets: Mapping[str, float],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """What the baseline gains or loses by training longer or shorter, each a whole schedule.

    Args:
        values: AP by replicate (rows) and entry.
        baseline: entry of the study's own length.
        budgets: entries of other lengths, and how many times as long. They are the baseline's
            model, so that no timing is needed, and none of its noise enters.

    Returns:
        By entry, the baseline too, in order of time: `time` (times the baseline's), `gain` over the
        baseline in pairs, `low`, `high`.
    """
    weights = _weights(values, draws, seed)
    rows = {baseline: {"time": 1.0, "gain": 0.0, "low": 0.0, "high": 0.0}}
    for entry, time in budgets.items():
        gain = values[entry] - values[baseline]
        rows[entry] = {
            "time": time,
            **_interval("gain", gain.mean(), _means(gain, weights)),
        }
    return pd.DataFrame.from_dict(rows, orient="index").sort_values("time")


def at_equal_time(
    values: pd.DataFrame,
    seconds: pd.DataFrame,
    baseline: str,
    budgets: Mapping[str, float],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """AP of each entry minus what the baseline would reach in the same time.

    The baseline's gain is read off `budget_curve`, linear in the logarithm of time between its
    points. An entry that takes longer or shorter than all of them is compared with none. Timings
    are noisy, so a drawing takes the time of one timed pair, where the value takes their median.

    Args:
        values, baseline, budgets, draws, seed: as for `budget_curve`.
        seconds: of training, by replicate and entry; NaN where a run was not timed.

    Returns:
        By entry: `time` (times the baseline's), `difference` at equal epochs, `at_equal_time` with
        `low`, `high`; `beyond`: whether it gains more than the baseline's longest training does.
    """
    weights = _weights(values, draws, seed)
    points = dict(sorted({baseline: 1.0, **budgets}.items(), key=lambda point: point[1]))
    times = np.array([*points.values()])
    gains = {entry: values[entry] - values[baseline] for entry in points}
    drawn = np.array([_means(gains[entry], weights) for entry in points])  # (points, draws)
    means = np.array([gains[entry].mean() for entry in points])
    rows = {}
    for entry in values.columns.drop([*points]):
        timed = (seconds[entry] / seconds[baseline]).dropna().to_numpy()
        difference = values[entry] - values[baseline]
        row = {"time": np.median(timed) if len(timed) else np.nan, "difference": difference.mean()}
        if times[0] <= row["time"] <= times[-1]:
            read = np.array([_read(time, times, drawn) for time in np.clip(timed, *times[[0, -1]])])
            taken = np.random.default_rng(seed).integers(len(timed), size=draws)
            row |= _interval(
                "at_equal_time",
                difference.mean() - _read(row["time"], times, means),
                _means(difference, weights) - read[taken, np.arange(draws)],
            )
        row["beyond"] = bool(difference.mean() > means.max())
        rows[entry] = row
    columns = ["time", "difference", "at_equal_time", "low", "high", "beyond"]
    return pd.DataFrame.from_dict(rows, orient="index").reindex(columns=columns)


def epochs_to_reach(curves: Mapping[str, pd.DataFrame], baseline: str) -> pd.DataFrame:
    """The fewest epochs in which entries reach the baseline's AP at its end, on validation images.

    Args:
        curves: by entry, epochs (from 0) as rows and replicates as columns, as from `by_epoch`.

    Returns:
        By entry: `epochs`, the median over pairs, with the range `low`, `high`; `reached`: of how
        many of `pairs`. One that never reaches it counts as infinitely long.
    """
    ends = curves[baseline].ffill().iloc[-1]
    rows = {}
    for entry, table in curves.items():
        shared = table.columns.intersection(ends.index)
        if entry == baseline or shared.empty:
            continue
        there = table[shared].ge(ends[shared], axis=1)
        needed = np.where(there.any(), there.to_numpy().argmax(axis=0) + 1.0, np.inf)
        rows[entry] = {
            **{"epochs": np.median(needed), "low": needed.min(), "high": needed.max()},
            **{"reached": int(np.isfinite(needed).sum()), "pairs": len(shared)},
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def foretold(
    first: pd.DataFrame, last: pd.DataFrame, *, draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """Whether an early difference from the baseline foretells the one at the end.

    Args:
        first: after epoch 1, by replicate (rows) and entry; NaN where there is no pair.
        last: at the end, likewise. What only one of both tells is left out.

    Returns:
        `signs`: share of pairs of runs whose difference keeps its sign; `ranks`: Spearman's
        correlation of the entries' means; each `value`, `low`, `high`.
    """
    first, last = first.align(last, join="inner")
    both = first.notna() & last.notna()
    first, last = first.where(both), last.where(both)
    same = (np.sign(first) == np.sign(last)).where(both).astype(float)
    weights = _weights(first, draws, seed)
    share = same.stack().mean()
    mass = weights @ both.to_numpy(dtype=float)  # (draws, entries)
    shares = (weights @ same.fillna(0.0).to_numpy()).sum(1) / mass.sum(1)
    ends = [(weights @ table.fillna(0.0).to_numpy()) / mass for table in (first, last)]
    rank = float(_rank_correlation(first.mean().to_numpy(), last.mean().to_numpy()))
    rows = {
        "signs": _interval("value", share, shares),
        "ranks": _interval("value", rank, _rank_correlation(*ends)),
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _rank_correlation(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Spearman's, of numbers (..., entries)."""
    ranks = [stats.rankdata(side, axis=-1) for side in (first, last)]
    a, b = (side - side.mean(-1, keepdims=True) for side in ranks)
    return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))


def _weights(values: pd.DataFrame, draws: int, seed: int) -> np.ndarray:
    """Weights of replicates, (draws, replicates)."""
    return np.random.default_rng(seed).exponential(size=(draws, len(values)))


def _means(values: pd.Series, weights: np.ndarray) -> np.ndarray:
    """The weighted mean of what is there, once a drawing, spread as Student's t has it."""
    there = values.notna().to_numpy()
    found, n = values[there].to_numpy(), int(there.sum())
    drawn = weights[:, there] @ found / weights[:, there].sum(1)
    if n < 2:
        return np.full(len(weights), np.nan)
    # A drawing's variance is that of the sample over n + 1, with n in its denominator.
    reach = stats.t.ppf(0.975, n - 1) / stats.norm.ppf(0.975)
    return found.mean() + (drawn - found.mean()) * reach * np.sqrt((n + 1) / (n - 1))


def _interval(name: str, value: float, drawn: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(np.asarray(drawn), [0.025, 0.975])
    return {name: float(value), "low": float(low), "high": float(high)}


def _read(time: float, times: np.ndarray, gains: np.ndarray) -> np.ndarray | float:
    """A curve (points,) or curves (points, draws), linear in the logarithm of time."""
    right = int(np.clip(np.searchsorted(times, time), 1, len(times) - 1))
    a, b = np.log(times[right - 1]), np.log(times[right])
    share = (np.log(time) - a) / (b - a)
    return gains[right - 1] * (1 - share) + gains[right] * share
