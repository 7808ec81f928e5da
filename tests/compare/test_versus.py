"""A table of numbers, each entry against one of them."""

import numpy as np
import pandas as pd
import pytest

from detrnb.compare import against, table_of


def study(difference=0.03, spread=0.003, entries=("detr", "variant"), seeds=6):
    """AP by seed and entry: the second one's is higher, all share what a seed brings."""
    noise = np.random.default_rng(7)
    shared = noise.normal(0.3, 0.02, (seeds, 1))
    values = shared + noise.normal(0, spread, (seeds, len(entries)))
    values[:, 1] += difference
    return pd.DataFrame(values, columns=list(entries))


def table(values, **options):
    return table_of(values, against(values, "detr", **options))


def test_table_has_each_entrys_verdict_and_numbers():
    values = study(entries=("detr", "good", "same", "bad"))
    values["bad"] -= 0.03
    found = table(values)
    assert found["verdict"].to_dict() == {"good": "better", "same": "equivalent", "bad": "worse"}
    assert found.loc["bad", "high"] < 0 < found.loc["good", "low"]
    assert (found["p_holm"] >= found["p"]).all() and found["needed"].isna().all()


def test_shared_noise_of_seeds_falls_out_of_pairs():
    row = table(study(spread=0.001)).loc["variant"]
    assert row["spread"] > 0.01 > 0.003 > row["difference_spread"]


def test_fewer_than_five_seeds_are_described_and_no_comparison():
    values = study(entries=("detr", "six", "four"))
    values.loc[4:, "four"] = np.nan
    found = table(values)
    assert found["seeds"].tolist() == [6, 4]
    four = found.loc["four"]
    assert four["verdict"] == "described" and np.isnan(four["p_holm"]) and np.isfinite(four["low"])
    assert found.loc["six", "p_holm"] == found.loc["six", "p"]


def test_a_single_pair_has_a_difference_and_no_interval():
    row = table(study(seeds=1)).loc["variant"]
    assert np.isfinite(row["difference"]) and np.isnan(row["low"]) and row["seeds"] == 1


def test_unpaired_seeds_are_left_out_of_the_difference():
    values = study(spread=0.0)
    values.loc[0, "detr"] = np.nan
    values.loc[0, "variant"] = 0.9
    row = table(values).loc["variant"]
    assert row["seeds"] == 5 and row["difference"] == pytest.approx(0.03)


def test_another_delta_is_another_question():
    values = study(difference=0.0)
    assert table(values).loc["variant", "verdict"] == "equivalent"
    found = table(values, delta=0.001).loc["variant"]
    assert found["verdict"] == "cannot tell" and found["needed"] > 50


def test_unknown_baseline_names_the_nearest_entry():
    with pytest.raises(ValueError, match="no entry 'dert'.*there are detr, variant.*'detr'"):
        against(study(), "dert")
