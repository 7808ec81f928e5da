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
    from detrnb.datasets import open_split as open_split
    from detrnb.loss import postprocess as postprocess
    from detrnb.model import build_criterion as build_criterion
    from detrnb.model import build_detr as build_detr
    from detrnb.model import load_weights as load_weights
    from detrnb.settings import VARIANTS as VARIANTS
    from detrnb.settings import Config as Config
    from detrnb.settings import Variant as Variant
    from detrnb.settings import register as register
    from detrnb.settings import variant as variant
    from detrnb.study import check_variant as check_variant
    from detrnb.study import judge as judge
    from detrnb.training import fit as fit
    from detrnb.training import load_run as load_run

# The room whose door hands it out; imported when first used: who only reads logs need not wait for
# torch.
_DOORS = {
    "Config": "settings",
    "VARIANTS": "settings",
    "Variant": "settings",
    "build_criterion": "model",
    "build_detr": "model",
    "check_variant": "study",
    "fit": "training",
    "judge": "study",
    "load_run": "training",
    "load_weights": "model",
    "open_split": "datasets",
    "postprocess": "loss",
    "register": "settings",
    "variant": "settings",
}

# Rooms that users enter by their name, such as `detrnb.compare`.
_ROOMS = (
    *("compare", "datasets", "exchange", "look", "loss", "model", "plots", "runs", "settings"),
    *("study", "training"),
)

__all__ = [*_DOORS, *_ROOMS]


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return importlib.import_module(f"detrnb.{name}")
    if name not in _DOORS:
        raise AttributeError(f"module 'detrnb' has no attribute {name!r}")
    return getattr(importlib.import_module(f"detrnb.{_DOORS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
