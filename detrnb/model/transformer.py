"""DETR's transformer: encoder over image features, decoder over object queries, batch first.

Source: Carion et al., ECCV 2020, and the reference's `models/transformer.py`. Names of parameters
are the reference's. Attentions, encoder and decoder are handed in, as parts.py fills their places,
so that a variant replaces a part without the rest knowing.
"""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, is_grad_enabled, nn, stack

from detrnb.model.queries import Queries


class _Layer(nn.Module):
    """What encoder and decoder layers share: feed-forward network, dropout, place of the norms."""

    def __init__(self, d_model: int, dim_feedforward: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.dropout, self.pre_norm = nn.Dropout(dropout), pre_norm

    def feedforward_block(self, x: Tensor) -> Tensor:
        """What the feed-forward network adds to x (B, length, D)."""
        # In place where nobody differentiates: it is the widest tensor there is. Else not, since a
        # linear layer gives a view, and to write over a view makes autograd copy its gradient.
        hidden = F.relu(self.linear1(x), inplace=not is_grad_enabled())
        return self.dropout(self.linear2(self.dropout(hidden)))


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

    def forward(
        self,
        x: Tensor,
        pos: Tensor,
        padding_mask: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """x, pos (B, S, D), padding_mask (B, S) True on padding, grid (H, W) -> (B, S, D)."""

        def attended(x: Tensor) -> Tensor:
            return self.dropout(self.self_attn(x, pos, padding_mask, grid))

        if self.pre_norm:
            x = x + attended(self.norm1(x))
            return x + self.feedforward_block(self.norm2(x))
        x = self.norm1(x + attended(x))
        return self.norm2(x + self.feedforward_block(x))


class TransformerEncoder(nn.Module):
    """Layers one after another; a final norm with `pre_norm` only, as in the reference."""

    def __init__(self, layers: Sequence[nn.Module], d_model: int, pre_norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(d_model) if pre_norm else None

    def forward(
        self,
        x: Tensor,
        pos: Tensor,
        padding_mask: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """x, pos (B, S, D), padding_mask (B, S), grid (H, W) -> memory (B, S, D)."""
        for layer in self.layers:
            x = layer(x, pos, padding_mask, grid)
        return x if self.norm is None else self.norm(x)


class DecoderLayer(_Layer):
    """Self-attention among queries, attention to the memory, feed-forward network."""

    def __init__(
        self,
        self_attn: nn.Module,
        multihead_attn: nn.Module,
        d_model: int,
        dim_feedforward: int,
        dropout: float,
        pre_norm: bool,
    ) -> None:
        super().__init__(d_model, dim_feedforward, dropout, pre_norm)
        self.self_attn = self_attn
        self.multihead_attn = multihead_attn
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)

    def forward(
        self,
        content: Tensor,
        position: Tensor | None,
        anchors: Tensor | None,
        blocked: Tensor | None,
        memory: Tensor,
        pos: Tensor,
        padding_mask: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """One layer's step.

        Args:
            content, position, anchors, blocked: as `Queries` has them.
            memory, pos: (B, S, D); padding_mask: (B, S) True on padding; grid: (H, W).

        Returns:
            The new content (B, Q', D).
        """

        def among(x: Tensor) -> Tensor:
            return self.dropout(self.self_attn(x, position, anchors, blocked))

        def outward(x: Tensor) -> Tensor:
            attended = self.multihead_attn(x, position, anchors, memory, pos, padding_mask, grid)
            return self.dropout(attended)

        x = content
        if self.pre_norm:
            x = x + among(self.norm1(x))
            x = x + outward(self.norm2(x))
            return x + self.feedforward_block(self.norm3(x))
        x = self.norm1(x + among(x))
        x = self.norm2(x + outward(x))
        return self.norm3(x + self.feedforward_block(x))


class TransformerDecoder(nn.Module):
    """Layers one after another; every layer's output goes through the one shared norm."""

    def __init__(
        self, make_layer: Callable[[int], nn.Module], num_layers: int, d_model: int
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(make_layer(i) for i in range(num_layers))
        self.norm = nn.LayerNorm(d_model)

    def forward(
        self,
        queries: Queries,
        memory: Tensor,
        pos: Tensor,
        padding_mask: Tensor | None,
        grid: tuple[int, int],
        box_head: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, list[Tensor] | None]:
        """Hidden (L, B, Q', D), and the queries' anchors for each layer where they have any."""
        x, outputs = queries.content, []
        surroundings = (memory, pos, padding_mask, grid)
        for layer in self.layers:
            x = layer(x, queries.position, queries.anchors, queries.blocked, *surroundings)
            outputs.append(self.norm(x))
        anchors = None if queries.anchors is None else [queries.anchors] * len(outputs)
        return stack(outputs), anchors


class Transformer(nn.Module):
    """Encoder and decoder as DETR joins them."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(
        self,
        src: Tensor,
        pos: Tensor,
        padding_mask: Tensor | None,
        grid: tuple[int, int],
        queries: Queries,
        box_head: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, list[Tensor] | None]:
        """Encode the features and decode the queries.

        Args:
            src, pos: projected features and their position embedding (B, S, D).
            padding_mask: (B, S) bool, True on padding; None where nothing is padded.
            grid: (H, W) of the feature map, S = H·W.
            box_head: content (..., D) to offsets (..., 4) before the sigmoid.

        Returns:
            Decoder output of each layer (L, B, Q', D), and what each layer's boxes are relative
            to, (B, Q', 2 or 4) before the sigmoid; None where to nothing.
        """
        memory = self.encoder(src, pos, padding_mask, grid)
        return self.decoder(queries, memory, pos, padding_mask, grid, box_head)
