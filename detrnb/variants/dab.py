"""Dynamic anchor boxes: queries are boxes, which every decoder layer refines.

Source: Liu et al., DAB-DETR: Dynamic Anchor Boxes are Better Queries for DETR, ICLR 2022, and the
authors' code (IDEA-Research/DAB-DETR). A query is an anchor box a = (x, y, w, h) alone, learned,
before the sigmoid; its position is a small network of the anchor's sines, its content starts at 0.
A layer attends as in `conditional`, around (x, y), and as wide as the anchor:

    position = MLP(sine(y), sine(x), sine(w), sine(h)),
    p = λ(c') ⊙ (sine(y) · h'/h, sine(x) · w'/w),  (w', h') = σ(MLP(c')),

with c' the content that enters the layer. Then a ← a + box head(c), so that each layer's box is
relative to its own anchor. The field's names: anchor box, iterative box refinement, width- and
height-modulated attention.

Measured there, on COCO with a ResNet-50, with all that is left out here: 42.2 AP after 50 epochs.

Bundled all the same: what `conditional` bundles, and the box head at 0. Left out: focal loss (of
weight 1 there) and 300 queries, PReLU (ReLU here), the encoder's own scale of positions, and
temperature 20 for positions (`model.position_temperature`, which queries' sines take too; theirs
have 10000, a slip by their own word). Without these their checkpoint means nothing here, and does
not load; the rest computes the same. Their options beyond `main.py`'s defaults: patterns, fixed
x and y, a box head for each layer.

Kept as the authors have it: the anchor is cut off at 0.001 and 0.999 where something is added to
it; the next anchor comes from the content before the last norm, the box from after it; the next
layer takes its anchor detached, but the box loss of a layer reaches the update of the one before.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from detrnb.loss import Layout, Targets, at_least_float32
from detrnb.model import Queries
from detrnb.variants.conditional import ConditionalDecoder, TwoLayers


def inverse_sigmoid(shares: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Before the sigmoid, with the authors' bounds: shares (...) in [0, 1] -> (...)."""
    return shares.clamp(min=epsilon).log() - (1 - shares).clamp(min=epsilon).log()


class AnchorQueries(nn.Module):
    """Queries that are boxes, `refpoint_embed.weight` (Q, 4), before the sigmoid."""

    anchor_size = 4

    def __init__(self, num_queries: int, d_model: int) -> None:
        super().__init__()
        self.num_queries, self.d_model = num_queries, d_model
        self.refpoint_embed = nn.Embedding(num_queries, 4)

    def layout(self, targets: Targets | None) -> Layout:
        """One group, whatever the targets."""
        return Layout(self.num_queries)

    def forward(self, batch_size: int, layout: Layout, targets: Targets | None) -> Queries:
        """Equal ones for every image."""
        anchors = self.refpoint_embed.weight.expand(batch_size, -1, -1)
        return Queries(anchors.new_zeros(*anchors.shape[:2], self.d_model), anchors=anchors)


class AnchorDecoder(ConditionalDecoder):
    """Layers with conditional cross-attention around boxes that each of them refines."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        dropout: float,
        dim_feedforward: int,
        num_layers: int,
        embed: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(d_model, num_heads, dropout, dim_feedforward, num_layers, 4, embed)
        self.ref_point_head = TwoLayers(2 * d_model, d_model, d_model)
        self.ref_anchor_head = TwoLayers(d_model, d_model, 2)

    def forward(
        self,
        queries: Queries,
        memory: Tensor,
        pos: Tensor,
        padding_mask: Tensor | None,
        grid: tuple[int, int],
        box_head: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, list[Tensor]]:
        """Hidden (L, B, Q', D), and what each layer's boxes are relative to, (B, Q', 4)."""
        x, moved = queries.content, at_least_float32(queries.anchors)
        box, hidden, anchors = moved.sigmoid(), [], []
        for i, layer in enumerate(self.layers):
            anchors.append(inverse_sigmoid(moved.sigmoid()))
            place = self.embed(box[..., :2])
            # `embed` puts the second of two coordinates first.
            extent = self.embed(box[..., 2:].flip(-1))
            position = self.ref_point_head(torch.cat([place, extent], dim=-1))
            sine = self.scaled(place, x, i)
            wanted = at_least_float32(self.ref_anchor_head(x)).sigmoid()
            ratio = (wanted / box[..., 2:]).flip(-1)  # of height, then of width
            sine = (sine.unflatten(-1, (2, -1)) * ratio[..., None]).flatten(-2)
            x = layer(x, position, sine, queries.blocked, memory, pos, padding_mask)
            hidden.append(self.norm(x))
            if i < len(self.layers) - 1:
                moved = box_head(x) + inverse_sigmoid(box)
                box = moved.detach().sigmoid()
        return torch.stack(hidden), anchors
