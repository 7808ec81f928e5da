"""Efficient attention: time and memory linear in the number of positions.

Source: Shen et al., Efficient Attention: Attention with Linear Complexities, WACV 2021; the
journal's second idea.
"""

from typing import Literal

import torch
from torch import Tensor

from detrnb.model import EncoderAttention

QuerySoftmax = Literal["channel", "position"]


def _normalize(
    q: Tensor, k: Tensor, padding_mask: Tensor | None, query_softmax: QuerySoftmax
) -> tuple[Tensor, Tensor]:
    """ρ_q(Q) and ρ_k(K), (B, N, S, d) each; nothing falls on padding."""
    padding = None if padding_mask is None else padding_mask[:, None, :, None]

    def over_positions(x: Tensor) -> Tensor:
        x = x if padding is None else x.masked_fill(padding, float("-inf"))
        return x.softmax(dim=2)

    if query_softmax not in ("channel", "position"):
        raise ValueError(
            f"query_softmax is {query_softmax!r}; expected 'channel' (the paper) or 'position'"
        )
    q = q.softmax(dim=-1) if query_softmax == "channel" else over_positions(q)
    return q, over_positions(k)


def efficient_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    padding_mask: Tensor | None = None,
    query_softmax: QuerySoftmax = "channel",
) -> Tensor:
    """E = ρ_q(Q) · (ρ_k(K)ᵀ · V), per head, with the paper's softmax normalisation.

    The product in brackets is d×d whatever the number of positions S: O(S d²) time and O(S d + d²)
    memory, forward and backward. There is no factor 1/√d.

    Args:
        q, k, v: (B, N, S, d).
        padding_mask: (B, S) bool, True on padding, which then has no influence. At least one
            position of each image must be valid.
        query_softmax: `channel` normalises each position's query over its channels, as the paper
            does. `position` normalises each channel over the positions, one reading of the journal,
            mended; its implied rows do not sum to 1.

    Returns:
        (B, N, S, d).

    Raises:
        ValueError: unknown `query_softmax`.
    """
    q, k = _normalize(q, k, padding_mask, query_softmax)
    return q @ (k.transpose(-2, -1) @ v)


def implied_attention(
    q: Tensor,
    k: Tensor,
    padding_mask: Tensor | None = None,
    query_softmax: QuerySoftmax = "channel",
) -> Tensor:
    """ρ_q(Q) · ρ_k(K)ᵀ, (B, N, S, S): the matrix that efficient attention applies and never forms.

    For pictures. With `channel` its rows sum to 1 over the positions that are not padding; its rank
    is at most d.

    Raises:
        ValueError: unknown `query_softmax`.
    """
    q, k = _normalize(q, k, padding_mask, query_softmax)
    return q @ k.transpose(-2, -1)


class EfficientAttention(EncoderAttention):
    """Efficient attention with the projections, heads and parameter names of dot-product attention.

    Attention dropout has no counterpart: there is no matrix of weights to drop from.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        dropout: float,
        *,
        query_softmax: QuerySoftmax = "channel",
    ) -> None:
        super().__init__(d_model, num_heads, dropout)
        self.query_softmax = query_softmax

    def attend(self, q: Tensor, k: Tensor, v: Tensor, unseen: Tensor | None) -> Tensor:
        """Attended values (B, N, S, d) of q, k and v, all (B, N, S, d)."""
        if self.record:
            with torch.no_grad():
                implied = implied_attention(q, k, unseen, self.query_softmax)
                self.recorded = {"attention": implied}
        return efficient_attention(q, k, v, unseen, self.query_softmax)
