"""Pictures of studies: what is drawn, in which colour."""

import numpy as np
import pandas as pd
import pytest

from detrnb import plots
from detrnb.compare import CONTROLS, against, table_of
from detrnb.plots.style import VARIANT_COLOURS, colours_of_labels


def log(ap):
    """Two epochs whose AP ends at a value."""
    return pd.DataFrame({"test_loss": [9.0, 5.0], "AP": [0.1, ap], "AP50": [0.2, 2 * ap]})


def values():
    noise = np.random.default_rng(0).normal(0, 0.003, (6, 4))
    table = pd.DataFrame(noise, columns=["detr", "adaptive_res", "svd_split", "encoder0"]) + 0.3
    table["svd_split"] -= 0.05
    table.loc[3:, "encoder0"] = np.nan
    return table


def test_labels_of_one_colour_are_told_apart():
    colours = colours_of_labels(["detr", "encoder0", "encoder1", "svd_split", "svd_split lr=0.1"])
    assert len(set(colours.values())) == 5
    assert colours["detr"] == VARIANT_COLOURS["detr"]
    assert colours["svd_split"] == VARIANT_COLOURS["svd_split"]


def test_more_labels_than_colours_still_have_one():
    assert len(colours_of_labels([f"svd_split {i}" for i in range(9)])) == 9


def test_seed_curves_are_means_with_bands_of_one_deviation():
    figure = plots.plot_seed_curves({"detr": [log(0.2), log(0.4)], "svd_split": [log(0.1)]})
    loss, ap, _ = figure.axes
    mean, single = ap.lines
    assert mean.get_ydata() == pytest.approx([0.1, 0.3])
    assert mean.get_color() == VARIANT_COLOURS["detr"]
    band = ap.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(0.3 + np.std([0.2, 0.4], ddof=1))
    assert single.get_ydata() == pytest.approx([0.1, 0.1])
    assert len(loss.lines) == 2
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["detr, seeds: 2", "svd_split, seeds: 1"]


def test_seed_curves_take_logs_without_evaluation():
    figure = plots.plot_seed_curves({"detr": [pd.DataFrame({"test_loss": [1.0]})]})
    assert [len(ax.lines) for ax in figure.axes] == [1, 0, 0]


def test_paired_curves_show_pairs_their_mean_and_its_interval():
    pairs = pd.DataFrame({seed: [0.0, 0.01 * seed] for seed in range(5)})
    short = pd.DataFrame({0: [0.1], 1: [0.3]})
    figure = plots.plot_paired_curves({"svd_split": pairs, "adaptive_res": short}, "AP")
    left, right = figure.axes
    zero, *runs, mean = left.lines
    assert [run.get_ydata().tolist() for run in runs] == pairs.T.to_numpy().tolist()
    assert mean.get_ydata() == pytest.approx([0.0, 0.02])
    assert mean.get_color() == VARIANT_COLOURS["svd_split"]
    band = left.collections[0].get_paths()[0].vertices
    reach = 2.776445 * 0.01 * 2.5**0.5 / 5**0.5  # t of four degrees of freedom
    assert band[:, 1].max() == pytest.approx(0.02 + reach)
    assert left.get_ylim() == right.get_ylim() and left.get_ylim()[1] > 0.3
    assert not right.collections  # two seeds are too few to judge
    assert right.get_title(loc="left") == "adaptive_res\npairs: 2"


def test_paired_curves_of_one_seed_and_of_unequal_length():
    single = pd.DataFrame({4: [0.1, 0.2]})
    ragged = pd.DataFrame({seed: [0.1, 0.2] for seed in range(5)})
    ragged.loc[1, 0] = np.nan  # one run is not finished
    figure = plots.plot_paired_curves({str(i): t for i, t in enumerate([single, ragged] * 2)}, "AP")
    assert [len(ax.collections) for ax in figure.axes[:2]] == [0, 1]
    assert [ax.get_visible() for ax in figure.axes] == [True] * 4 + [False] * 2


def table_of_values():
    return table_of(values(), against(values(), "detr"))


def test_forest_shows_differences_intervals_and_what_is_too_small_to_matter():
    table = table_of_values()
    figure = plots.plot_forest(table, "AP on test2017", delta=0.01)
    ax = figure.axes[0]
    points = [line for line in ax.lines if line.get_marker() == "o"]
    assert [p.get_xdata()[0] for p in points] == pytest.approx(table["difference"].tolist())
    intervals = [line.get_xdata() for line in ax.lines if line.get_linewidth() == 2]
    assert np.array(intervals) == pytest.approx(table[["low", "high"]].to_numpy())
    (band,) = ax.patches
    assert (band.get_x(), band.get_width()) == pytest.approx((-0.01, 0.02))
    assert [label.get_text() for label in ax.get_yticklabels()] == table.index.tolist()
    assert [text.get_text() for text in ax.texts] == [
        "equivalent, 6 pairs",
        "worse, 6 pairs",
        "described, 3 pairs",
    ]
    assert points[2].get_markerfacecolor() == "white"
    assert points[0].get_markerfacecolor() == VARIANT_COLOURS["adaptive_res"]
    assert len(figure.axes) == 1  # no price is known


def test_ladder_sorts_families_under_their_names_colours_parts_and_prices_entries():
    table = table_of_values().assign(time=[1.2, 0.8, 1.0], time_low=0.7, time_high=1.3)
    table["family"] = ["ours", "published", "published"]
    parts = {"adaptive_res": "encoder", "svd_split": "encoder attention", "encoder0": "control"}
    figure = plots.plot_forest(table, "AP", parts=parts)
    left, right = figure.axes
    labels = [label.get_text() for label in left.get_yticklabels()]
    assert labels == ["adaptive_res", "encoder0", "svd_split"]  # svd_split lost most
    places = left.get_yticks()
    assert places[2] - places[1] == 1 < places[1] - places[0]
    heads = {text.get_text(): text.xy[1] for text in left.texts if text.get_style() == "italic"}
    assert heads == {"ours": places[0] - 1, "published": places[1] - 1}
    prices = [line.get_xdata()[0] for line in right.lines if line.get_marker() == "D"]
    assert prices == [1.2, 1.0, 0.8]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["too small to matter (±0.02)", "encoder", "control", "encoder attention"]
    colours = [line.get_color() for line in left.lines if line.get_marker() == "o"]
    assert len(set(colours)) == 3


def test_a_control_far_from_all_else_leaves_the_others_their_room():
    table = table_of_values()
    table["family"] = ["ours", CONTROLS, CONTROLS]
    left = plots.plot_forest(table, "AP").axes[0]
    low, high = left.get_xlim()
    assert -0.05 < low < -0.02 and 0.02 < high < 0.05  # svd_split lost 0.05
    (mark,) = [line for line in left.lines if line.get_marker() == "<"]
    assert mark.get_xdata()[0] == low
    (said,) = [text.get_text() for text in left.texts if "worse" in text.get_text()]
    assert said == f"{table.loc['svd_split', 'difference']:+.3f}: worse, 6 pairs"


def test_rates_show_each_entry_beside_the_baseline():
    curves = {
        name: {f: pd.Series([0.1, ap * f], index=[1, 2]) for f in (1, 2)}
        for name, ap in (("detr", 0.2), ("conditional", 0.3), ("rope", 0.1))
    }
    figure = plots.plot_rates(curves, "detr", "validation AP")
    assert [ax.get_title("left") for ax in figure.axes] == ["conditional", "rope"]
    for ax, top in zip(figure.axes, (0.3, 0.1), strict=True):
        ends = [line.get_ydata()[-1] for line in ax.lines]
        assert ends == pytest.approx([0.2, 0.4, top, 2 * top])
        dashes = [line.get_linestyle() for line in ax.lines]
        assert dashes == ["-", "--", "-", "--"]
        assert ax.lines[0].get_color() == ax.lines[1].get_color() == VARIANT_COLOURS["detr"]
        assert ax.lines[2].get_color() != VARIANT_COLOURS["detr"]
        assert ax.get_ylim()[1] > 0.6  # all panels show the largest of all


def test_budgets_set_entries_beside_what_the_baseline_gains_in_their_time():
    curve = pd.DataFrame(
        {"time": [0.5, 1.0, 2.0], "gain": [-0.1, 0.0, 0.1], "low": -0.2, "high": 0.2}
    )
    entries = pd.DataFrame(
        {"time": [1.5, 9.0], "difference": [0.2, 0.3], "at_equal_time": [0.14, np.nan]},
        index=["svd_split", "rope"],
    )
    parts = {"svd_split": "encoder attention", "rope": "encoder attention"}
    ax = plots.plot_budgets(curve, entries, "AP", parts=parts).axes[0]
    baseline, inside, outside = ax.lines[:3]
    assert baseline.get_ydata().tolist() == [-0.1, 0.0, 0.1]
    assert (inside.get_xdata()[0], inside.get_ydata()[0]) == (1.5, 0.2)
    assert inside.get_color() == outside.get_color() == inside.get_markerfacecolor()
    assert inside.get_marker() != outside.get_marker()
    assert outside.get_markerfacecolor() == "white"
