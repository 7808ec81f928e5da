"""Which initial weights two models of one seed have in common."""

from torch import Tensor

from detrnb.settings import resolve

STARTED = {"box": "bbox_embed.layers.2.", "class_bias": "class_embed.bias"}


def shared_names(detr: dict[str, Tensor], other: dict[str, Tensor], variant: str) -> list[str]:
    """Names and shapes of DETR's tensors that a variant's has too, but for heads' own starts."""
    own = tuple(STARTED[head] for used in resolve(variant) for head in used.heads)
    return [
        name
        for name, tensor in detr.items()
        if name in other and tensor.shape == other[name].shape and not name.startswith(own)
    ]
