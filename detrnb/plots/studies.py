"""Entries of a study over their seeds: curves, differences from the baseline, what AP costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from detrnb.compare import CONTROLS, DELTA, FEWEST_SEEDS, paired_test
from detrnb.plots.style import (
    GREY,
    INK,
    STYLE,
    colours_of_labels,
    colours_of_parts,
    panels,
)

_MARKERS = "Dosv^<>pP*X"


@STYLE
def plot_seed_curves(logs: Mapping[str, Sequence[pd.DataFrame]]) -> Figure:
    """Loss, AP and AP50 on the validation split by epoch: means over seeds, bands of ± one SD.

    Args:
        logs: By entry, the tables of `runs.log_table` of its runs; the first is drawn on top. An
            epoch that not all of them logged has the mean of those that did.
    """
    figure, axes = panels(1, 3, width=10.0, height=3.0)
    colours = colours_of_labels(logs)
    titles = {"test_loss": "Validation loss", "AP": "AP (IoU 0.50 to 0.95)", "AP50": "AP50"}
    for ax, (key, title) in zip(axes[0], titles.items(), strict=True):
        for i, (entry, runs) in enumerate(logs.items()):
            found = [run[key] for run in runs if key in run]
            if not found:
                continue
            values = pd.concat(found, axis=1).astype(float)
            mean, spread = values.mean(axis=1), values.std(axis=1).fillna(0.0)
            look = {"color": colours[entry], "zorder": 3 - i / len(logs)}
            ax.fill_between(mean.index, mean - spread, mean + spread, alpha=0.2, lw=0, **look)
            ax.plot(mean.index, mean, markersize=3, marker="o", markevery=_every(mean), **look)
        ax.set_title(title, loc="left")
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    handles = [
        Line2D([], [], color=colours[entry], label=f"{entry}, seeds: {len(runs)}")
        for entry, runs in logs.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
    return figure


@STYLE
def plot_paired_curves(differences: Mapping[str, pd.DataFrame], metric: str) -> Figure:
    """Differences from the baseline by epoch: one panel an entry, a thin line each pair of runs.

    The thick line is their mean; the band, where there are enough seeds to judge, its 95 %
    interval, each epoch by itself.

    Args:
        differences: By entry, epochs as rows and seeds as columns, as from
            ``compare.paired_by_epoch``.
        metric: For the axis, such as ``validation AP``.
    """
    columns = min(3, len(differences))
    rows = -(-len(differences) // columns)
    figure, axes = panels(rows, columns, width=3.0 * columns + 0.6, height=2.3 * rows + 0.3)
    colours = colours_of_labels(differences)
    for ax, (entry, table) in zip(axes.flat, differences.items(), strict=False):
        look = {"color": colours[entry]}
        pairs = table.dropna()  # epochs that every pair has
        ax.axhline(0, color=INK, linewidth=1)
        ax.plot(table, linewidth=0.7, alpha=0.45, **look)
        if table.shape[1] >= FEWEST_SEEDS and len(pairs):
            test = paired_test(pairs.to_numpy())
            ax.fill_between(pairs.index, test.low, test.high, alpha=0.2, lw=0, **look)
        ax.plot(table.mean(axis="columns"), linewidth=2, **look)
        ax.set_title(f"{entry}\npairs: {table.shape[1]}", loc="left", fontsize=9)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    for ax in axes.flat[len(differences) :]:
        ax.set_visible(False)
    limits = [ax.get_ylim() for ax in axes.flat[: len(differences)]]
    for ax in axes.flat:
        ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    judged = any(table.shape[1] >= FEWEST_SEEDS for table in differences.values())
    band = " (band: 95 % interval of the mean, each epoch by itself)" * judged
    figure.supxlabel(f"epoch{band}", fontsize=9)
    figure.supylabel(f"{metric}, minus the baseline's", fontsize=9)
    return figure


@STYLE
def plot_forest(
    table: pd.DataFrame,
    metric: str,
    *,
    delta: float = DELTA,
    parts: Mapping[str, str] | None = None,
) -> Figure:
    """Differences from the baseline with their 95 % intervals, and beside them the price in time.

    Grey: too small to matter. Hollow: described, not judged. A control far from all else is a
    triangle at the edge, with its number, so that the others have the room.

    Args:
        table: Of ``compare.verdicts``, or ``rungs`` of a ``Ladder``: by entry, ``difference``,
            ``low``, ``high``, ``p_holm``, ``words``, ``seeds``, and where it is known ``time`` with
            ``time_low`` and ``time_high``. With ``family``: each stands under its name, the largest
            difference first.
        metric: For the axis, such as ``AP on test2017``.
        delta: The smallest difference that matters.
        parts: By entry the part of the model that it changes, which gives the colour.
    """
    table, places, heads = _by_family(table)
    priced = "time" in table and table["time"].notna().any()
    height = 1.3 + 0.3 * (places[-1] + 1)
    figure, axes = panels(1, 2 if priced else 1, 10.0 if priced else 8.0, height, widths=(5, 3))
    ax = axes[0, 0]
    if parts is None:
        groups, colours = table.index, colours_of_labels(table.index)
    else:
        groups = [parts[entry] for entry in table.index]
        colours = colours_of_parts(groups)
    ax.axvspan(-delta, delta, color="#EDEDED", lw=0, zorder=0.5)
    ax.axvline(0, color=INK, linewidth=1)
    low, high = _scale(table, delta)
    beside = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 8, "color": INK}
    for y, group, row in zip(places, groups, table.itertuples(), strict=True):
        colour, judged = colours[group], np.isfinite(row.p_holm)
        face = colour if judged else "white"
        words = f"{row.words}, {row.seeds} pairs"
        if low <= row.difference <= high:
            ax.plot([row.low, row.high], [y, y], color=colour, linewidth=2)
            ax.plot(row.difference, y, "o", color=colour, markerfacecolor=face, markersize=5)
        else:
            edge, mark = (low, "<") if row.difference < low else (high, ">")
            ax.plot(edge, y, mark, color=colour, markerfacecolor=face, clip_on=False)
            words = f"{row.difference:+.3f}: {words}"
        ax.annotate(words, (1.02, y), **beside)
        if priced:
            axes[0, 1].plot([row.time_low, row.time_high], [y, y], color=colour, linewidth=2)
            axes[0, 1].plot(row.time, y, "D", color=colour, markersize=5)
    for y, family in heads.items():
        ax.annotate(family, (-0.02, y), ha="right", style="italic", **beside)
    ax.set_yticks(places, table.index)
    ax.set_xlim(low, high)
    for one in axes[0]:
        one.set_ylim(places[-1] + 0.7, min([*places[:1], *heads]) - 0.7)
        one.grid(visible=False, axis="y")
    ax.set_xlabel(f"difference from the baseline in {metric}, with 95 % intervals, each by itself")
    if priced:
        axes[0, 1].axvline(1, color=INK, linewidth=1)
        axes[0, 1].set_yticks([])
        axes[0, 1].set_xlabel("training time, times the baseline's")
    handles = [Patch(color="#EDEDED", label=f"too small to matter (±{delta:g})")]
    if parts is not None:
        handles += [Line2D([], [], color=colours[part], label=part, lw=2) for part in colours]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8)
    return figure


def _by_family(table: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray, dict[float, str]]:
    """A table in the order of a picture, the place of each row, and of each family's name."""
    if "family" not in table:
        return table, np.arange(len(table), dtype=float), {}
    families = [*table.groupby("family", sort=False)]
    rows, places, heads, y = [], [], {}, 0.0
    for name, family in families:
        heads[y] = name
        rows.append(family.sort_values("difference", ascending=False))
        places += [y + 1 + i for i in range(len(family))]
        y = places[-1] + 1.3
    return pd.concat(rows), np.array(places), heads


def _scale(table: pd.DataFrame, delta: float) -> tuple[float, float]:
    """What the axis of differences shows: all but controls that are far from all else."""
    shown = table
    if "family" in table and (table["family"] != CONTROLS).any():
        shown = table[table["family"] != CONTROLS]
    ends = pd.concat([shown["low"], shown["difference"], shown["high"]]).dropna()
    low, high = min(ends.min(), -1.5 * delta), max(ends.max(), 1.5 * delta)
    room = 0.04 * (high - low)
    return low - room, high + room


@STYLE
def plot_rates(
    curves: Mapping[str, Mapping[float, pd.Series]], baseline: str, metric: str
) -> Figure:
    """How runs learn at several learning rates: one panel an entry, the baseline's in each, grey.

    Args:
        curves: By entry and factor of the learning rate, the metric by epoch, counted from 1.
        baseline: the entry that all panels show.
        metric: For the axis, such as ``validation AP``.
    """
    entries = [entry for entry in curves if entry != baseline]
    columns = min(4, max(1, len(entries)))
    rows = max(1, -(-len(entries) // columns))
    figure, axes = panels(rows, columns, width=2.5 * columns + 0.4, height=2.2 * rows + 0.4)
    colours = colours_of_labels(curves)
    factors = sorted({factor for runs in curves.values() for factor in runs})
    looks = {
        factor: {"linestyle": line, "marker": mark, "markersize": 3.5}
        for factor, line, mark in zip(factors, ("-", "--", ":", "-."), "os^D", strict=False)
    }
    for ax, entry in zip(axes.flat, entries, strict=False):
        for name in (baseline, entry):
            for factor, values in curves.get(name, {}).items():
                ax.plot(values, color=colours[name], **looks[factor])
        ax.set_title(entry, loc="left")
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    top = max(values.max() for runs in curves.values() for values in runs.values())
    for ax in axes.flat:
        ax.set_ylim(0, 1.05 * top)
    for ax in axes.flat[len(entries) :]:
        ax.set_visible(False)
    figure.supylabel(metric, fontsize=9)
    handles = [
        Line2D([], [], color=INK, label=f"{factor:g} times the rate", **look)
        for factor, look in looks.items()
    ]
    handles.append(Line2D([], [], color=colours[baseline], label=f"grey: {baseline}"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    return figure


@STYLE
def plot_budgets(
    curve: pd.DataFrame, entries: pd.DataFrame, metric: str, *, parts: Mapping[str, str]
) -> Figure:
    """What each entry gains against what the baseline gains by training as long.

    The line, with its 95 % band, is the baseline trained for less and more epochs, each a whole
    schedule; what lies above it is worth its time. Hollow: an entry that takes longer than all of
    the baseline's trainings, or shorter.

    Args:
        curve: Of ``compare.budget_curve``.
        entries: Of ``compare.at_equal_time``.
        metric: For the axis, such as ``AP on test2017``.
        parts: By entry the part of the model that it changes, which gives the colour; entries of
            one part differ in their marker.
    """
    figure, axes = panels(1, 1, width=8.6, height=4.4)
    ax = axes[0, 0]
    ax.fill_between(curve["time"], curve["low"], curve["high"], color=GREY, alpha=0.25, lw=0)
    ax.plot(
        curve["time"],
        curve["gain"],
        "o-",
        color=INK,
        markersize=4,
        label="the baseline\n(band: 95 %)",
    )
    colours, used = colours_of_parts(parts[entry] for entry in entries.index), Counter()
    for entry, row in entries.iterrows():
        colour = colours[parts[entry]]
        marker = _MARKERS[used[parts[entry]] % len(_MARKERS)]
        used[parts[entry]] += 1
        face = colour if np.isfinite(row["at_equal_time"]) else "white"
        look = {"color": colour, "markerfacecolor": face, "markersize": 7}
        ax.plot(row["time"], row["difference"], marker, label=entry, **look)
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("training time, times the baseline's")
    ax.set_ylabel(f"{metric}, minus the baseline's")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def _every(values: pd.Series) -> int:
    """So that a curve has about ten markers."""
    return max(1, len(values) // 10)
