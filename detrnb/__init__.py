"""detrnb: which changes to DETR's transformer help, and how would we know?

`Config -> build_detr -> fit -> run folder -> compare`; the notebooks do exactly this.

Shapes, as suffixes and in docstrings: B batch, C channels, H×W image or feature map, S = H·W memory
tokens, Q queries, D `d_model`, N heads, d = D/N, K = `num_classes` + 1 logits, G boxes of an image,
L decoder layers. Boxes carry their format: `cxcywh` (shares of the image) or `xyxy` (pixels).
Masks are True on padding.
"""

from detrnb.config import Config
from detrnb.datasets.splits import open_split
from detrnb.detr import build_criterion, build_detr, load_weights, postprocess
from detrnb.engine import fit, load_run
from detrnb.registry import VARIANTS

__all__ = [
    "VARIANTS",
    "Config",
    "build_criterion",
    "build_detr",
    "fit",
    "load_run",
    "load_weights",
    "open_split",
    "postprocess",
]
