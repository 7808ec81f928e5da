"""Hungarian assignment of targets to queries, for all decoder layers in one pass."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detrnb.boxes import cxcywh_to_xyxy, generalized_box_iou
from detrnb.loss.layout import Pairs


class NonFiniteError(ValueError):
    """A tensor that must be finite is not.

    Args:
        tensor: names it.
        images: places in the batch; none where it cannot be told which.
    """

    def __init__(self, tensor: str, images: Sequence[int] = ()) -> None:
        super().__init__(tensor, images)  # what makes another in a process that receives it
        self.tensor, self.images = tensor, list(images)

    def __str__(self) -> str:
        where = f" (images {self.images} of the batch)" if self.images else ""
        return f"{self.tensor} is not finite{where}"


def softmax_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """-probability of each target's class: logits (L, B, Q, C), labels (B, G) -> (L, B, Q, G)."""
    index = labels[None, :, None].expand(*logits.shape[:3], -1)
    return -logits.softmax(-1).gather(-1, index)


class HungarianMatcher:
    """Assign each target to one query, minimising the total cost (reference: models/matcher.py).

    The cost of a pair is that of its class, plus L1 distance and -GIoU of the boxes, each with its
    weight.

    Args:
        costs: weights `class`, `bbox`, `giou`.
        class_cost: of each query (L, B, Q, C) with each label (B, G).
    """

    def __init__(
        self,
        costs: Mapping[str, float],
        class_cost: Callable[[Tensor, Tensor], Tensor] = softmax_cost,
    ) -> None:
        self.costs, self.class_cost = costs, class_cost

    @torch.no_grad()
    def cost(self, logits: Tensor, boxes: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
        """Costs of all pairs within an image, targets padded to the most of the batch.

        Args:
            logits: (L, B, Q, C); boxes: (L, B, Q, 4) cxcywh.
            targets: per image `labels` (G,) and `boxes` (G, 4) cxcywh.

        Returns:
            (L, B, Q, Gmax) in the boxes' precision; columns past an image's targets mean nothing.
        """
        pad = torch.nn.utils.rnn.pad_sequence
        labels_BG = pad([t["labels"] for t in targets], batch_first=True)
        boxes_BG4 = pad([t["boxes"] for t in targets], batch_first=True).to(boxes.dtype)
        distance = torch.cdist(boxes, boxes_BG4.expand(len(boxes), -1, -1, -1), p=1)
        giou = generalized_box_iou(
            cxcywh_to_xyxy(boxes)[..., None, :], cxcywh_to_xyxy(boxes_BG4)[None, :, None]
        )
        weights = self.costs
        cost = weights["class"] * self.class_cost(logits, labels_BG)
        return cost + weights["bbox"] * distance - weights["giou"] * giou

    def __call__(
        self, logits: Tensor, boxes: Tensor, targets: list[dict[str, Tensor]], groups: int = 1
    ) -> list[list[Pairs]]:
        """Match every decoder layer's predictions.

        Args:
            logits: (L, B, K·Q, C); boxes: (L, B, K·Q, 4); targets: as for `cost`.
            groups: K, of Q queries each; all targets are matched within each.

        Returns:
            Per layer and image the queries (ascending) and their targets, two int64 arrays of equal
            length K · min(Q, G), group after group.

        Raises:
            NonFiniteError: predictions are NaN or infinite; names tensor, layer and images.
        """
        counts = [len(t["labels"]) for t in targets]
        L, B, total = logits.shape[:3]
        if max(counts) == 0:
            self._require_finite(logits, boxes)
            cost = np.empty((L, B, total, 0), dtype=np.float32)
        else:
            cost = self.cost(logits, boxes, targets).cpu().numpy()  # the one copy to the host
            if not np.isfinite(cost).all():
                self._require_finite(logits, boxes)
                raise NonFiniteError("cost of matching (targets)", list(range(B)))
        grouped = cost.reshape(L, B, groups, total // groups, -1)
        return [
            [_pairs(grouped[layer, b, :, :, : counts[b]]) for b in range(B)] for layer in range(L)
        ]

    @staticmethod
    def _require_finite(logits: Tensor, boxes: Tensor) -> None:
        for name, tensor in (("pred_logits", logits), ("pred_boxes", boxes)):
            bad = ~tensor.isfinite().flatten(2).all(-1)  # (L, B)
            if bad.any():
                layer = int(bad.any(1).nonzero()[0])
                raise NonFiniteError(
                    f"{name} of decoder layer {layer + 1}", bad[layer].nonzero()[:, 0].tolist()
                )


def _pairs(costs: np.ndarray) -> Pairs:
    """Matches of an image from its costs (K, Q, G)."""
    found = [linear_sum_assignment(cost) for cost in costs]
    queries = [q + group * costs.shape[1] for group, (q, _) in enumerate(found)]
    return np.concatenate(queries), np.concatenate([targets for _, targets in found])
