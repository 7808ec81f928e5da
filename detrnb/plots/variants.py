"""What variants hold: spectra with their threshold, learned weights of layers."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from detrnb.plots.images import _array
from detrnb.plots.style import GREY, INK, STYLE, VARIANT_COLOURS, panels


@STYLE
def plot_spectrum(spectra: Mapping[str, object]) -> Figure:
    """Singular values of attention matrices, largest first, with the threshold between the parts.

    Drawn are the median over matrices, the range of the middle 80 %, and the median mean.

    Args:
        spectra: by title, each with `values` (M, S) of M matrices, their `mean` (M,) and
            `is_context` (M, S), as `variants.svd_split.Spectrum` has them.
    """
    figure, axes = panels(1, len(spectra), width=3.3 * len(spectra), height=3.0)
    for ax, (title, spectrum) in zip(axes[0], spectra.items(), strict=True):
        values, kept = _array(spectrum.values), _array(spectrum.is_context).sum(-1)
        mean = float(np.median(_array(spectrum.mean)))
        rank = np.arange(1, values.shape[1] + 1)
        drawn = np.maximum(values, 1e-9)  # zero has no place on a logarithmic axis
        low, middle, high = np.percentile(drawn, [10, 50, 90], axis=0)
        ax.fill_between(rank, low, high, color=VARIANT_COLOURS["svd_split"], alpha=0.25, lw=0)
        ax.plot(rank, middle, color=VARIANT_COLOURS["svd_split"])
        ax.axhline(mean, color=INK, linestyle="--", linewidth=1)
        ax.set_yscale("log")
        ax.set_xlabel("singular value, by size")
        ax.set_title(f"{title}\n{np.median(kept):.0f} of {values.shape[1]} above", loc="left")
        ax.annotate(
            f"mean {mean:.2g}", (rank[-1], mean), ha="right", va="bottom", fontsize=8, color=INK
        )
        ax.sharey(axes[0, 0])
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
