"""The part `queries`: what the decoder starts from."""

from dataclasses import dataclass

from torch import Tensor, nn

from detrnb.loss import Layout, Targets


@dataclass(frozen=True)
class Queries:
    """The queries of a pass, K groups of Q and then E extra: Q' in all.

    Attributes:
        content: (B, Q', D).
        position: (B, Q', D); None where a layer makes it.
        anchors: (B, Q', 2 or 4), before the sigmoid: a point, or a box cxcywh, that the predicted
            box is relative to; None where it is not.
        blocked: (1 or B, Q', Q') bool, True where a query (row) must not look at another; None
            where all may. Each may look at itself.
    """

    content: Tensor
    position: Tensor | None = None
    anchors: Tensor | None = None
    blocked: Tensor | None = None


class LearnedQueries(nn.Embedding):
    """DETR's queries: a learned position each, and content that starts at 0.

    Attributes:
        anchor_size: numbers of an anchor: 0 (none), 2 or 4.
    """

    anchor_size = 0

    def __init__(self, num_queries: int, d_model: int) -> None:
        super().__init__(num_queries, d_model)

    def layout(self, targets: Targets | None) -> Layout:
        """One group, whatever the targets."""
        return Layout(self.num_embeddings)

    def forward(self, batch_size: int, layout: Layout, targets: Targets | None) -> Queries:
        """Equal ones for every image."""
        position = self.weight.expand(batch_size, -1, -1)
        return Queries(position.new_zeros(position.shape), position)
