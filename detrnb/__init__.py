"""detrnb: which changes to DETR's transformer help, and how would we know?

`Config -> build_detr -> fit -> run folder -> compare`; the notebooks do exactly this.

Shapes, as suffixes and in docstrings: B batch, C channels, H×W image or feature map, S = H·W memory
tokens, Q queries, D `d_model`, N heads, d = D/N, K = `num_classes` + 1 logits, G boxes of an image,
L decoder layers. Boxes carry their format: `cxcywh` (shares of the image) or `xyxy` (pixels).
Masks are True on padding.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detrnb.config import Config as Config
    from detrnb.datasets.splits import open_split as open_split
    from detrnb.detr import build_criterion as build_criterion
    from detrnb.detr import build_detr as build_detr
    from detrnb.detr import postprocess as postprocess
    from detrnb.engine import fit as fit
    from detrnb.engine import load_run as load_run
    from detrnb.registry import VARIANTS as VARIANTS
    from detrnb.weights import load_weights as load_weights

# Imported when first used: who only reads logs need not wait for torch.
_MODULES = {
    "Config": "config",
    "VARIANTS": "registry",
    "build_criterion": "detr",
    "build_detr": "detr",
    "fit": "engine",
    "load_run": "engine",
    "load_weights": "weights",
    "open_split": "datasets.splits",
    "postprocess": "detr",
}

__all__ = [*_MODULES]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'detrnb' has no attribute {name!r}")
    return getattr(importlib.import_module(f"detrnb.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
