"""The rule: golden p values, each verdict by hand, and simulated studies that it must judge."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from detrnb.compare.ruling import DELTA, pairs_needed, rule, rule_family
from detrnb.compare.statistics import holm

SPREAD = np.array([-1.5, -0.5, 0.0, 0.5, 1.5, 0.0])  # mean 0


def test_p_values_are_scipys():
    differences = 0.012 + 0.01 * SPREAD
    found = rule(differences)
    assert found.p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, rel=1e-12)
    below = stats.ttest_1samp(differences, DELTA, alternative="less").pvalue
    above = stats.ttest_1samp(differences, -DELTA, alternative="greater").pvalue
    assert found.p_within == pytest.approx(max(below, above), rel=1e-12)


@pytest.mark.parametrize(
    "mean, spread, verdict, within",
    [
        (0.05, 0.01, "better", False),
        (-0.05, 0.01, "worse", False),
        (0.005, 0.002, "better", True),  # by less than it matters
        (-0.005, 0.002, "worse", True),
        (0.001, 0.005, "equivalent", True),
        (0.01, 0.03, "cannot tell", False),
    ],
)
def test_each_verdict_follows_from_two_tests(mean, spread, verdict, within):
    found = rule(mean + spread * SPREAD)
    assert (found.verdict, found.within) == (verdict, within)
    assert (found.needed is not None) == (verdict == "cannot tell")
    assert str(found).startswith(verdict)
    assert ("less than it matters" in str(found)) == (within and verdict != "equivalent")


def test_few_pairs_are_described_and_none_refused():
    assert rule(0.05 + 0.001 * SPREAD[:4]).verdict == "described"
    assert str(rule(np.array([0.3]))).startswith("described: +0.300, one pair")
    with pytest.raises(ValueError, match="share no seed"):
        rule(np.array([]))


def test_a_second_look_decides():
    differences = 0.012 + 0.01 * SPREAD
    assert 0.025 < rule(differences).p < 0.05
    assert rule(differences).verdict == "better"
    assert rule(differences, level=0.025).verdict != "better"


def test_a_family_adjusts_for_what_it_judges_and_for_nothing_else():
    close = 0.012 + 0.01 * SPREAD
    family = {
        "close": close,
        "far": 0.05 + 0.01 * SPREAD,
        "few": 0.05 + 0.01 * SPREAD[:4],
        "other data": close,
    }
    found = rule_family(family, unjudged=["other data"])
    expected = holm(np.array([rule(close).p, rule(family["far"]).p]))
    assert [found[x].p_holm for x in ("close", "far")] == pytest.approx(list(expected))
    assert {entry: x.verdict for entry, x in found.items()} == {
        "close": "better",
        "far": "better",
        "few": "described",
        "other data": "not judged",
    }
    third = rule_family(family)  # where it is judged, it is a third comparison
    assert third["close"].verdict == "cannot tell" and third["close"].comparisons == 3
    # So does the number of pairs that would tell, by the strictest comparison.
    assert third["close"].needed == pairs_needed(third["close"].spread, DELTA, 3)
    assert third["close"].needed > pairs_needed(third["close"].spread, DELTA)


def test_pairs_that_would_tell_are_more_than_those_that_could_not():
    some = rule(0.01 + 0.03 * SPREAD)
    assert some.would == f"about {some.needed} pairs would" and some.needed > some.pairs
    chance = replace(some, pairs=some.needed)  # one of the studies that POWER leaves
    assert chance.would == "most studies of as many pairs would"
    assert str(chance).endswith("; most studies of as many pairs would")
    assert rule(0.05 + 0.01 * SPREAD).would == ""


def test_an_entry_that_diverged_is_unstable_and_makes_others_no_easier():
    close = 0.012 + 0.01 * SPREAD
    found = rule_family({"close": close, "wild": 0.2 + 0.001 * SPREAD[:4]}, failed={"wild": 2})
    assert found["wild"].words == "unstable (2 of 6)" and found["wild"].within is False
    assert found["close"].comparisons == 2 and found["close"].p_holm == 2 * found["close"].p
    lost = rule_family({"wild": np.array([])}, failed={"wild": 6})["wild"]
    assert str(lost) == "unstable (6 of 6): no pairs; of the others"


def test_differences_without_spread_are_certain():
    assert rule(np.full(6, 0.03)).verdict == "better"
    assert rule(np.zeros(6)).verdict == "equivalent"


@pytest.mark.parametrize("true, wrong", [(0.0, ("better", "worse")), (DELTA, ("equivalent",))])
def test_wrong_verdicts_are_rare(true, wrong):
    rng = np.random.default_rng(0)
    studies = rng.normal(true, 0.02, size=(2000, 8))
    found = [rule(study).verdict for study in studies]
    assert sum(verdict in wrong for verdict in found) / len(found) < 0.065


def test_pairs_needed_reach_a_verdict_as_often_as_promised():
    rng = np.random.default_rng(0)
    pairs = pairs_needed(0.02)
    none = [rule(study) for study in rng.normal(0, 0.02, size=(1000, pairs))]
    some = [rule(study) for study in rng.normal(DELTA, 0.02, size=(1000, pairs))]
    assert np.mean([found.within for found in none]) > 0.77
    assert np.mean([found.verdict == "better" for found in some]) > 0.77
    assert pairs_needed(0.04) > pairs > 5
