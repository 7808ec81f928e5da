"""DETR's set losses (reference: models/detr.py, SetCriterion), for all decoder layers at once."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrnb.boxes import cxcywh_to_xyxy, generalized_box_iou
from detrnb.loss.matcher import HungarianMatcher

Targets = list[dict[str, Tensor]]
Matches = list[list[tuple[np.ndarray, np.ndarray]]]


class SetCriterion(nn.Module):
    """Losses between predictions and the targets the matcher gave them.

    Each decoder layer is matched and judged by itself; names without a suffix are the last layer's,
    `_0`, `_1`, ... those of the layers before.

    Args:
        num_classes: without no-object, whose index it is.
        eos_coef: weight of no-object in the classification loss.
        weights: of `loss_ce`, `loss_bbox`, `loss_giou` in the total.
        num_layers: decoder layers that are judged.

    Attributes:
        weight_dict: weight in the total of each loss that is returned.
        names: of all that `forward` returns, in its order.
    """

    def __init__(
        self,
        matcher: HungarianMatcher,
        num_classes: int,
        eos_coef: float,
        weights: dict[str, float],
        num_layers: int,
    ) -> None:
        super().__init__()
        self.matcher, self.num_classes, self.eos_coef = matcher, num_classes, eos_coef
        # Layer -> suffix of its names, in the reference's order of keys: the last layer first.
        self.suffixes = {num_layers - 1: "", **{i: f"_{i}" for i in range(num_layers - 1)}}
        self.weight_dict = {k + s: w for s in self.suffixes.values() for k, w in weights.items()}
        numbers = (*weights, "cardinality_error")
        self.names = [k + s for s in self.suffixes.values() for k in numbers]
        self.names.insert(1, "class_error")
        class_weight = torch.ones(num_classes + 1)
        class_weight[-1] = eos_coef
        self.register_buffer("class_weight", class_weight, persistent=False)

    def normalizers(self, targets: Targets, num_queries: int) -> Tensor:
        """What the values of these targets' batch are divided by.

        All depend on the targets alone, so they can be summed over processes and accumulated
        batches before any forward pass; N processes then equal one (DESIGN 7).

        Returns:
            (4,) on the criterion's device: number of boxes, sum of the class weights of all
            queries, number of boxes that get a query, number of images.
        """
        boxes = sum(len(t["labels"]) for t in targets)
        matched = sum(min(len(t["labels"]), num_queries) for t in targets)
        class_weights = matched + self.eos_coef * (len(targets) * num_queries - matched)
        numbers = [boxes, class_weights, matched, len(targets)]
        return torch.tensor(numbers, dtype=torch.float32, device=self.class_weight.device)

    def forward(
        self, outputs: dict, targets: Targets, normalizers: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Match, then compute all losses.

        Args:
            outputs: the model's dict.
            targets: per image `labels` (G,) int64 and `boxes` (G, 4) cxcywh.
            normalizers: (4,) of the larger batch that these targets are a part of; theirs alone
                where left out.

        Returns:
            Unweighted scalars in float32: `loss_ce`, `class_error`, `loss_bbox`, `loss_giou`,
            `cardinality_error`, then the same without `class_error` with each suffix. Of a part
            they are its shares: those of all parts sum up to the larger batch's. `class_error` and
            `cardinality_error` carry no gradient. `class_error` of a batch without boxes is NaN,
            which means leave out; the reference gives 100, as if all its boxes were missed.

        Raises:
            matcher.NonFiniteError: predictions are NaN or infinite.
        """
        layers = [*outputs.get("aux_outputs", []), outputs]
        logits = torch.stack([x["pred_logits"] for x in layers]).float()
        boxes = torch.stack([x["pred_boxes"] for x in layers]).float()
        matches = self.matcher(logits, boxes, targets)
        return self.losses(logits, boxes, targets, matches, normalizers)

    def losses(
        self,
        logits: Tensor,
        boxes: Tensor,
        targets: Targets,
        matches: Matches,
        normalizers: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The losses of given matches; logits (L, B, Q, K) and boxes (L, B, Q, 4)."""
        L, B, Q, K = logits.shape
        device = logits.device
        if normalizers is None:
            normalizers = self.normalizers(targets, Q)
        num_boxes, class_weights, num_matched, num_images = normalizers.to(device)
        num_boxes = num_boxes.clamp(min=1)

        # Matched predictions of all layers as flat indices: every layer has as many, M.
        query, target = _flat_indices(matches, [len(t["labels"]) for t in targets], Q)
        query, target = query.to(device), target.to(device)  # (L, M) into B·Q and ΣG
        labels = torch.cat([t["labels"] for t in targets])
        target_boxes = torch.cat([t["boxes"] for t in targets]).float()[target]  # (L, M, 4)
        target_classes = torch.full((L, B * Q), self.num_classes, device=device)
        target_classes = target_classes.scatter(1, query, labels[target])

        flat_logits = logits.reshape(L, B * Q, K)
        cross_entropy = F.cross_entropy(
            flat_logits.transpose(1, 2), target_classes, self.class_weight, reduction="none"
        )
        loss_ce = cross_entropy.sum(1) / class_weights
        matched = boxes.reshape(L, B * Q, 4).gather(1, query[..., None].expand(-1, -1, 4))
        loss_bbox = (matched - target_boxes).abs().sum((1, 2)) / num_boxes
        giou = generalized_box_iou(cxcywh_to_xyxy(matched), cxcywh_to_xyxy(target_boxes))
        loss_giou = (1 - giou).sum(1) / num_boxes

        with torch.no_grad():
            predicted = flat_logits.argmax(-1)
            hit = predicted[-1].gather(0, query[-1]) == labels[target[-1]]
            class_error = 100 * hit.numel() / num_matched - 100 * hit.sum() / num_matched
            found = (predicted != self.num_classes).reshape(L, B, Q).sum(-1).float()
            counts = torch.tensor([float(len(t["labels"])) for t in targets], device=device)
            cardinality = (found - counts).abs().sum(1) / num_images

        out: dict[str, Tensor] = {}
        for i, suffix in self.suffixes.items():
            out["loss_ce" + suffix] = loss_ce[i]
            if suffix == "":
                out["class_error"] = class_error
            out["loss_bbox" + suffix] = loss_bbox[i]
            out["loss_giou" + suffix] = loss_giou[i]
            out["cardinality_error" + suffix] = cardinality[i]
        return out

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """Weighted sum, what is minimised."""
        return sum(weight * losses[name] for name, weight in self.weight_dict.items())


def _flat_indices(matches: Matches, counts: list[int], num_queries: int) -> tuple[Tensor, Tensor]:
    """Matches as (L, M) indices into all queries and all targets of the batch."""
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    queries = [np.concatenate([q + b * num_queries for b, (q, _) in enumerate(m)]) for m in matches]
    targets = [np.concatenate([t + starts[b] for b, (_, t) in enumerate(m)]) for m in matches]
    return torch.from_numpy(np.stack(queries)), torch.from_numpy(np.stack(targets))
