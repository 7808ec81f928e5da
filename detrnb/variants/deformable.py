"""Deformable attention: a query samples a few positions around its point, wherever it learns to.

Source: Zhu et al., Deformable DETR: Deformable Transformers for End-to-End Object Detection, ICLR
2021, code fundamentalvision/Deformable-DETR; after deformable convolutions (Dai et al., 2017).

Dense attention starts out uniform over all positions and takes long to become narrow. Here a query
q at the point r attends, in each head, to P positions only, whose offsets and weights are linear in
q, without keys:

    out = W Σ_head Σ_p softmax_p(A q)_p · V(r + Δ_p),    Δ = offsets(q) cells,   V(·) bilinear

In the encoder r is the cell itself. In the decoder each query has a point, linear in its position
embedding; the box is relative to it: centre = sigmoid(box head + point before the sigmoid). Around
an anchor that is a box, offsets are in halves of its sides, over P.

Measured there, on COCO with a ResNet-50: on one scale 39.4 AP after 50 epochs (stride 16: 41.5, and
DETR 36.2 with the same loss and queries); on four scales 44.5.

Left out: several scales with their embedding, the projection's group norm, positions counted from
a cell's middle, refined boxes, two stages, 300 queries, the focal loss (`focal`), and learned
content of queries (DETR's starts at 0). Bundled: encoder and decoder change together with what
boxes are relative to; as there the box head starts at 0, so that centres start at the points, with
−2 for width and height before the sigmoid, an eighth of the image's; offsets and points learn at a
tenth of the rate; attention itself has no dropout. The field's names: reference point, sampling
offset, sampling point.

Choices. `torch.grid_sample` in place of their CUDA extension: the same function. Values of padded
cells are zero, as is what lies outside the map, and offsets count cells, so that padding tells
nothing.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrnb.loss import Layout, Targets, at_least_float32
from detrnb.model import LearnedQueries, Queries


class DeformableAttention(nn.Module):
    """What encoder and decoder share. Parameters are named as in the authors' code.

    Attributes:
        record: set it to keep where each forward pass looks, as `recorded["points"]`
            (B, N, Q, P, 2), x then y, shares of the padded map, with `weights` (B, N, Q, P).
    """

    own_init = True

    def __init__(self, d_model: int, num_heads: int, *, points: int = 4) -> None:
        super().__init__()
        self.num_heads, self.points = num_heads, points
        self.sampling_offsets = nn.Linear(d_model, num_heads * points * 2)
        self.attention_weights = nn.Linear(d_model, num_heads * points)
        self.value_proj = nn.Linear(d_model, d_model)
        self.output_proj = nn.Linear(d_model, d_model)
        self.record = False
        self.recorded: dict[str, Tensor] = {}
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """Each head looks in a direction of its own, point p by p cells, all with equal weight."""
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        angle = torch.arange(self.num_heads, dtype=torch.float64) * 2 * math.pi / self.num_heads
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1)[:, None]
        self.sampling_offsets.bias.copy_((direction[:, None] * steps).flatten())

    def sample(
        self,
        query: Tensor,
        around: Tensor,
        memory: Tensor,
        padding_mask: Tensor | None,
        grid: tuple[int, int],
    ) -> Tensor:
        """Attend to positions around points.

        Args:
            query: (B, Q, D).
            around: (B, Q, 2), x and y, or (B, Q, 4), cxcywh, shares of the whole padded map.
            memory: (B, S, D); padding_mask: (B, S) True on padding; grid: (H, W).

        Returns:
            (B, Q, D).
        """
        N, (H, W) = self.num_heads, grid
        value = self.value_proj(memory)
        if padding_mask is not None:
            value = value.masked_fill(padding_mask[..., None], 0.0)
        offsets, scores = self.sampling_offsets(query), self.attention_weights(query)
        # Half precision would round places on a map of 40 cells to a quarter of one.
        with torch.autocast(query.device.type, enabled=False):
            value, offsets, scores = (at_least_float32(x) for x in (value, offsets, scores))
            weights = scores.unflatten(-1, (N, -1)).softmax(-1).transpose(1, 2)  # (B, N, Q, P)
            offsets = offsets.unflatten(-1, (N, -1, 2)).transpose(1, 2)  # (B, N, Q, P, 2)
            around = around[:, None, :, None]
            if around.shape[-1] == 4:
                offsets = offsets * around[..., 2:] * (0.5 / self.points)
            else:
                offsets = torch.stack([offsets[..., 0] / W, offsets[..., 1] / H], -1)
            places = (around[..., :2] + offsets).to(value.dtype)
            maps = value.transpose(1, 2).reshape(-1, value.shape[-1] // N, H, W)  # (B·N, d, H, W)
            sampled = F.grid_sample(maps, places.flatten(0, 1) * 2 - 1, align_corners=False)
            attended = (sampled * weights.flatten(0, 1)[:, None]).sum(-1)  # (B·N, d, Q)
            attended = attended.reshape(query.shape[0], -1, query.shape[1]).transpose(1, 2)
        if self.record:
            self.recorded = {"points": places.detach(), "weights": weights.detach()}
        return self.output_proj(attended)


class DeformableEncoderAttention(DeformableAttention):
    """`encoder_attention`: each cell samples around itself; positions enter queries only."""

    def forward(
        self, x: Tensor, pos: Tensor, padding_mask: Tensor | None, grid: tuple[int, int]
    ) -> Tensor:
        """x, pos (B, S, D), padding_mask (B, S) True on padding, grid (H, W) -> (B, S, D)."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        (H, W), B = grid, x.shape[0]  # no len(), which an exported network would keep
        rows, columns = ((torch.arange(n, dtype=dtype, device=x.device) + 0.5) / n for n in grid)
        centres = torch.stack([columns.expand(H, W), rows[:, None].expand(H, W)], -1)
        around = centres.flatten(0, 1).expand(B, -1, -1)
        return self.sample(x + pos, around, x, padding_mask, grid)


class DeformableCrossAttention(DeformableAttention):
    """`decoder_cross_attention`: each query samples the memory around its anchor."""

    def forward(
        self,
        content: Tensor,
        position: Tensor | None,
        anchors: Tensor | None,
        memory: Tensor,
        pos: Tensor,
        padding_mask: Tensor | None,
        grid: tuple[int, int],
    ) -> Tensor:
        """content, position (B, Q', D), anchors (B, Q', 2 or 4), memory (B, S, D) -> (B, Q', D)."""
        if anchors is None:
            raise ValueError(
                "deformable attention needs queries with anchors to look around, and the decoder"
                " hands on none: join it with a decoder that passes on those of its queries"
            )
        around = at_least_float32(anchors).sigmoid()
        if padding_mask is not None:  # anchors are shares of the unpadded image
            valid, (H, W) = ~padding_mask.unflatten(1, grid), grid
            ratios = torch.stack([valid[:, 0].sum(-1) / W, valid[:, :, 0].sum(-1) / H], -1)
            around = around * ratios.repeat(1, around.shape[-1] // 2)[:, None]
        query = content if position is None else content + position
        return self.sample(query, around, memory, padding_mask, grid)


class PointQueries(LearnedQueries):
    """DETR's queries, each with a point, linear in its position, that its box is relative to."""

    anchor_size = 2

    def __init__(self, num_queries: int, d_model: int) -> None:
        super().__init__(num_queries, d_model)
        self.reference_points = nn.Linear(d_model, 2)
        self.reference_points.own_init = True
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, batch_size: int, layout: Layout, targets: Targets | None) -> Queries:
        """Equal ones for every image."""
        queries = super().forward(batch_size, layout, targets)
        with torch.autocast(self.weight.device.type, enabled=False):
            anchors = self.reference_points(self.weight).expand(batch_size, -1, -1)
        return Queries(queries.content, queries.position, anchors)
