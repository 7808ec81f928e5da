"""Pictures: data in, matplotlib Figure out; white, legible in a paper and in a dark JupyterLab.

Boxes are xyxy in pixels. Tensors and arrays are taken alike. Figures are closed towards pyplot, so
that a notebook shows each once, where it is the cell's value.
"""

from detrnb.plots.anchors import plot_anchors
from detrnb.plots.attention import (
    plot_attention_from_point,
    plot_cross_attention,
    plot_query_attention,
)
from detrnb.plots.charts import (
    plot_curves,
    plot_error_kinds,
    plot_intervals,
    plot_loss_parts,
    plot_per_class,
    plot_scaling,
    plot_thresholds,
)
from detrnb.plots.drawing import draw_detections
from detrnb.plots.images import plot_detections, plot_images, plot_matching
from detrnb.plots.studies import (
    plot_budgets,
    plot_forest,
    plot_paired_curves,
    plot_rates,
    plot_seed_curves,
)
from detrnb.plots.style import variant_colour
from detrnb.plots.variants import plot_layer_weights, plot_spectrum

__all__ = [
    "plot_anchors",
    "draw_detections",
    "plot_attention_from_point",
    "plot_cross_attention",
    "plot_budgets",
    "plot_curves",
    "plot_detections",
    "plot_error_kinds",
    "plot_forest",
    "plot_images",
    "plot_intervals",
    "plot_layer_weights",
    "plot_loss_parts",
    "plot_matching",
    "plot_paired_curves",
    "plot_per_class",
    "plot_query_attention",
    "plot_rates",
    "plot_scaling",
    "plot_seed_curves",
    "plot_spectrum",
    "plot_thresholds",
    "variant_colour",
]
