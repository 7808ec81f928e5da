"""Lines and bars: curves of runs, parts of the loss, kinds of error, AP by class."""

from __future__ import annotations

import re
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from detrnb.plots.style import (
    GREY,
    INK,
    STYLE,
    VARIANT_COLOURS,
    as_text,
    colour_of_label,
    panels,
)

MARKERS = "os^DvP"
LINES = ("-", "--", ":", "-.")


@STYLE
def plot_curves(logs: Mapping[str, pd.DataFrame]) -> Figure:
    """Loss, AP and AP50 by epoch for one run or several; works from the first epoch on.

    Args:
        logs: Tables of `runs.log_table` by label. The label's first word, or the variant in a
            run's name, gives the colour; runs of one colour differ by marker.
    """
    figure, axes = panels(1, 3, width=10.0, height=3.0)
    handles: list[Line2D] = []
    for label, log in logs.items():
        colour = colour_of_label(label)
        alike = sum(handle.get_color() == colour for handle in handles)
        look = {"color": colour, "marker": MARKERS[alike % len(MARKERS)], "label": as_text(label)}
        handles.append(Line2D([], [], markersize=3.5, **look))
        _draw_line(axes[0, 0], log, "train_loss", linestyle="--", alpha=0.6, **look)
        _draw_line(axes[0, 0], log, "test_loss", **look)
        for ax, key in zip(axes[0, 1:], ("AP", "AP50"), strict=True):
            _draw_line(ax, log, key, **look)
    units = ("loss, weighted sum", "validation AP, 0 to 1", "validation AP50, 0 to 1")
    titles = ("Loss", "AP (IoU 0.50 to 0.95)", "AP50 (IoU 0.50)")
    for ax, unit, title in zip(axes[0], units, titles, strict=True):
        ax.set_ylabel(unit)
        ax.set_title(title, loc="left")
        _label_epochs(ax)
    for ax in axes[0, 1:]:
        ax.set_ylim(0, max(0.05, ax.get_ylim()[1]))  # noise around zero should look like it
    styles = {"training": "--", "validation": "-"}
    proxies = [Line2D([], [], color=INK, linestyle=s, label=k) for k, s in styles.items()]
    axes[0, 0].legend(handles=proxies, fontsize=8, loc="upper right")
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
    return figure


@STYLE
def plot_scaling(charts: Mapping[str, pd.DataFrame], xlabel: str) -> Figure:
    """How measured values grow, on logarithmic axes; infinite ones stand on top, 0 is left out.

    Args:
        charts: By title with its unit, a table: index on the x axis, one line a column. A column's
            first word gives the colour where it names a variant; grey without.
    """
    figure, axes = panels(1, len(charts), width=4.6 * len(charts), height=3.4)
    for ax, (title, table) in zip(axes[0], charts.items(), strict=True):
        finite = table.where(np.isfinite(table) & (table > 0))
        for i, column in enumerate(table):
            name = re.match(r"[\w+]*", str(column))[0]
            look = {
                "color": VARIANT_COLOURS.get(name, GREY),
                "marker": MARKERS[i % len(MARKERS)],
                "linestyle": LINES[i % len(LINES)],
            }
            ax.plot(finite[column], markersize=4, label=str(column), **look)
            if (lost := table.index[np.isinf(table[column].astype(float))]).size:
                top = np.full(len(lost), 0.97)
                look |= {"marker": "x", "linestyle": "", "transform": ax.get_xaxis_transform()}
                ax.plot(lost, top, label=f"{column}: infinite", **look)
        ax.set(xscale="log", yscale="log", xlabel=xlabel)
        ax.set_title(title, loc="left")
        ax.legend(fontsize=8)
    return figure


@STYLE
def plot_intervals(tables: Mapping[str, pd.DataFrame], xlabel: str) -> Figure:
    """Means with their intervals, one row for each name, the labels' rows beside each other.

    Args:
        tables: By label, which gives the colour where its first word names a variant: columns
            `mean`, `low` and `high`; equal indexes, from top to bottom.
    """
    names = next(iter(tables.values())).index
    figure, axes = panels(1, 1, width=6.4, height=0.9 + 0.36 * len(names))
    ax = axes[0, 0]
    for i, (label, table) in enumerate(tables.items()):
        rows = np.arange(len(names)) + 0.3 * (i - (len(tables) - 1) / 2)
        errors = [table["mean"] - table["low"], table["high"] - table["mean"]]
        look = {"color": colour_of_label(label), "label": label}
        ax.errorbar(table["mean"], rows, xerr=errors, fmt="o", markersize=4, capsize=2, **look)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel(xlabel)
    ax.legend(fontsize=8)
    return figure


@STYLE
def plot_loss_parts(log: pd.DataFrame) -> Figure:
    """The three losses after each decoder layer, training above and validation below.

    Args:
        log: Table of `runs.log_table`; the parts are weighted, as they enter the sum.

    Raises:
        ValueError: The log has epochs but none of DETR's losses.
    """
    parts = {"ce": "Class: cross-entropy", "bbox": "Box: L1", "giou": "Box: GIoU"}
    if len(log) and "train_loss_ce" not in log:
        raise ValueError(f"no train_loss_ce in the log; its columns are {sorted(log.columns)[:8]}")
    aux = sorted(int(m[1]) for k in log if (m := re.fullmatch(r"train_loss_ce_(\d+)", str(k))))
    # The first layer's keys end in _0, the last one's carry no number.
    layers = {**{f"_{i}": f"layer {i + 1}" for i in aux}, "": "last layer"}
    colours = plt.get_cmap("viridis_r")(np.linspace(0.15, 1.0, len(layers)))
    figure, axes = panels(2, 3, width=9.6, height=5.3, share=True)
    for row, split in enumerate(("train", "test")):
        for ax, part in zip(axes[row], parts, strict=True):
            for (suffix, name), colour in zip(layers.items(), colours, strict=True):
                width = 2.2 if suffix == "" else 1.0
                look = {"color": colour, "linewidth": width, "label": name}
                _draw_line(ax, log, f"{split}_loss_{part}{suffix}", marker="o", **look)
            _label_epochs(ax)
    for ax, title in zip(axes[0], parts.values(), strict=True):
        ax.set_title(title, loc="left")
        ax.set_xlabel("")
    axes[0, 0].set_ylabel("training loss, weighted")
    axes[1, 0].set_ylabel("validation loss, weighted")
    handles, names = axes[0, 0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside right center", title="after decoder")
    return figure


@STYLE
def plot_error_kinds(kinds: Mapping[str, int]) -> Figure:
    """Horizontal bars of counts, in the order given, with each one's share."""
    total = sum(kinds.values())
    texts = [f"{n}  ({n / total:.0%})" if total else "0" for n in kinds.values()]
    return _bars(list(kinds), list(kinds.values()), texts, "number of detections or objects")


@STYLE
def plot_per_class(per_class: Mapping[str, float]) -> Figure:
    """Horizontal bars of AP, best first; NaN means a class without ground truth."""
    known = sorted((n for n in per_class if per_class[n] >= 0), key=per_class.get, reverse=True)
    names = [*known, *(n for n in per_class if n not in known)]
    texts = [f"{per_class[n]:.2f}" if n in known else "no ground truth" for n in names]
    widths = [per_class[n] if n in known else 0.0 for n in names]
    figure = _bars(names, widths, texts, "AP (IoU 0.50 to 0.95), 0 to 1")
    if known:
        mean = float(np.mean([per_class[n] for n in known]))
        ax = figure.axes[0]
        ax.axvline(mean, color=INK, linestyle="--", linewidth=1.0, zorder=1.5)
        ax.set_title(f"Mean AP {mean:.3f} (dashed)", loc="left")
    return figure


def _bars(names: list[str], widths: list[float], texts: list[str], unit: str) -> Figure:
    figure, axes = panels(1, 1, width=6.0, height=0.9 + 0.28 * max(len(names), 1))
    ax = axes[0, 0]
    bars = ax.barh(
        [as_text(name) for name in names],
        widths,
        height=0.66,
        color=VARIANT_COLOURS["adaptive_res"],
    )
    white = {"facecolor": "white", "linewidth": 0, "pad": 1.0}
    ax.bar_label(bars, texts, padding=4, fontsize=8, color=INK, bbox=white)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(0, 1.2 * max([*widths, 0]) or 1.0)
    ax.set_xlabel(unit)
    return figure


def _draw_line(ax: Axes, log: pd.DataFrame, key: str, **look: object) -> None:
    """One curve with a few markers, so that a single epoch shows as a point."""
    if key in log:
        values = log[key].astype(float)
        every = max(1, len(values) // 10)
        ax.plot(values.index, values, markersize=3.5, markevery=every, **look)


def _label_epochs(ax: Axes) -> None:
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    epochs = np.concatenate([np.empty(0), *(line.get_xdata() for line in ax.lines)])
    if len(epochs) and np.ptp(epochs) < 2:  # else the axis counts in hundredths of an epoch
        ax.set_xlim(epochs.min() - 0.6, epochs.max() + 0.6)
    elif not len(epochs):
        # Not set_yticks: another panel may share the axis.
        ax.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
        ax.text(
            0.5, 0.5, "nothing logged yet", transform=ax.transAxes, ha="center", color="#777777"
        )


@STYLE
def plot_thresholds(kept: Mapping) -> Figure:
    """Precision, recall and F1 by the least score that counts; the best F1 is marked.

    Args:
        kept: As from ``Run.thresholds``.
    """
    figure, axes = panels(1, 1, width=5.0, height=3.2)
    ax, curve, best = axes[0, 0], kept["curve"], kept["overall"]
    for key, colour, line in (
        ("precision", VARIANT_COLOURS["adaptive_res"], "--"),
        ("recall", VARIANT_COLOURS["efficient_attention"], "-."),
        ("f1", INK, "-"),
    ):
        ax.plot(curve["score"], curve[key], line, color=colour, label=key.replace("f1", "F1"))
    if best["threshold"] is not None:
        ax.axvline(best["threshold"], color=GREY, linewidth=0.8)
        ax.set_title(f"best F1 {best['f1']:.2f} at {best['threshold']:.2f}", loc="left")
    ax.set_xlabel("least score that counts")
    ax.set_ylabel(f"share, at IoU {kept['iou']:g}")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    ax.legend()
    return figure
