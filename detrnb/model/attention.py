"""Multi-head dot-product attention, batch first, with the parameter names of torch's own."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention (Vaswani et al., 2017) with packed projections.

    Parameters are named and shaped as in `torch.nn.MultiheadAttention`, so DETR checkpoints load.
    The weights are never formed (fused kernel) unless `record` is set.

    Attributes:
        record: set it to keep the weights of each forward pass, after the softmax and before
            dropout, as `recorded["attention"]` (B, N, Q, S).
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d_model, d_model))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * d_model))
        self.out_proj = nn.Linear(d_model, d_model)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.in_proj_bias)
        self.record = False
        self.recorded: dict[str, Tensor] = {}

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Apply the packed input projection and split the heads: three (B, N, length, D/N)."""
        # Split once: slices would each make a full-size gradient of zeros in the backward pass.
        D = query.shape[-1]
        if query is key:  # self-attention: one product for both
            parts = self._split([2 * D, D])
            q, k = F.linear(query, *parts[0]).chunk(2, dim=-1)
        else:
            parts = self._split([D, D, D])
            q, k = F.linear(query, *parts[0]), F.linear(key, *parts[1])
        v = F.linear(value, *parts[-1])
        return tuple(x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))

    def _split(self, sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of each part of the packed projection."""
        return list(
            zip(self.in_proj_weight.split(sizes), self.in_proj_bias.split(sizes), strict=True)
        )

    def attend(self, q: Tensor, k: Tensor, v: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Attended values (B, N, Q, d) of q (B, N, Q, d), k and v (B, N, S, d).

        This is what a variant of attention overrides.
        """
        dropout = self.dropout if self.training else 0.0
        if not self.record:
            keep = None if padding_mask is None else ~padding_mask[:, None, None, :]
            # On a CPU torch's fused kernel is many times slower backward in bf16 than in fp32
            # (bench/training_step.py), so bf16 stops at its door there.
            if q.device.type == "cpu":
                with torch.autocast("cpu", enabled=False):
                    return F.scaled_dot_product_attention(
                        q.float(), k.float(), v.float(), attn_mask=keep, dropout_p=dropout
                    )
            return F.scaled_dot_product_attention(q, k, v, attn_mask=keep, dropout_p=dropout)
        weights = self.attention_weights(q, k, padding_mask)
        self.recorded = {"attention": weights.detach()}
        return F.dropout(weights, dropout) @ v

    def attention_weights(self, q: Tensor, k: Tensor, padding_mask: Tensor | None) -> Tensor:
        """softmax(q kᵀ / √d) (B, N, Q, S) with padded keys left out, before dropout."""
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        if padding_mask is not None:
            scores = scores.masked_fill(padding_mask[:, None, None, :], float("-inf"))
        return scores.softmax(dim=-1)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, padding_mask: Tensor | None = None
    ) -> Tensor:
        """Attend from queries to keys.

        Args:
            query: (B, Q, D). Pass the same object as `key` for self-attention.
            key, value: (B, S, D).
            padding_mask: (B, S) bool, True where a key is padding.

        Returns:
            (B, Q, D).
        """
        attended = self.attend(*self.project(query, key, value), padding_mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))
