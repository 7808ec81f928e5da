"""Reference points: every query has a learned point, and its box is relative to it.

Box of a query = σ(offset + (s, 0, 0)), with s in R² learned and σ(s) the point, x then y, shares of
the image. DETR's queries have to say the same with the box head alone. The published changes that
follow DETR agree on this much (Deformable DETR, ICLR 2021; Conditional DETR, ICCV 2021; Anchor
DETR, AAAI 2022; DAB-DETR, ICLR 2022), and none of them measures it by itself, so that there is no
number of theirs to compare with. The field's names: reference point, anchor point.

Chosen here: points are parameters of their own, N(0, 1) before the sigmoid as DAB-DETR's anchors
are; queries keep DETR's learned position, attention does not know the points, and the box head
starts as DETR's. (The authors' models start it at 0.) Where DETR's weights are loaded all points
are in the middle, s = 0, which is DETR exactly.
"""

from torch import Tensor, nn

from detrnb.loss import Layout, Targets
from detrnb.model import LearnedQueries, Queries


class PointQueries(LearnedQueries):
    """DETR's queries with a point each, `points.weight` (Q, 2), before the sigmoid.

    Attributes:
        added: names of the parameters that DETR does not have.
    """

    anchor_size = 2
    added = ("points.weight",)

    def __init__(self, num_queries: int, d_model: int) -> None:
        super().__init__(num_queries, d_model)
        self.points = nn.Embedding(num_queries, 2)

    def forward(self, batch_size: int, layout: Layout, targets: Targets | None) -> Queries:
        """Equal ones for every image."""
        queries = super().forward(batch_size, layout, targets)
        points = self.points.weight.expand(batch_size, -1, -1)
        return Queries(queries.content, queries.position, points)

    def start_as_detr(self, state: dict[str, Tensor], prefix: str) -> None:
        """Add the points to DETR's tensors, in place: all in the middle, where they add 0."""
        state[prefix + "points.weight"] = self.points.weight.new_zeros(self.points.weight.shape)
