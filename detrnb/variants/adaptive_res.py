"""AdaptiveResEncoder: the memory is a learned, channel-wise sum of all encoder layers.

Source: the journal's first idea. Relatives: Transparent Attention (Bapna et al., 2018), ELMo
(Peters et al., 2018), AugDETR (ECCV 2024).
"""

from collections.abc import Sequence
from os import PathLike

import numpy as np
import torch
from torch import Tensor, nn

from detrnb.model import TransformerEncoder
from detrnb.runs import RunFolder

_NAME = "transformer.encoder.layer_weights"


class AdaptiveResEncoder(TransformerEncoder):
    """memory = Σ_l w_l ⊙ LN(x_l), with x_l the output of encoder layer l.

    The weights w (L, D) are learned and start at 1 for the last layer and 0 for the others, so that
    the encoder starts as DETR's. LN is one LayerNorm that all layers share, as the decoder's do.

    Attributes:
        layer_weights: (L, D).
        added: names of the parameters that DETR does not have.
    """

    def __init__(self, layers: Sequence[nn.Module], d_model: int, pre_norm: bool) -> None:
        super().__init__(layers, d_model, pre_norm)
        self.added = ("layer_weights",)
        if not pre_norm:  # else DETR has the norm too, and official weights fill it
            self.norm = nn.LayerNorm(d_model)
            self.added += ("norm.weight", "norm.bias")
        self.layer_weights = nn.Parameter(torch.zeros(len(layers), d_model))
        with torch.no_grad():
            self.layer_weights[-1] = 1.0

    def forward(
        self,
        x: Tensor,
        pos: Tensor,
        padding_mask: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """x, pos (B, S, D), padding_mask (B, S), grid (H, W) -> memory (B, S, D)."""
        memory = 0.0
        for layer, weight in zip(self.layers, self.layer_weights, strict=True):
            x = layer(x, pos, padding_mask, grid)
            memory = memory + weight * self.norm(x)
        return memory

    def start_as_detr(self, state: dict[str, Tensor], prefix: str) -> None:
        """Add to DETR's tensors what this encoder holds beyond them, so that it computes the same.

        The last layer ends in a norm of its own already. Its scale and shift move into the shared
        norm, and it keeps 1 and 0: to normalise twice is to normalise once.

        Args:
            state: DETR's tensors by name, changed in place.
            prefix: of this module's names.
        """
        start = torch.zeros(self.layer_weights.shape)
        start[-1] = 1.0
        state[prefix + "layer_weights"] = start
        if "norm.weight" in self.added:
            for name, neutral in (("weight", torch.ones_like), ("bias", torch.zeros_like)):
                last = f"{prefix}layers.{len(self.layers) - 1}.norm2.{name}"
                state[f"{prefix}norm.{name}"] = state[last]
                state[last] = neutral(state[last])


def layer_weights(model: nn.Module) -> Tensor:
    """What a model with this encoder learned, (L, D) on the CPU.

    Raises:
        ValueError: the model has another encoder.
    """
    weights = dict(model.named_parameters()).get(_NAME)
    if weights is None:
        raise ValueError(
            "this model's encoder has no layer weights; build it with variant='adaptive_res'"
        )
    return weights.detach().cpu().clone()


def layer_weights_history(path: str | PathLike[str]) -> np.ndarray:
    """The weights of a run before training and after each epoch, (epochs + 1, L, D).

    Raises:
        ValueError: no run there, or one of another variant.
    """
    history = RunFolder(path).read_history()
    if _NAME not in history:
        raise ValueError(
            f"{path} keeps no layer weights (it keeps {', '.join(history) or 'nothing'}); expected"
            " a run with variant='adaptive_res'"
        )
    return history[_NAME]
