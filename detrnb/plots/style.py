"""What every picture shares: colours, matplotlib settings, empty panels."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers tell apart; the baseline is grey.
VARIANT_COLOURS = {
    "detr": "#4D4D4D",
    "adaptive_res": "#0072B2",
    "efficient_attention": "#D55E00",
    "svd_split": "#009E73",
    "adaptive_res+efficient_attention": "#CC79A7",
    "adaptive_res+svd_split": "#56B4E9",
}
# By what a change changes, as `StudyPlan.parts` names it.
PART_COLOURS = {
    "encoder": "#0072B2",
    "encoder attention": "#D55E00",
    "queries": "#009E73",
    "decoder": "#CC79A7",
    "several parts": "#56B4E9",
    "criterion": "#882255",
    "joined": "#E69F00",
    "control": "#888888",
}
OTHER_COLOURS = ("#E69F00", "#332288", "#882255", "#999933", "#6699CC")
OBJECT_COLOURS = ("#56B4E9", "#E69F00", "#00C08B", "#F0E442", "#FF7F50", "#D78FBF", "#4C8DFF")
INK, GREY = "#222222", "#888888"

# From matplotlib's defaults, whatever style the notebook has switched on.
STYLE = plt.style.context(
    [
        "default",
        {
            "figure.facecolor": "white",
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.edgecolor": GREY,
            "axes.labelcolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "grid.color": "#E6E6E6",
            "grid.linewidth": 0.8,
            "legend.frameon": False,
        },
    ]
)


def as_text(name: str) -> str:
    """A name as matplotlib draws it to the letter: a pair of dollars would else be a formula."""
    return name.replace("$", r"\$")


def variant_colour(name: str) -> str:
    """The colour of a variant in every picture, as '#RRGGBB'; joined names in any order."""
    name = "+".join(sorted(name.split("+")))
    other = OTHER_COLOURS[zlib.crc32(name.encode()) % len(OTHER_COLOURS)]
    return VARIANT_COLOURS.get(name, other)


def colour_of_label(label: str) -> str:
    """The colour of the variant in a run's name ('toy-detr-s0-1a2b3c4d') or at a label's start."""
    found = re.search(r"-([\w+]+)-s\d+-[0-9a-f]{8}$", label) or re.match(r"([\w+]*)", label)
    return variant_colour(found[1].lower())


def colours_of_labels(labels: Iterable[str]) -> dict[str, str]:
    """Colours of one picture: as `colour_of_label`, and another one where that is taken."""
    colours: dict[str, str] = {}
    for label in labels:
        wanted = (colour_of_label(label), *OTHER_COLOURS)
        free = [colour for colour in wanted if colour not in colours.values()]
        colours[label] = free[0] if free else wanted[0]
    return colours


def colours_of_parts(parts: Iterable[str]) -> dict[str, str]:
    """Colours of what changes change; of other names as `colours_of_labels`."""
    parts = dict.fromkeys(parts)
    others = colours_of_labels(part for part in parts if part not in PART_COLOURS)
    return {part: PART_COLOURS.get(part) or others[part] for part in parts}


def panels(
    rows: int,
    columns: int,
    width: float,
    height: float,
    *,
    share: bool = False,
    widths: Sequence[float] = (),
) -> tuple[Figure, np.ndarray]:
    """Axes (rows, columns) for lines or bars.

    Args:
        width, height: Of the whole figure, inches.
        share: One x axis for all, one y axis for each column.
        widths: Of columns beside each other, the first of them; equal unless given.
    """
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width, height),
        squeeze=False,
        layout="constrained",
        sharex=share,
        sharey="col" if share else False,
        width_ratios=widths[:columns] or None,
    )
    plt.close(figure)
    for ax in axes.flat:
        ax.grid(visible=True)
        # Ticks are made when drawn, by the notebook's style then, unless told here.
        ax.tick_params(color=GREY, labelcolor=INK, labelsize=8)
    return figure, axes
