"""Verdicts over seeds: golden numbers, and simulated studies that they must judge rightly."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from detrnb.compare import statistics
from detrnb.compare.statistics import (
    LEVEL,
    POWER,
    detectable_difference,
    holm,
    paired_test,
    power,
    seeds_needed,
)

SEEDS, STUDIES = 6, 1000


def study(difference=0.03, spread=0.01, entries=("detr", "variant"), seeds=SEEDS):
    """AP by seed and entry: the second one's is higher, all share what a seed brings."""
    noise = np.random.default_rng(7)
    shared = noise.normal(0.3, 0.02, (seeds, 1))
    values = shared + noise.normal(0, spread, (seeds, len(entries)))
    values[:, 1] += difference
    return pd.DataFrame(values, columns=list(entries))


def simulated(difference, comparisons=1):
    """Paired differences (STUDIES, comparisons, SEEDS) of unit spread; they share the baseline."""
    noise = np.random.default_rng(2020)
    baseline = noise.normal(size=(STUDIES, 1, SEEDS))
    entries = noise.normal(size=(STUDIES, comparisons, SEEDS))
    return difference + (entries - baseline) / math.sqrt(2)


def test_paired_test_agrees_with_scipy():
    values = study()
    expected = stats.ttest_rel(values["variant"], values["detr"])
    found = paired_test((values["variant"] - values["detr"]).to_numpy())
    assert found.p == pytest.approx(expected.pvalue, rel=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_differences_without_spread_are_certain():
    found = paired_test(np.array([[0.1, 0.1, 0.1], [0.0, 0.0, 0.0]]))
    assert found.p == pytest.approx(np.array([0.0, 1.0]))
    assert found.low == pytest.approx(np.array([0.1, 0.0])) and found.low == pytest.approx(
        found.high
    )


def test_holm_multiplies_by_what_is_left_and_never_falls():
    adjusted = holm(np.array([[0.01, 0.04, 0.03], [0.5, 0.9, 0.02]]))
    assert adjusted == pytest.approx(np.array([[0.03, 0.06, 0.06], [1.0, 1.0, 0.06]]))
    assert holm(np.empty(0)).size == 0


def test_power_is_that_of_the_noncentral_t():
    assert power(1.0, 1.0, 10) == pytest.approx(0.8030969, abs=1e-6)  # as in G*Power
    assert power(0.0, 1.0, 6) == pytest.approx(LEVEL)


def test_detectable_difference_is_found_with_the_stated_power():
    assert detectable_difference(0.01, 6) == pytest.approx(0.0143454, abs=1e-6)
    difference = detectable_difference(1.0, SEEDS)
    found = (paired_test(simulated(difference)).p < LEVEL).mean()
    assert found == pytest.approx(POWER, abs=0.025)  # twice the simulation's standard error


def test_detectable_difference_among_several_is_found_at_least_as_often():
    difference = detectable_difference(1.0, SEEDS, comparisons=4)
    p = holm(paired_test(simulated(difference, comparisons=4)).p)
    assert (p[:, 0] < LEVEL).mean() > POWER


@pytest.mark.parametrize("comparisons", [1, 4])
def test_false_positive_rate_is_nominal_without_a_difference(comparisons):
    p = holm(paired_test(simulated(0.0, comparisons)).p)
    assert 0.036 < (p.min(axis=-1) < LEVEL).mean() < 0.064


def test_seeds_needed_reach_the_power_and_one_less_does_not():
    needed = seeds_needed(0.005, 0.006, comparisons=3)
    assert power(0.005, 0.006, needed, 3) >= POWER > power(0.005, 0.006, needed - 1, 3)
    assert seeds_needed(1.0, 0.01) == statistics.FEWEST_SEEDS


def test_seeds_needed_refuses_what_has_no_answer():
    with pytest.raises(ValueError, match="difference 0 and spread 0.1 must be above 0"):
        seeds_needed(0, 0.1)
