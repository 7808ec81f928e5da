"""Hungarian assignment of targets to queries, for all decoder layers in one pass."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detrnb.boxes import cxcywh_to_xyxy, generalized_box_iou


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


class HungarianMatcher:
    """Assign each target to one query, minimising the total cost (reference: models/matcher.py).

    The cost of a pair is -probability of the target's class, plus L1 distance and -GIoU of the
    boxes, each with its weight.
    """

    def __init__(self, cost_class: float, cost_bbox: float, cost_giou: float) -> None:
        self.cost_class, self.cost_bbox, self.cost_giou = cost_class, cost_bbox, cost_giou

    @torch.no_grad()
    def cost(self, logits: Tensor, boxes: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
        """Costs of all pairs within an image, targets padded to the most of the batch.

        Args:
            logits: (L, B, Q, K); boxes: (L, B, Q, 4) cxcywh.
            targets: per image `labels` (G,) and `boxes` (G, 4) cxcywh.

        Returns:
            (L, B, Q, Gmax) float32; columns past an image's targets mean nothing.
        """
        pad = torch.nn.utils.rnn.pad_sequence
        labels_BG = pad([t["labels"] for t in targets], batch_first=True)
        boxes_BG4 = pad([t["boxes"] for t in targets], batch_first=True).float()
        L, B, Q, _ = logits.shape
        index = labels_BG[None, :, None].expand(L, B, Q, -1)
        probability = logits.float().softmax(-1).gather(-1, index)
        boxes = boxes.float()
        distance = torch.cdist(boxes, boxes_BG4.expand(L, -1, -1, -1), p=1)
        giou = generalized_box_iou(
            cxcywh_to_xyxy(boxes)[..., None, :], cxcywh_to_xyxy(boxes_BG4)[None, :, None]
        )
        return -self.cost_class * probability + self.cost_bbox * distance - self.cost_giou * giou

    def __call__(
        self, logits: Tensor, boxes: Tensor, targets: list[dict[str, Tensor]]
    ) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """Match every decoder layer's predictions.

        Args:
            logits: (L, B, Q, K); boxes: (L, B, Q, 4) cxcywh; targets: as for `cost`.

        Returns:
            Per layer and image the queries (ascending) and their targets, two int64 arrays of equal
            length min(Q, G).

        Raises:
            NonFiniteError: predictions are NaN or infinite; names tensor, layer and images.
        """
        counts = [len(t["labels"]) for t in targets]
        L, B = logits.shape[:2]
        if max(counts) == 0:
            self._require_finite(logits, boxes)
            cost = np.empty((L, B, logits.shape[2], 0), dtype=np.float32)
        else:
            cost = self.cost(logits, boxes, targets).cpu().numpy()  # the one copy to the host
            if not np.isfinite(cost).all():
                self._require_finite(logits, boxes)
                raise NonFiniteError("cost of matching (targets)", list(range(B)))
        return [
            [linear_sum_assignment(cost[layer, b, :, : counts[b]]) for b in range(B)]
            for layer in range(L)
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
