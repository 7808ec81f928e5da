"""DETR's transformer: encoder over image features, decoder over object queries, batch first.

Source: Carion et al., ECCV 2020, and the reference's `models/transformer.py`. Names of parameters
are the reference's. Which attention and which encoder are used is handed in, so that a variant
replaces a part without the rest knowing.
"""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn, stack

from detrnb.model.attention import MultiheadAttention


class _Layer(nn.Module):
    """What encoder and decoder layers share: feed-forward network, dropout, place of the norms."""

    def __init__(self, d_model: int, dim_feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.dropout, self.pre_norm = nn.Dropout(dropout), pre_norm

    def feedforward_block(self, x: Tensor) -> Tensor:
        """What the feed-forward network adds to x (B, length, D)."""
        return self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x)))))


class EncoderLayer(_Layer):
    """Self-attention and a feed-forward network, each with residual, dropout and norm."""

    def __init__(
        self,
        self_attn: nn.Module,
        d_model: int,
        dim_feedforward: int,
        dropout: float,
        pre_norm: bool,
    ) -> None:
        super().__init__(d_model, dim_feedforward, dropout, pre_norm)
        self.self_attn = self_attn
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)

    def attention_block(self, x: Tensor, pos: Tensor, padding_mask: Tensor | None) -> Tensor:
        """What the self-attention adds to x (B, S, D); positions enter queries and keys only."""
        query = x + pos
        return self.dropout(self.self_attn(query, query, x, padding_mask))

    def forward(self, x: Tensor, pos: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """x, pos (B, S, D), padding_mask (B, S) True on padding -> (B, S, D)."""
        if self.pre_norm:
            x = x + self.attention_block(self.norm1(x), pos, padding_mask)
            return x + self.feedforward_block(self.norm2(x))
        x = self.norm1(x + self.attention_block(x, pos, padding_mask))
        return self.norm2(x + self.feedforward_block(x))


class TransformerEncoder(nn.Module):
    """Layers one after another; a final norm with `pre_norm` only, as in the reference."""

    def __init__(self, layers: Sequence[nn.Module], d_model: int, pre_norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(d_model) if pre_norm else None

    def forward(self, x: Tensor, pos: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """x, pos (B, S, D), padding_mask (B, S) -> memory (B, S, D)."""
        for layer in self.layers:
            x = layer(x, pos, padding_mask)
        return x if self.norm is None else self.norm(x)


class DecoderLayer(_Layer):
    """Self-attention among queries, attention to the memory, feed-forward network."""

    def __init__(
        self, d_model: int, num_heads: int, dim_feedforward: int, dropout: float, pre_norm: bool
    ) -> None:
        super().__init__(d_model, dim_feedforward, dropout, pre_norm)
        self.self_attn = MultiheadAttention(d_model, num_heads, dropout)
        self.multihead_attn = MultiheadAttention(d_model, num_heads, dropout)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)

    def self_attention_block(self, x: Tensor, query_pos: Tensor) -> Tensor:
        """What attention among the queries adds to x (B, Q, D)."""
        query = x + query_pos
        return self.dropout(self.self_attn(query, query, x))

    def cross_attention_block(
        self, x: Tensor, query_pos: Tensor, memory: Tensor, key: Tensor, mask: Tensor | None
    ) -> Tensor:
        """What attention to the memory adds to x (B, Q, D); key is memory plus positions."""
        return self.dropout(self.multihead_attn(x + query_pos, key, memory, mask))

    def forward(
        self, x: Tensor, query_pos: Tensor, memory: Tensor, key: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """x, query_pos (B, Q, D), memory, key (B, S, D), mask (B, S) -> (B, Q, D)."""
        if self.pre_norm:
            x = x + self.self_attention_block(self.norm1(x), query_pos)
            x = x + self.cross_attention_block(self.norm2(x), query_pos, memory, key, mask)
            return x + self.feedforward_block(self.norm3(x))
        x = self.norm1(x + self.self_attention_block(x, query_pos))
        x = self.norm2(x + self.cross_attention_block(x, query_pos, memory, key, mask))
        return self.norm3(x + self.feedforward_block(x))


class TransformerDecoder(nn.Module):
    """Layers one after another; every layer's output goes through the one shared norm."""

    def __init__(self, layers: Sequence[nn.Module], d_model: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(d_model)

    def forward(
        self, query_pos: Tensor, memory: Tensor, pos: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """query_pos (B, Q, D), memory, pos (B, S, D), mask (B, S) -> (L, B, Q, D)."""
        x = query_pos.new_zeros(query_pos.shape)
        key = memory + pos
        outputs = []
        for layer in self.layers:
            x = layer(x, query_pos, memory, key, mask)
            outputs.append(self.norm(x))
        return stack(outputs)


class Transformer(nn.Module):
    """Encoder and decoder as DETR joins them.

    Args:
        make_attention: given a layer's index, the self-attention of that encoder layer.
        make_encoder: given the encoder layers, the encoder.
    """

    def __init__(
        self,
        *,
        d_model: int,
        num_heads: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        dim_feedforward: int,
        dropout: float,
        pre_norm: bool,
        make_attention: Callable[[int], nn.Module],
        make_encoder: Callable[[Sequence[nn.Module]], nn.Module],
    ) -> None:
        super().__init__()
        sizes = (dim_feedforward, dropout, pre_norm)
        layers = [
            EncoderLayer(make_attention(i), d_model, *sizes) for i in range(num_encoder_layers)
        ]
        self.encoder = make_encoder(layers)
        self.decoder = TransformerDecoder(
            [DecoderLayer(d_model, num_heads, *sizes) for _ in range(num_decoder_layers)], d_model
        )

    def forward(
        self, src: Tensor, padding_mask: Tensor | None, query_embed: Tensor, pos: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode the features and decode the queries.

        Args:
            src, pos: projected features and their position embedding (B, S, D).
            padding_mask: (B, S) bool, True on padding; None where nothing is padded.
            query_embed: (Q, D), learned; the queries' position. Their content starts at 0.

        Returns:
            Decoder output of each layer (L, B, Q, D) and the encoder's memory (B, S, D).
        """
        memory = self.encoder(src, pos, padding_mask)
        query_pos = query_embed.expand(src.shape[0], -1, -1)
        return self.decoder(query_pos, memory, pos, padding_mask), memory
