"""Where things are, as sines and cosines: of a feature map's cells, and of any points."""

import math

import torch
from torch import Tensor, nn


class PositionEmbeddingSine(nn.Module):
    """Sines and cosines of a cell's row and column (reference: models/position_encoding.py).

    Rows and columns are counted over valid cells from 1 and scaled to (0, 2π]; the first half of
    the channels codes the row, the second the column, sine and cosine interleaved.

    Args:
        temperature: ratio of the longest to the shortest wavelength; the reference's is 10000. On
            few cells most of its channels hardly change; DAB-DETR (Liu et al., ICLR 2022) takes 20.
    """

    def __init__(self, d_model: int, temperature: float = 10000) -> None:
        super().__init__()
        self.num_features, self.temperature = d_model // 2, temperature

    def forward(self, padding_mask: Tensor) -> Tensor:
        """Position embedding of a mask's cells.

        Args:
            padding_mask: (B, H, W) bool, True on padding.

        Returns:
            (B, D, H, W) float32.
        """
        alike = padding_mask.stride(0) == 0  # one mask, expanded over the batch
        valid = (~padding_mask[:1] if alike else ~padding_mask).to(torch.float32)
        halves = []
        for dim in (1, 2):
            count = valid.cumsum(dim)
            last = count.narrow(dim, -1, 1)
            angle = count / (last + 1e-6) * 2 * math.pi
            halves.append(_sines(angle, self.num_features, self.temperature))
        embedded = torch.cat(halves, dim=3).permute(0, 3, 1, 2)
        # Not len(): an export would fix the batch's size.
        return embedded.expand(padding_mask.shape[0], -1, -1, -1) if alike else embedded


def embed_points(points: Tensor, d_model: int, temperature: float) -> Tensor:
    """What `PositionEmbeddingSine` gives a cell, for any points.

    Args:
        points: (..., 2), x then y, shares of the unpadded image.

    Returns:
        (..., D), the row's half first.
    """
    x, y = (points * 2 * math.pi).unbind(-1)
    return torch.cat([_sines(angle, d_model // 2, temperature) for angle in (y, x)], -1)


def _sines(angle: Tensor, num_features: int, temperature: float) -> Tensor:
    """Sines and cosines, interleaved, of angles (...) at falling frequencies, (..., features)."""
    steps = torch.arange(num_features, dtype=angle.dtype, device=angle.device)
    angles = angle[..., None] / temperature ** (2 * (steps // 2) / num_features)
    return torch.stack([angles[..., ::2].sin(), angles[..., 1::2].cos()], -1).flatten(-2)
