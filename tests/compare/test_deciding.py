"""What follows from verdicts, by one rule."""

import numpy as np
import pandas as pd
import pytest

from detrnb.compare import Verdicts, decisions

ROW = {
    **{"seeds": 6, "difference": 0.0, "within": True},
    **{"verdict": "equivalent", "conditions": "", "text": "as verdicts say it"},
    **{"time": 1.0, "time_low": 0.99, "time_high": 1.01},
    **{"memory": 1.0, "memory_low": 1.0, "memory_high": 1.0},
}
WORSE = {"verdict": "worse", "within": False}
BETTER = {"verdict": "better", "within": False}


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
    assert decided(entry=BETTER) == ("applied", "as verdicts say it")
    assert decided(entry=WORSE) == ("not applied", "as verdicts say it")


@pytest.mark.parametrize("verdict", ["equivalent", "better"])
def test_what_gains_less_than_matters_and_is_not_cheaper_is_not_applied(verdict):
    decision, reason = decided(entry={"verdict": verdict})
    assert decision == "not applied"
    assert reason == "as verdicts say it: not cheaper, so the simpler model stays"


@pytest.mark.parametrize("verdict", ["cannot tell", "unstable"])
def test_what_cannot_be_told_or_diverges_is_not_decided_however_cheap(verdict):
    entry = {"verdict": verdict, "time": 0.5, "time_low": 0.5, "time_high": 0.5}
    assert decided(entry=entry) == ("not decided", "as verdicts say it")


def test_worse_by_less_than_matters_is_not_applied_however_cheap():
    entry = {"verdict": "worse", "time": 0.5, "time_low": 0.5, "time_high": 0.5}
    assert decided(entry=entry) == ("not applied", "as verdicts say it")


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
def test_what_is_cheaper_and_equivalent_or_hardly_better_is_optional(costs, decision):
    for verdict in ("equivalent", "better"):
        found, reason = decided(entry=costs | {"verdict": verdict})
        assert found == decision and reason.startswith("as verdicts say it: ")
    # A gain that matters is applied whatever it costs.
    assert decided(entry=costs | BETTER)[0] == "applied"


@pytest.mark.parametrize(("seeds", "needed"), [(6, 6), (8, 8), (3, 5)])
def test_nothing_is_decided_before_the_planned_seeds_are_there(seeds, needed):
    early = BETTER | {"seeds": needed - 1}
    assert decided(seeds=seeds, entry=early) == ("not decided", f"{needed - 1} of {needed} seeds")
    assert decided(seeds=seeds, entry=early | {"seeds": needed})[0] == "applied"


def test_nothing_is_decided_between_runs_under_other_conditions():
    decision, reason = decided(entry={"verdict": "better", "conditions": "learning rate"})
    assert decision == "not decided" and "in more than the model: learning rate" in reason


@pytest.mark.parametrize(
    ("verdict", "why"), [("equivalent", "these runs cannot tell"), ("described", "6 of 5")]
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


def test_a_studys_own_controls_speak_for_all():
    table = pd.DataFrame([ROW | BETTER, ROW | BETTER | {"seeds": 4}], index=["ours", "few"])
    empty = pd.DataFrame()
    found = Verdicts("detr", "AP", empty, empty, table, {})
    planned = {"ours": 6, "few": 6}
    assert decisions(found, planned, doubt="").loc["ours"].tolist() == [
        "applied",
        "as verdicts say it",
    ]
    assert decisions(found, planned, doubt="").loc["few", "reason"] == "4 of 6 seeds"
    assert (
        decisions(found, planned, doubt="none failed")["decision"].tolist() == ["not decided"] * 2
    )
