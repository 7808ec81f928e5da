"""Denoising: in training, noised true boxes are queries too, and give back what they were made of.

Source: Li et al., DN-DETR: Accelerate DETR Training by Introducing Query DeNoising, CVPR 2022, and
the authors' code (IDEA-Research/DN-DETR, the single-scale model on DAB-DETR). Matching changes from
epoch to epoch, so that a query learns towards now this box, now that. Beside the queries that are
matched, every true box is therefore shown to the decoder `groups` times, noised: each of x, y, w, h
of its anchor gets (2u − 1) · `box_noise` · (w/2, h/2, w, h), u uniform in [0, 1), and with
probability `label_noise` its label is any of the classes. Their matches are given, and judged by
the criterion in use, divided by their number. A group sees itself and the matched queries; those
see no group. Inference is DAB-DETR's. The field's names: denoising queries, denoising groups,
label embedding, indicator.

Measured there, on COCO with a ResNet-50 after 50 epochs: 44.4 AP, where DAB-DETR has 42.2.

Bundled all the same: all of `dab`, and content that is learned: a label's embedding of D − 1
numbers and an indicator, 1 where noised; matched queries share the embedding of no label, in
evaluation too. Left out: what `dab` leaves out.

Otherwise than the authors': what is drawn for an image is given by its target's `draws`, so that
batches, processes and resuming change nothing; losses are divided by the number of given pairs in
all processes, not in each; slots of a group that an image does not fill are seen by themselves
alone (theirs are seen by their group, so that an image's outputs depend on its neighbours).
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from detrnb.loss import Layout, Targets
from detrnb.model import Queries
from detrnb.variants.dab import AnchorQueries, inverse_sigmoid


class Noise(NamedTuple):
    """What is drawn for the boxes of a batch in each group; M is the most boxes of an image.

    Attributes:
        chance: (B, groups, M), uniform in [0, 1): whether the label changes.
        labels: (B, groups, M), a class each: to which.
        boxes: (B, groups, M, 4), uniform in [0, 1).
    """

    chance: Tensor
    labels: Tensor
    boxes: Tensor


class DenoisingQueries(AnchorQueries):
    """Anchor boxes with learned content, then in training `groups` groups of noised true boxes.

    In a group, an image's first slots are its boxes in order; the rest stays empty where another
    image has more.
    """

    def __init__(
        self,
        num_queries: int,
        d_model: int,
        num_classes: int,
        *,
        groups: int = 5,
        label_noise: float = 0.2,
        box_noise: float = 0.4,
    ) -> None:
        super().__init__(num_queries, d_model)
        self.num_classes, self.groups = num_classes, groups
        self.label_noise, self.box_noise = label_noise, box_noise
        self.label_enc = nn.Embedding(num_classes + 1, d_model - 1)  # the last: of no label

    def layout(self, targets: Targets | None) -> Layout:
        """In training with targets also groups as long as the most boxes of an image."""
        if not self.training or targets is None:
            return Layout(self.num_queries)
        counts = [len(target["labels"]) for target in targets]
        most = max(counts, default=0)
        starts = self.num_queries + most * np.arange(self.groups)[:, None]
        given = tuple(
            ((starts + np.arange(n)).ravel(), np.tile(np.arange(n), self.groups)) for n in counts
        )
        return Layout(self.num_queries, 1, self.groups * most, given)

    def forward(self, batch_size: int, layout: Layout, targets: Targets | None) -> Queries:
        """Matched queries, equal for every image, then the noised boxes of each."""
        anchors = super().forward(batch_size, layout, targets).anchors
        content = F.pad(self.label_enc.weight[-1], (0, 1)).expand(*anchors.shape[:2], -1)
        if not layout.extra:
            return Queries(content, anchors=anchors)
        most = layout.extra // self.groups
        noise = Noise(*(drawn.to(content.device) for drawn in self.draw(targets, most)))
        labels = pad_sequence([target["labels"] for target in targets], batch_first=True)
        boxes = pad_sequence([target["boxes"] for target in targets], batch_first=True)
        counts = torch.tensor([len(target["labels"]) for target in targets])
        filled = (torch.arange(most) < counts[:, None]).to(content.device)  # (B, M)

        chosen = noise.chance < self.label_noise
        labels = torch.where(chosen, noise.labels, labels[:, None])
        noised_content = F.pad(self.label_enc(labels), (0, 1), value=1.0)
        boxes = boxes[:, None]
        reach = torch.cat([boxes[..., 2:] / 2, boxes[..., 2:]], dim=-1)
        boxes = (boxes + (2 * noise.boxes - 1) * self.box_noise * reach).clamp(0, 1)
        there = filled[:, None, :, None]  # empty slots: content 0, and the anchor in the middle
        extra = (noised_content * there, inverse_sigmoid(boxes) * there)
        content, anchors = (
            torch.cat([of_all, of_noised.flatten(1, 2)], dim=1)
            for of_all, of_noised in zip((content, anchors), extra, strict=True)
        )
        return Queries(content, anchors=anchors, blocked=self._blocked(layout, filled))

    def draw(self, targets: Targets, most: int) -> Noise:
        """What is drawn for these targets, on the CPU; an image's draws hang on nothing else.

        Args:
            most: boxes that there is room for.

        Raises:
            ValueError: a target has no `draws`.
        """
        drawn = []
        for target in targets:
            if "draws" not in target:
                raise ValueError(
                    "a target has no 'draws', the integer that noise is drawn from in training;"
                    " `fit` gives it (seed, epoch, image), your own loop may give any"
                )
            generator = torch.Generator().manual_seed(target["draws"])
            shape = (self.groups, len(target["labels"]))
            room = (0, most - shape[1])
            chance = torch.rand(shape, generator=generator)
            labels = torch.randint(self.num_classes, shape, generator=generator)
            boxes = torch.rand(*shape, 4, generator=generator)
            drawn.append((F.pad(chance, room), F.pad(labels, room), F.pad(boxes, (0, 0, *room))))
        return Noise(*(torch.stack(kind) for kind in zip(*drawn, strict=True)))

    def _blocked(self, layout: Layout, filled: Tensor) -> Tensor:
        """Who must not look at whom (B, Q', Q'); `filled` (B, M): a group's slots in use."""
        place = torch.arange(layout.total, device=filled.device) - layout.matched
        group = place.clamp(min=-1).div(filled.shape[1], rounding_mode="floor")  # matched: -1
        apart = (group >= 0) & (group[:, None] != group)
        empty = F.pad(~filled.repeat(1, self.groups), (layout.matched, 0), value=False)
        oneself = torch.eye(layout.total, dtype=torch.bool, device=filled.device)
        return (apart | empty[:, None]) & ~oneself
