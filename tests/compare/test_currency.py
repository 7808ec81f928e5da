"""AP at equal time, the budget curve, what epoch 1 foretells: made-up numbers, known answers."""

import numpy as np
import pandas as pd
import pytest

from detrnb.compare import at_equal_time, budget_curve, epochs_to_reach, foretold

REPLICATES = list(range(200, 206))
BUDGETS = {"double": 2.0, "half": 0.5}


def study(noise=0.0):
    """The baseline gains 0.04 by every doubling of time, whatever the replicate's own level."""
    rng = np.random.default_rng(0)
    level = 0.25 + 0.02 * rng.normal(size=6)
    differences = {"detr": 0.0, "half": -0.04, "double": 0.04, "dear": 0.06, "cheap": 0.01}
    differences |= {"huge": 0.2}
    values = pd.DataFrame(
        {entry: level + x + noise * rng.normal(size=6) for entry, x in differences.items()},
        index=REPLICATES,
    )
    values.loc[203:, ["half", "double"]] = np.nan  # three replicates
    times = {"detr": 100.0, "dear": 141.421356, "cheap": 70.7106781}
    seconds = pd.DataFrame(times | {"huge": 400.0}, index=REPLICATES)
    seconds.loc[202:] = np.nan  # steps are timed in two
    return values, seconds


def test_budget_curve_is_of_pairs_and_in_order_of_time():
    curve = budget_curve(study()[0], "detr", BUDGETS)
    assert curve.index.tolist() == ["half", "detr", "double"]
    assert curve["time"].tolist() == [0.5, 1.0, 2.0]
    assert curve["gain"].tolist() == pytest.approx([-0.04, 0.0, 0.04])
    assert pytest.approx(np.tile(curve["gain"], (2, 1))) == curve[["low", "high"]].to_numpy().T


def test_at_equal_time_the_baselines_own_gain_is_taken_off():
    table = at_equal_time(*study(), "detr", BUDGETS)
    # Half a doubling dearer: of 0.06 the baseline would have had 0.02; half a halving cheaper: of
    # 0.01 it would have lost 0.02.
    assert table.loc["dear", "at_equal_time"] == pytest.approx(0.04)
    assert table.loc["cheap", "at_equal_time"] == pytest.approx(0.03)
    assert table["beyond"].to_dict() == {"dear": True, "cheap": False, "huge": True}
    assert np.isnan(table.loc["huge", "at_equal_time"])  # longer than any of the baseline's


def test_intervals_hold_what_replicates_differ_by():
    values, seconds = study(noise=0.01)
    row = at_equal_time(values, seconds, "detr", BUDGETS).loc["dear"]
    assert row["low"] < row["at_equal_time"] < row["high"]
    reach = (row["high"] - row["low"]) / 2
    assert 0.003 < reach < 0.03
    again = at_equal_time(values, seconds, "detr", BUDGETS).loc["dear"]
    assert again.equals(row)  # drawn alike each time


def test_noise_of_timing_is_in_the_interval_at_equal_time():
    values, seconds = study()
    twin = values.assign(twin=values["detr"])
    noisy = seconds.assign(twin=seconds["detr"] * pd.Series([0.8, 1.25], index=[200, 201]))
    row = at_equal_time(twin, noisy, "detr", BUDGETS).loc["twin"]
    gain = 0.04 * np.log2(1.25)  # what the baseline would have won, or lost, in that time
    assert row[["low", "high"]].tolist() == pytest.approx([-gain, gain])
    exact = at_equal_time(twin, seconds.assign(twin=seconds["detr"]), "detr", BUDGETS).loc["twin"]
    assert exact[["low", "at_equal_time", "high"]].tolist() == pytest.approx([0.0] * 3)


@pytest.mark.parametrize("n", [3, 6])
def test_intervals_of_few_replicates_hold_the_truth_as_often_as_they_say(n):
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        values = pd.DataFrame({"detr": 0.0, "more": rng.normal(size=n)})
        row = budget_curve(values, "detr", {"more": 2.0}, draws=400).loc["more"]
        held += row["low"] < 0 < row["high"]
    assert 0.91 < held / 300 < 0.99  # by the bootstrap alone 0.68 and 0.85


def test_epochs_to_reach_are_counted_from_one_against_the_pairs_own_end():
    curves = {
        "detr": pd.DataFrame({200: [0.1, 0.2, 0.3], 201: [0.1, 0.2, 0.2]}),
        "fast": pd.DataFrame({200: [0.2, 0.3, 0.4], 201: [0.25, 0.3, 0.4], 202: [0.0] * 3}),
        "never": pd.DataFrame({200: [0.1, 0.1, 0.1]}),
    }
    table = epochs_to_reach(curves, "detr")
    assert table.loc["fast"].to_dict() == {
        **{"epochs": 1.5, "low": 1.0, "high": 2.0, "reached": 2, "pairs": 2},
    }
    assert table.loc["never", "epochs"] == np.inf and table.loc["never", "reached"] == 0


def test_foretold_counts_signs_of_runs_and_ranks_of_entries():
    last = pd.DataFrame(
        {"a": [0.05, 0.06], "b": [0.02, 0.03], "c": [-0.01, -0.02]}, index=[200, 201]
    )
    same = foretold(last / 10, last)
    assert same["value"].to_dict() == {"signs": 1.0, "ranks": 1.0}
    assert (same[["low", "high"]] == 1.0).all(axis=None)
    other = foretold(-last, last)
    assert other["value"].to_dict() == {"signs": 0.0, "ranks": -1.0}
    first = last.copy()
    first.loc[200, "a"] = -0.01
    first.loc[201, "b"] = np.nan  # no pair: counts neither way
    mixed = foretold(first, last)
    assert mixed.loc["signs", "value"] == pytest.approx(4 / 5)
    assert mixed.loc["signs", "low"] < 0.8 < mixed.loc["signs", "high"]


def test_foretold_leaves_out_what_only_one_of_both_tells():
    last = pd.DataFrame({"a": [0.05, 0.06], "b": [-0.1, -0.1], "budget": 0.1}, index=[200, 201])
    first = pd.DataFrame({"other": [1.0], "a": [0.01], "b": [-0.02]}, index=[201])
    assert foretold(first, last)["value"].to_dict() == {"signs": 1.0, "ranks": 1.0}
