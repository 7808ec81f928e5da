"""What follows from verdicts, by one rule."""

import numpy as np
import pandas as pd
import pytest

from detrnb.compare import Verdicts, decisions

ROW = {
    **{"seeds": 6, "difference": 0.0, "low": -0.004, "high": 0.004, "detectable": 0.005},
    **{"verdict": "no difference seen", "conditions": "", "text": "as verdicts say it"},
    **{"time": 1.0, "time_low": 0.99, "time_high": 1.01},
    **{"memory": 1.0, "memory_low": 1.0, "memory_high": 1.0},
}
WORSE = {"verdict": "worse", "low": -0.21, "high": -0.19}


def decided(control="none", seeds=6, entry=ROW):
    """The decision and reason on one entry beside a control."""
    table = pd.DataFrame({"ours": ROW | entry, "none": ROW | WORSE} | {"again": ROW}).T
    table = pd.DataFrame(table.to_dict("list"), index=table.index)
    if control is None:
        table = table.drop(index="none")
    empty = pd.DataFrame()
    found = decisions(Verdicts("detr", "AP", empty, empty, table, {}), seeds, control)
    assert found.index.tolist() == ["ours", "again"]  # on the control nothing is decided
    return tuple(found.loc["ours"])


def test_better_is_applied_and_worse_is_not():
    assert decided(entry={"verdict": "better"}) == ("applied", "as verdicts say it")
    assert decided(entry=WORSE) == ("not applied", "as verdicts say it")


def test_without_a_gain_seen_the_simpler_model_stays():
    decision, reason = decided()
    assert decision == "not applied"
    assert reason == (
        "as verdicts say it; the interval leaves -0.004 to +0.004 AP open, and without a gain that"
        " shows the simpler model stays"
    )


@pytest.mark.parametrize(
    ("costs", "decision"),
    [
        ({"time": 0.8, "time_low": 0.7, "time_high": 0.9}, "optional"),
        ({"memory": 0.8, "memory_low": 0.7, "memory_high": 0.9}, "optional"),
        ({"time": 0.8, "time_low": 0.7, "time_high": 0.97}, "not applied"),  # not in every pair
        ({"time": 0.8, "time_high": 0.9, "memory": 1.2}, "not applied"),
        ({"time": np.nan, "time_low": np.nan, "time_high": np.nan}, "not applied"),
    ],
)
def test_what_is_cheaper_without_a_difference_is_optional(costs, decision):
    found, reason = decided(entry=costs)
    assert found == decision and "the interval leaves -0.004 to +0.004 AP open" in reason
    assert ("cheaper" in reason) == (decision == "optional")


@pytest.mark.parametrize(("seeds", "needed"), [(6, 6), (8, 8), (3, 5)])
def test_nothing_is_decided_before_the_planned_seeds_are_there(seeds, needed):
    early = {"seeds": needed - 1, "verdict": "better"}
    assert decided(seeds=seeds, entry=early) == ("not decided", f"{needed - 1} of {needed} seeds")
    assert decided(seeds=seeds, entry=early | {"seeds": needed})[0] == "applied"


def test_nothing_is_decided_between_runs_under_other_conditions():
    decision, reason = decided(entry={"verdict": "better", "conditions": "learning rate"})
    assert decision == "not decided" and "in more than the model: learning rate" in reason


@pytest.mark.parametrize(
    ("verdict", "why"), [("no difference seen", "these runs cannot tell"), ("described", "6 of 5")]
)
def test_a_control_that_is_not_found_worse_leaves_all_undecided(verdict, why):
    table = pd.DataFrame([ROW | {"verdict": "better"}, ROW | {"verdict": verdict}])
    table.index = ["ours", "none"]
    empty = pd.DataFrame()
    found = decisions(Verdicts("detr", "AP", empty, empty, table, {}), 6, "none")
    assert found.loc["ours", "decision"] == "not decided" and why in found.loc["ours", "reason"]


def test_a_study_without_a_control_says_so_where_it_decides():
    assert decided(control=None)[1].endswith(
        "; no control among these runs shows that they could find a difference"
    )
    assert decided(control=None, entry={"seeds": 2})[1] == "2 of 6 seeds"


def test_an_entry_or_control_that_is_not_judged_decides_nothing():
    unjudged = {"verdict": "not judged", "text": "not judged, as pairs differ in code"}
    assert decided(entry=unjudged) == ("not decided", unjudged["text"])
    table = pd.DataFrame([ROW | {"verdict": "better"}, ROW | unjudged], index=["ours", "none"])
    empty = pd.DataFrame()
    found = decisions(Verdicts("detr", "AP", empty, empty, table, {}), 6, "none")
    assert tuple(found.loc["ours"]) == (
        "not decided",
        "the control none is not judged, as pairs differ in code",
    )
