"""DETR's attentions: multi-head dot-product attention in the three places that attend.

Batch first, with the parameter names of torch's own. A variant's attention may be any module with
the calling contract of its place (parts.py); most override `attend` of one of these.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from detrnb.loss import at_least_float32


class DotProductAttention(nn.Module):
    """Scaled dot-product attention (Vaswani et al., 2017) of what was projected already.

    The weights are never formed (fused kernel) unless `record` is set.

    Attributes:
        record: set it to keep the weights of each forward pass, after the softmax and before
            dropout, as `recorded["attention"]` (B, N, Q, S).
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.out_proj = nn.Linear(d_model, d_model)
        self.record = False
        self.recorded: dict[str, Tensor] = {}

    def heads(self, x: Tensor) -> Tensor:
        """(B, length, N·d) -> (B, N, length, d)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, unseen: Tensor | None) -> Tensor:
        """Arguments as for `attend`; gives its values joined and projected, (B, Q, D)."""
        return self.out_proj(self.attend(q, k, v, unseen).transpose(1, 2).flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, unseen: Tensor | None) -> Tensor:
        """Attended values (B, N, Q, d) of q (B, N, Q, c), k (B, N, S, c) and v (B, N, S, d).

        This is what a variant of attention overrides.

        Args:
            unseen: what must not be looked at, True: padding (B, S), or query by key (1 or B, Q, S)
                among queries.
        """
        dropout = self.dropout if self.training else 0.0
        if not self.record:
            keep = None if unseen is None else ~_by_query(unseen)
            # On a CPU torch's fused kernel is many times slower backward in bf16 than in fp32
            # (bench/training_step.py), so bf16 stops at its door there.
            if q.device.type == "cpu":
                with torch.autocast("cpu", enabled=False):
                    q, k, v = (at_least_float32(x) for x in (q, k, v))
                    if dropout and not torch.compiler.is_compiling():
                        return _attend_with_dropout(q, k, v, keep, dropout)
                    return F.scaled_dot_product_attention(
                        q, k, v, attn_mask=keep, dropout_p=dropout
                    )
            return F.scaled_dot_product_attention(q, k, v, attn_mask=keep, dropout_p=dropout)
        weights = self.attention_weights(q, k, unseen)
        self.recorded = {"attention": weights.detach()}
        return F.dropout(weights, dropout) @ v

    def attention_weights(self, q: Tensor, k: Tensor, unseen: Tensor | None) -> Tensor:
        """softmax(q kᵀ / √d) (B, N, Q, S) with what must not be seen left out, before dropout."""
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        if unseen is not None:
            scores = scores.masked_fill(_by_query(unseen), float("-inf"))
        return scores.softmax(dim=-1)


def _attend_with_dropout(
    q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None, dropout: float
) -> Tensor:
    """What torch computes on a processor, whose fused kernel has no dropout, in half the memory."""
    root = (1 / q.shape[-1] ** 0.5) ** 0.5
    scores = (q * root) @ (k * root).transpose(-2, -1)
    if keep is not None:
        scores.masked_fill_(~keep, float("-inf"))
    return _DroppedProduct.apply(scores.softmax(dim=-1), v, dropout)


class _DroppedProduct(torch.autograd.Function):
    """dropout(weights) @ v; of what was dropped a byte a weight is kept, not two more matrices."""

    @staticmethod
    def forward(ctx: FunctionCtx, weights: Tensor, v: Tensor, dropout: float) -> Tensor:
        noise = torch.empty_like(weights).bernoulli_(1 - dropout)
        ctx.dropout = dropout
        ctx.save_for_backward(weights, v, noise.bool())
        return noise.div_(1 - dropout).mul_(weights) @ v

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, v, kept = ctx.saved_tensors
        noise = kept.to(weights.dtype).div_(1 - ctx.dropout)
        to_weights = (gradient @ v.transpose(-2, -1)).mul_(noise)
        return to_weights, noise.mul_(weights).transpose(-2, -1) @ gradient, None


class MultiheadAttention(DotProductAttention):
    """Dot-product attention with packed projections.

    Parameters are named and shaped as in `torch.nn.MultiheadAttention`, so DETR checkpoints load.
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__(d_model, num_heads, dropout)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d_model, d_model))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * d_model))
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.in_proj_bias)

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
        return tuple(self.heads(x) for x in (q, k, v))

    def _split(self, sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of each part of the packed projection."""
        return list(
            zip(self.in_proj_weight.split(sizes), self.in_proj_bias.split(sizes), strict=True)
        )

    def look(
        self, query: Tensor, key: Tensor, value: Tensor, unseen: Tensor | None = None
    ) -> Tensor:
        """Attend from queries to keys.

        Args:
            query: (B, Q, D). Pass the same object as `key` for self-attention.
            key, value: (B, S, D).
            unseen: as for `attend`.

        Returns:
            (B, Q, D).
        """
        return super().forward(*self.project(query, key, value), unseen)


class EncoderAttention(MultiheadAttention):
    """DETR's `encoder_attention`: positions enter queries and keys, not values."""

    def forward(
        self,
        x: Tensor,
        pos: Tensor,
        padding_mask: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """x, pos (B, S, D), padding_mask (B, S) True on padding -> (B, S, D)."""
        query = x + pos
        return self.look(query, query, x, padding_mask)


class DecoderSelfAttention(MultiheadAttention):
    """DETR's `decoder_self_attention`: among the queries, whose positions are added as above."""

    def forward(
        self,
        content: Tensor,
        position: Tensor | None,
        anchors: Tensor | None = None,
        blocked: Tensor | None = None,
    ) -> Tensor:
        """content, position (B, Q', D), blocked (1 or B, Q', Q') -> (B, Q', D)."""
        query = content + given_position(position, self)
        return self.look(query, query, content, blocked)


class DecoderCrossAttention(MultiheadAttention):
    """DETR's `decoder_cross_attention`: from the queries to the memory."""

    def forward(
        self,
        content: Tensor,
        position: Tensor | None,
        anchors: Tensor | None,
        memory: Tensor,
        pos: Tensor,
        padding_mask: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """content, position (B, Q', D), memory, pos (B, S, D) -> (B, Q', D)."""
        query = content + given_position(position, self)
        return self.look(query, _keys(memory, pos), memory, padding_mask)


def _by_query(unseen: Tensor) -> Tensor:
    """Broadcast over heads, and padding over queries."""
    return unseen[:, None, None, :] if unseen.ndim == 2 else unseen[:, None]


def given_position(position: Tensor | None, attention: nn.Module) -> Tensor:
    """The queries' position; a ValueError where they bring none."""
    if position is None:
        raise ValueError(
            f"{type(attention).__name__} needs queries with a position, and these bring none: the"
            " part `queries` must give one, or the decoder's attention be one that makes its own"
        )
    return position


def _keys(memory: Tensor, pos: Tensor) -> Tensor:
    """memory + pos, added once for all layers that learn from it, whose gradients meet there."""
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and memory.requires_grad):
        return memory + pos
    if getattr(memory, "_keys", (None,))[0] is not pos:
        memory._keys = pos, memory + pos
    return memory._keys[1]
