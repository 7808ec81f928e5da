"""Group DETR: several groups of queries in training, one in evaluation.

Source: Chen et al., Group DETR: Fast DETR Training with Group-Wise One-to-Many Assignment, ICCV
2023; the authors' code is the branch GroupDETR of Atten4Vis/ConditionalDETR.

DETR assigns each object to one query, so that few queries learn from an image. Here K groups of Q
queries are decoded together with the same weights; every group is matched to all objects by itself
(one-to-one within a group, one-to-many over all), and a query looks at those of its own group only:

    blocked[i, j] = (i // Q ≠ j // Q),    loss = 1/K Σ_k loss(group k)

so that duplicates still compete within a group. Evaluation takes the first group: it is DETR. The
field's names: group-wise one-to-many assignment, group queries. The code tells no number measured.

Left out: what it was measured on (Conditional DETR with its focal loss and 300 queries; a join with
`conditional` and `focal` has them). Bundled: more queries cost more, the decoder's step K times as
much and the attention among queries, whose blocked part is computed, K² times; only training does.

Choices. 11 groups, the number there. The first group bears DETR's name and starts as DETR's queries
do; the others stand beside it under a name of their own, where the authors keep one table of K·Q
rows. The loss is divided by the boxes of the global batch, each counted once a group, where theirs
averages over processes. detrex's version does not separate its groups; this one does.
"""

import torch
from torch import nn

from detrnb.loss import Layout, Targets
from detrnb.model import LearnedQueries, Queries


class GroupedQueries(LearnedQueries):
    """K groups of Q learned positions while training, the first of them in evaluation.

    Attributes:
        weight: (Q, D), the first group, DETR's own.
        others: ((K - 1)·Q, D), the other groups, one after another.
    """

    def __init__(self, num_queries: int, d_model: int, *, groups: int = 11) -> None:
        super().__init__(num_queries, d_model)
        self.groups = groups
        self.others = nn.Embedding((groups - 1) * num_queries, d_model)

    def layout(self, targets: Targets | None) -> Layout:
        """All groups while training, one in evaluation, whatever the targets."""
        return Layout(self.num_embeddings, self.groups if self.training else 1)

    def forward(self, batch_size: int, layout: Layout, targets: Targets | None) -> Queries:
        """Equal ones for every image."""
        if layout.groups == 1:
            return super().forward(batch_size, layout, targets)
        position = torch.cat([self.weight, self.others.weight]).expand(batch_size, -1, -1)
        group = torch.arange(layout.total, device=position.device) // layout.queries
        blocked = group[:, None] != group
        return Queries(position.new_zeros(position.shape), position, blocked=blocked[None])
