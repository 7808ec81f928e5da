"""Sigmoid focal loss for classification, in place of a softmax over classes and no-object.

Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017; in a DETR first by Zhu et al.,
Deformable DETR, ICLR 2021. This is the criterion of Meng et al., Conditional DETR for Fast Training
Convergence, ICCV 2021 (Atten4Vis/ConditionalDETR), which later DETRs share.

Every logit is a detector of its own class. With p the sigmoid of a logit, and y = 1 for the class
of the query's object and 0 for all else, an unmatched query's logits included,

    loss_ce = 1/boxes Σ α_y (1 − p_y)² (−log p_y),    p_1 = p, p_0 = 1 − p, α_1 = α, α_0 = 1 − α

so that the many easy zeros weigh little. Matching asks what a one would cost more than a zero:

    cost = α (1 − p)² (−log(p + ε)) − (1 − α) p² (−log(1 − p + ε)),    α = 0.25, ε = 1e-8

Measured there, on COCO with a ResNet-50: not by itself. DETR-DC5 with focal loss and 300 queries in
place of 100 has 36.2 AP after 50 epochs instead of 35.3 (Deformable DETR's table). The field's
names: focal loss, prior probability (of the bias), α-balance.

This is classification as a whole. Bundled: weight 2 in the loss and 2 in the matching cost where
DETR has 1 and 1; class biases start at −log 99, so that a score starts at 0.01; no no-object class,
so as many logits as classes, and nothing for `eos_coef` to weigh; detections are an image's 100
highest scores over all queries and classes, so that a query may give several. Left out: the 300
queries (`model.num_queries`) and the box head's start at zero (`conditional` has it).

Choices. The divisor is the boxes of the global batch, at least 1, each counted once a group of
queries, where theirs averages over processes. `cardinality_error` counts queries with a score above
one half; the authors' counts those whose highest logit is not the last, which means nothing here.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from detrnb.loss import SetCriterion

DETECTIONS = 100  # of an image, at most; the most that COCO's metrics look at


class FocalCriterion(SetCriterion):
    """DETR's criterion with sigmoid focal classification.

    Args:
        cost: weight of the class in matching.
        weight: of `loss_ce` in the total.
        alpha: share of ones against zeros, for both.
    """

    meaning = "pred_logits (B, queries, classes), the sigmoid of each gives its score"
    least_divisor = 1.0

    def __init__(
        self,
        num_classes: int,
        num_queries: int,
        num_layers: int,
        costs: Mapping[str, float],
        weights: Mapping[str, float],
        eos_coef: float,
        *,
        cost: float = 2.0,
        weight: float = 2.0,
        alpha: float = 0.25,
    ) -> None:
        costs, weights = {**costs, "class": cost}, {**weights, "loss_ce": weight}
        super().__init__(num_classes, num_queries, num_layers, costs, weights, eos_coef)
        self.alpha = alpha

    @staticmethod
    def num_logits(num_classes: int) -> int:
        """Numbers that the model gives a query: label c is logit c."""
        return num_classes

    def class_cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cost of a query's class for matching: logits (L, B, Q, C), labels (B, G) -> (L,B,Q,G)."""
        index = labels[None, :, None].expand(*logits.shape[:3], -1)
        p = logits.sigmoid().gather(-1, index)
        as_one = self.alpha * (1 - p) ** 2 * -(p + 1e-8).log()
        as_zero = (1 - self.alpha) * p**2 * -(1 - p + 1e-8).log()
        return as_one - as_zero

    def class_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Classification loss of each query: logits (L, M, C), labels (L, M) -> (L, M).

        Args:
            labels: `num_classes` for no object.
        """
        wanted = F.one_hot(labels, self.num_classes + 1)[..., :-1].to(logits.dtype)
        surprise = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        missing = (wanted - logits.sigmoid()).abs()  # 1 − p_y
        balance = self.alpha * wanted + (1 - self.alpha) * (1 - wanted)
        return (balance * missing**2 * surprise).sum(-1)

    def class_divisor(self, matched: int, unmatched: int, boxes: int) -> float:
        """The batch's boxes, once for each group."""
        return boxes

    def predicted(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Each query's best label, and whether it claims an object: logits (..., C) -> (...)."""
        best, labels = logits.max(-1)
        return labels, best > 0

    def scores(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of query and class: logits (B, Q, C) -> scores, labels, queries (B, n)."""
        Q, C = logits.shape[1:]
        scores, place = logits.sigmoid().flatten(1).topk(min(DETECTIONS, Q * C))
        return scores, place % C, place // C
