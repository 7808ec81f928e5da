"""Rotary position embedding in two dimensions, in the encoder's attention.

Source: Heo et al., Rotary Position Embedding for Vision Transformer, ECCV 2024 (arXiv 2403.13298),
code naver-ai/rope-vit; after Su et al., RoFormer, 2021, for text.

DETR adds sines of a cell's position to what queries and keys are made from, so that their product
mixes content and place. Here nothing is added: each pair of a query's or key's channels is turned,
as a complex number, by an angle that is linear in the cell's column x and row y,

    q'_c = q_c · exp(i (f_c x + g_c y)),    k' alike,    so q'·k' depends on where k is *from q*

In the paper's RoPE-Mixed (`frequencies="mixed"`) every head of every layer learns its own f and g;
of a head with d channels they start as 10^(−4t/d), t = 0 .. d/4 − 1, in a random direction and in
that across it. In RoPE-Axial ("axial") half of the pairs turns with x, half with y, at fixed
100^(−4t/d).

Measured there, on ImageNet-1k with a ViT-B, whose own positions are learned and added: 83.4 % right
-> 83.8 mixed, 83.6 axial at the resolution of training; 82.8 -> 84.4, 83.9 at 384 pixels. The
default is mixed, the better there. The field's names: rotary position embedding (RoPE), mixed,
axial.

Left out: the decoder, whose cross-attention keeps DETR's added sines for both memory and queries.
The paper changes a backbone that sees nothing else of position; a DETR's encoder without its sines
still sees what the backbone's own padding tells. Bundled: nothing else.

Choices. Positions are cells counted from 0, as there, so padding moves nothing; not shares of the
image, so `model.position_temperature` has no say in the encoder. The authors keep the frequencies
out of weight decay; here it acts on them as on all else.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from detrnb.loss import at_least_float32
from detrnb.model import EncoderAttention

Frequencies = Literal["mixed", "axial"]


class RotaryAttention(EncoderAttention):
    """DETR's attention whose queries and keys are turned by their position instead of added to it.

    Attributes:
        frequencies: (2, N or 1, d / 2), angle of each pair of channels per cell to the right, and
            per cell down; learned by "mixed".
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        dropout: float,
        *,
        frequencies: Frequencies = "mixed",
    ) -> None:
        super().__init__(d_model, num_heads, dropout)
        channels = d_model // num_heads
        if channels % 4:
            raise ValueError(
                f"rope turns pairs of channels in two directions, so a head needs a multiple of 4;"
                f" d_model {d_model} / num_heads {num_heads} is {channels}"
            )
        steps = torch.arange(0, channels, 4) / channels
        if frequencies == "mixed":
            angle = 2 * math.pi * torch.rand(num_heads, 1)
            speed = 10.0**-steps
            turned = (angle, angle + math.pi / 2)
            along = torch.cat([speed * a.cos() for a in turned], -1)
            down = torch.cat([speed * a.sin() for a in turned], -1)
            self.frequencies = nn.Parameter(torch.stack([along, down]))
        else:
            speed, still = 100.0**-steps, torch.zeros(channels // 4)
            fixed = torch.stack([torch.cat([speed, still]), torch.cat([still, speed])])
            self.register_buffer("frequencies", fixed[:, None], persistent=False)

    def forward(
        self,
        x: Tensor,
        pos: Tensor,
        padding_mask: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """x (B, S, D), padding_mask (B, S) True on padding, grid (H, W) -> (B, S, D)."""
        q, k, v = self.project(x, x, x)
        angles = self.angles(grid)
        attended = self.attend(turn(q, angles), turn(k, angles), v, padding_mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def angles(self, grid: tuple[int, int]) -> Tensor:
        """How far each cell's pairs of channels turn, (N or 1, H·W, d / 2)."""
        # Half precision cannot tell large angles apart.
        with torch.autocast(self.frequencies.device.type, enabled=False):
            f = at_least_float32(self.frequencies)
            y, x = (torch.arange(n, device=f.device, dtype=f.dtype) for n in grid)
            along, down = f[0][:, None] * x[:, None], f[1][:, None] * y[:, None]
            return (down[:, :, None] + along[:, None]).flatten(1, 2)


def turn(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair of neighbouring channels of x (B, N, S, d) by angles (N or 1, S, d / 2)."""
    with torch.autocast(x.device.type, enabled=False):
        even, odd = at_least_float32(x).unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = angles.cos(), angles.sin()
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
        return turned.to(x.dtype)
