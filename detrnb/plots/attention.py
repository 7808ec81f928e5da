"""Attention on images, its spectrum, and what a variant's own parameters learned."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from detrnb.plots.images import _array, _image_grid, _pixels, _show
from detrnb.plots.style import GREY, INK, STYLE, VARIANT_COLOURS, panels


@STYLE
def plot_attention_from_point(
    image: object, maps: Mapping[str, object], point: tuple[int, int], columns: int = 5
) -> Figure:
    """What one position of the feature map attends to: the image with the position, then maps.

    All maps share one colour scale, so that they can be compared; it is diverging where a value is
    negative.

    Args:
        image: (H, W, 3) or (3, H, W), uint8.
        maps: by title, each (h, w) of the feature map.
        point: row and column in the feature map.

    Raises:
        ValueError: no maps, maps of several shapes, or a point outside them.
    """
    picture = _pixels(image)
    values = {title: _array(x) for title, x in maps.items()}
    shapes = {x.shape for x in values.values()}
    if len(shapes) != 1:
        raise ValueError(f"maps should be one or more of one shape (h, w), found {sorted(shapes)}")
    h, w = shapes.pop()
    if not (0 <= point[0] < h and 0 <= point[1] < w):
        raise ValueError(f"point {point} lies outside the map of {h} rows and {w} columns")
    signed = min(x.min() for x in values.values()) < -1e-6
    largest = max(np.abs(x).max() for x in values.values())
    norm = CenteredNorm(halfrange=largest) if signed else Normalize(0, largest)
    figure, axes = _image_grid(
        [picture] * (len(maps) + 1), -(-(len(maps) + 1) // columns), columns, width=1.9
    )
    y, x = (
        (i + 0.5) * size / n - 0.5
        for i, size, n in zip(point, picture.shape[:2], (h, w), strict=True)
    )
    shown = axes.flat
    _show(shown[0], picture, f"from row {point[0]}, column {point[1]}")
    for ax, (title, weights) in zip(shown[1:], values.items(), strict=False):
        mappable = ax.imshow(
            weights,
            norm=norm,
            cmap="RdBu_r" if signed else "viridis",
            extent=(-0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5),
            interpolation="nearest",
        )
        ax.set_title(title, fontsize=8.5)
    for ax in shown[: len(maps) + 1]:
        ax.plot(x, y, marker="o", markersize=6, color="#FF2D2D", markeredgecolor="white")
    figure.colorbar(mappable, ax=axes, shrink=0.8, pad=0.02, label="attention weight")
    return figure


@STYLE
def plot_spectrum(spectra: Mapping[str, object]) -> Figure:
    """Singular values of attention matrices, largest first, with the threshold between the parts.

    Args:
        spectra: by title, singular values (M, S) of M matrices each; drawn are their median, the
            range of the middle 80 %, and the median of their means.
    """
    figure, axes = panels(1, len(spectra), width=3.3 * len(spectra), height=3.0, share=True)
    for ax, (title, values) in zip(axes[0], spectra.items(), strict=True):
        values = np.maximum(_array(values), 1e-9)
        mean = float(np.median(values.mean(-1)))
        rank = np.arange(1, values.shape[1] + 1)
        low, middle, high = np.percentile(values, [10, 50, 90], axis=0)
        kept = (values > values.mean(-1, keepdims=True)).sum(-1)
        ax.fill_between(rank, low, high, color=VARIANT_COLOURS["svd_split"], alpha=0.25, lw=0)
        ax.plot(rank, middle, color=VARIANT_COLOURS["svd_split"])
        ax.axhline(mean, color=INK, linestyle="--", linewidth=1)
        ax.set_yscale("log")
        ax.set_xlabel("singular value, by size")
        ax.set_title(f"{title}\n{np.median(kept):.0f} of {values.shape[1]} above", loc="left")
        ax.annotate(
            f"mean {mean:.2g}", (rank[-1], mean), ha="right", va="bottom", fontsize=8, color=INK
        )
    axes[0, 0].set_ylabel("singular value")
    return figure


@STYLE
def plot_layer_weights(history: object) -> Figure:
    """A learned sum over layers: its weights, how far they left their start, and when.

    Args:
        history: (epochs + 1, L, D), before training first.
    """
    history = _array(history)
    change = history[-1] - history[0]
    layers = history.shape[1]
    figure, axes = plt.subplots(
        1, 3, figsize=(10.5, 2.9), layout="constrained", gridspec_kw={"width_ratios": [3, 3, 2]}
    )
    plt.close(figure)
    for ax, values, title in (
        (axes[0], history[-1], "Weights after training"),
        (axes[1], change, "Change since the start"),
    ):
        norm = CenteredNorm(halfrange=np.abs(values).max() or 1.0)
        mappable = ax.imshow(
            values, norm=norm, cmap="RdBu_r", aspect="auto", interpolation="nearest"
        )
        figure.colorbar(mappable, ax=ax, pad=0.02)
        ax.set_title(title, loc="left")
        ax.set_xlabel("channel")
        ax.set_yticks(range(layers), [str(i + 1) for i in range(layers)])
    axes[0].set_ylabel("encoder layer")
    colours = plt.get_cmap("viridis_r")(np.linspace(0.15, 1.0, layers))
    moved = np.abs(history - history[0]).mean(-1)
    for i, colour in enumerate(colours):
        axes[2].plot(moved[:, i], color=colour, marker="o", markersize=3, label=f"layer {i + 1}")
    axes[2].set_title("Mean |change|", loc="left")
    axes[2].set_xlabel("epochs trained")
    axes[2].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[2].grid(visible=True)
    axes[2].tick_params(color=GREY)
    axes[2].legend(fontsize=8)
    return figure
