"""Three variants of a user's own, toy-sized: they prove that the table of parts is wide enough.

A decoder that refines anchors; groups of queries, with extra ones made of noised targets; a
criterion with another number of logits and another activation. None looks for good numbers.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrnb import Variant, register, variant
from detrnb.loss import Layout, SetCriterion
from detrnb.model import Queries

NAMES = ("refining", "noised_groups", "sigmoid")
JOINED = "+".join(NAMES)


@variant("refining", part="decoder", heads={"box": 0.0}, rates={"to_position": 0.5})
class RefiningDecoder(nn.Module):
    """Each layer's boxes are relative to anchors, which the layer before it moved."""

    def __init__(
        self, make_layer, num_layers, d_model, anchor_size, embed, *, step: float = 1.0
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(make_layer(i) for i in range(num_layers))
        self.norm, self.embed, self.step = nn.LayerNorm(d_model), embed, step
        self.to_position = nn.Linear(d_model, d_model)
        if anchor_size == 0:  # the queries bring none
            self.to_anchor = nn.Linear(d_model, 2)

    def forward(self, queries, memory, pos, padding_mask, grid, box_head):
        x, anchors = queries.content, queries.anchors
        with torch.autocast(x.device.type, enabled=False):
            if anchors is None:
                anchors = self.to_anchor(queries.position.float())
            anchors = anchors.float()
        hidden, given = [], []
        for layer in self.layers:
            position = queries.position + self.to_position(self.embed(anchors[..., :2].sigmoid()))
            surroundings = (memory, pos, padding_mask, grid)
            x = layer(x, position, anchors, queries.blocked, *surroundings)
            hidden.append(self.norm(x))
            given.append(anchors)
            moved = box_head(hidden[-1])[..., : anchors.shape[-1]]
            anchors = (anchors + self.step * moved).detach()
        return torch.stack(hidden), given


class NoisedGroups(nn.Module):
    """Groups of queries with anchors, and for each target an extra query made of its noised box."""

    anchor_size = 4

    def __init__(
        self, num_queries, d_model, num_classes, *, groups: int = 2, noise: float = 0.2
    ) -> None:
        super().__init__()
        self.num_queries, self.groups, self.noise = num_queries, groups, noise
        self.position = nn.Embedding(groups * num_queries, d_model)
        self.boxes = nn.Embedding(groups * num_queries, 4)
        self.labels = nn.Embedding(num_classes + 1, d_model)  # the last: of no target

    def layout(self, targets):
        if not self.training:
            return Layout(self.num_queries)
        if targets is None:
            return Layout(self.num_queries, self.groups)
        counts, first = [len(t["labels"]) for t in targets], self.groups * self.num_queries
        given = tuple((np.arange(first, first + n), np.arange(n)) for n in counts)
        return Layout(self.num_queries, self.groups, max(counts), given)

    def forward(self, batch_size, layout, targets):
        matched, B = layout.matched, batch_size
        content = self.labels.weight[-1].expand(B, matched, -1)
        position = self.position.weight[:matched].expand(B, -1, -1)
        anchors = self.boxes.weight[:matched].expand(B, -1, -1)
        if layout.total == layout.queries:  # in evaluation
            return Queries(content, position, anchors)
        if layout.extra == 0:
            return Queries(content, position, anchors, self._blocked(layout, content, [0]))
        extra, boxes, counts = [], [], []
        for target in targets:
            generator = torch.Generator().manual_seed(target["draws"])
            n = len(target["labels"])
            noise = 2 * torch.rand(n, 4, generator=generator).to(content.device) - 1
            noised = (target["boxes"] * (1 + self.noise * noise)).clamp(1e-3, 1 - 1e-3)
            slots = (0, 0, 0, layout.extra - n)
            extra.append(F.pad(self.labels(target["labels"]), slots))
            boxes.append(F.pad(torch.logit(noised), slots))
            counts.append(n)
        extra = torch.stack(extra)
        content = torch.cat([content, extra], 1)
        position = torch.cat([position, torch.zeros_like(extra)], 1)
        anchors = torch.cat([anchors, torch.stack(boxes)], 1)
        return Queries(content, position, anchors, self._blocked(layout, content, counts))

    def _blocked(self, layout: Layout, content: Tensor, counts: list[int]) -> Tensor:
        place = torch.arange(layout.total, device=content.device)
        group = place // layout.queries  # extra ones have numbers of their own
        group = torch.where(place < layout.matched, group, layout.groups)
        blocked = (group[:, None] != group) & (group[:, None] < layout.groups)
        filled = layout.matched + torch.tensor(counts, device=content.device)
        unfilled = place >= filled[:, None]
        blocked = blocked | unfilled[:, None]
        return blocked & ~torch.eye(layout.total, dtype=torch.bool, device=content.device)


class SigmoidCriterion(SetCriterion):
    """As many logits as classes, each a sigmoid; a query may be several detections."""

    meaning = "pred_logits (B, queries, classes), sigmoid gives scores"
    least_divisor = 1.0

    @staticmethod
    def num_logits(num_classes):
        return num_classes

    @staticmethod
    def class_cost(logits, labels):
        return -logits.sigmoid().gather(-1, labels[None, :, None].expand(*logits.shape[:3], -1))

    def class_losses(self, logits, labels):
        wanted = F.one_hot(labels, self.num_classes + 1)[..., :-1].to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(-1)

    def class_divisor(self, matched, unmatched, boxes):
        return boxes

    def predicted(self, logits):
        labels = logits.argmax(-1)
        return labels, logits.amax(-1) > 0

    def scores(self, logits):
        scores, place = logits.sigmoid().flatten(1).topk(logits.shape[1] + 3)
        return scores, place % logits.shape[2], place // logits.shape[2]


register(Variant("noised_groups", {"queries": NoisedGroups}, starts_as_detr=False))
register(
    Variant(
        "sigmoid",
        {"criterion": SigmoidCriterion},
        starts_as_detr=False,
        heads={"class_bias": -2.0},
        unused=("eos_coef",),
    )
)
