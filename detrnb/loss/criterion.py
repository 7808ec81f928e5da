"""DETR's set losses (reference: models/detr.py, SetCriterion), for all decoder layers at once."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrnb.boxes import cxcywh_to_xyxy, generalized_box_iou
from detrnb.loss.detecting import at_least_float32, postprocess, softmax_scores
from detrnb.loss.layout import Layout, Pairs
from detrnb.loss.matcher import HungarianMatcher, softmax_cost

Targets = list[dict[str, Tensor]]
GIVEN = "given_"  # begins the names of losses of given matches


class SetCriterion(nn.Module):
    """DETR's `criterion`: losses between predictions and the targets that were matched or given.

    Each decoder layer is matched and judged by itself; names without a suffix are the last layer's,
    `_0`, `_1`, ... those of the layers before. One with another classification overrides
    `num_logits`, `class_cost`, `class_losses`, `class_divisor` and `least_divisor`, `predicted`,
    `scores` and `meaning`.

    Args:
        num_classes: without no-object, whose index it is.
        num_queries: of one group, in evaluation.
        num_layers: decoder layers that are judged.
        costs: of matching: `class`, `bbox`, `giou`.
        weights: of `loss_ce`, `loss_bbox`, `loss_giou` in the total.
        eos_coef: weight of no-object in the classification loss.

    Attributes:
        weight_dict: weight in the total of each loss of matched queries. A given match's loss has
            its plain loss's weight.
        meaning: what the logits are, in words.
        least_divisor: of classification, for a batch that has nothing to divide by.
    """

    meaning = "pred_logits (B, queries, classes + 1), the last is no-object, softmax gives scores"
    least_divisor = 0.0

    def __init__(
        self,
        num_classes: int,
        num_queries: int,
        num_layers: int,
        costs: Mapping[str, float],
        weights: Mapping[str, float],
        eos_coef: float,
    ) -> None:
        super().__init__()
        self.matcher = HungarianMatcher(costs, self.class_cost)
        self.num_classes, self.num_queries, self.eos_coef = num_classes, num_queries, eos_coef
        # Layer -> suffix of its names, in the reference's order of keys: the last layer first.
        self.suffixes = {num_layers - 1: "", **{i: f"_{i}" for i in range(num_layers - 1)}}
        self.kinds = tuple(weights)
        self.weight_dict = {k + s: w for s in self.suffixes.values() for k, w in weights.items()}

    @staticmethod
    def num_logits(num_classes: int) -> int:
        """Numbers that the model gives a query."""
        return num_classes + 1

    @staticmethod
    def class_cost(logits: Tensor, labels: Tensor) -> Tensor:
        """Cost of a query's class for matching: logits (L, B, Q, C), labels (B, G) -> (L,B,Q,G)."""
        return softmax_cost(logits, labels)

    def class_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Classification loss of each query: logits (L, M, C), labels (L, M) -> (L, M).

        Args:
            labels: `num_classes` for no-object.
        """
        class_weight = logits.new_ones(self.num_classes + 1)
        class_weight[-1] = self.eos_coef
        return F.cross_entropy(logits.transpose(1, 2), labels, class_weight, reduction="none")

    def class_divisor(self, matched: int, unmatched: int, boxes: int) -> float:
        """What the sum of a batch's classification losses is divided by.

        Args:
            matched, unmatched: its queries; boxes: its targets, once for each group.
        """
        return matched + self.eos_coef * unmatched

    def predicted(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Each query's best label, and whether it claims an object: logits (..., C) -> (...)."""
        labels = logits.argmax(-1)
        return labels, labels != self.num_classes

    def names(self, layout: Layout) -> list[str]:
        """Of all that `forward` returns for such a layout, in its order."""
        kinds = (*self.kinds, "cardinality_error")
        names = [kind + suffix for suffix in self.suffixes.values() for kind in kinds]
        names.insert(1, "class_error")
        given = [] if layout.given is None else [GIVEN + name for name in self.weight_dict]
        return names + given

    def weights_of(self, names: Iterable[str]) -> dict[str, float]:
        """Weights in the total of those of these losses that are part of it, in their order."""
        plain = {name: name.removeprefix(GIVEN) for name in names}
        return {n: self.weight_dict[p] for n, p in plain.items() if p in self.weight_dict}

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Weighted sum, what is minimised."""
        return sum(weight * losses[name] for name, weight in self.weights_of(losses).items())

    def normalizers(self, targets: Targets, layout: Layout) -> Tensor:
        """What the values of these targets' pass are divided by.

        All follow from targets and layout, so they can be summed over processes and passes before
        any forward pass; N processes then equal one (DESIGN 7).

        Returns:
            (5,) float64 on the CPU: boxes, once for each group; the divisor of classification;
            boxes that get a query of the first group; images; given pairs.
        """
        counts = [len(t["labels"]) for t in targets]
        first = sum(min(count, layout.queries) for count in counts)
        boxes, matched = layout.groups * sum(counts), layout.groups * first
        unmatched = len(targets) * layout.matched - matched
        divisor = self.class_divisor(matched, unmatched, boxes)
        numbers = [boxes, divisor, first, len(targets), layout.num_given]
        return torch.tensor(numbers, dtype=torch.float64, device="cpu")

    def forward(
        self,
        outputs: dict,
        targets: Targets,
        layout: Layout | None = None,
        normalizers: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Match, then compute all losses.

        Args:
            outputs: the model's dict.
            targets: per image `labels` (G,) int64 and `boxes` (G, 4) cxcywh.
            layout: of the pass, `model.layout(targets)`; where left out one group of the model's
                queries, as in evaluation.
            normalizers: of the larger batch that these targets are a part of; theirs alone where
                left out.

        Returns:
            Unweighted scalars, float32 or better: `loss_ce`, `class_error`, `loss_bbox`,
            `loss_giou`, `cardinality_error`, then the same without `class_error` with each suffix;
            where the layout has given matches also `given_loss_ce`, ... of those. Of a part they
            are its shares: those of all parts sum up to the larger batch's. `class_error` and
            `cardinality_error` are of the first group and carry no gradient. `class_error` of a
            batch without boxes is NaN, which means leave out; the reference gives 100, as if all
            its boxes were missed.

        Raises:
            matcher.NonFiniteError: predictions are NaN or infinite.
            ValueError: as many queries as predictions are of have another layout.
        """
        layers = [*outputs.get("aux_outputs", []), outputs]
        logits, boxes = (
            at_least_float32(torch.stack([layer[name] for layer in layers]))
            for name in ("pred_logits", "pred_boxes")
        )
        layout = self._layout(layout, logits.shape[2])
        judged = (x[:, :, : layout.matched] for x in (logits, boxes))
        matches = self.matcher(*judged, targets, layout.groups)
        return self.losses(logits, boxes, targets, matches, layout, normalizers)

    def _layout(self, layout: Layout | None, num_queries: int) -> Layout:
        """The layout of predictions of so many queries."""
        stated = layout or Layout(self.num_queries)
        if stated.total != num_queries:
            left_out = "" if layout else ", which stands for one group of them in evaluation"
            raise ValueError(
                f"predictions of {num_queries} queries, expected {stated.total}{left_out}; give"
                " the criterion the pass's layout: criterion(outputs, targets,"
                " model.layout(targets))"
            )
        return stated

    def losses(
        self,
        logits: Tensor,
        boxes: Tensor,
        targets: Targets,
        matches: list[list[Pairs]],
        layout: Layout | None = None,
        normalizers: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The losses of these matches; logits (L, B, Q', C) and boxes (L, B, Q', 4)."""
        L, B, total, C = logits.shape
        layout, device = self._layout(layout, total), logits.device
        if normalizers is None:
            normalizers = self.normalizers(targets, layout)
        divisors = _sent(normalizers.to(logits.dtype), device)
        num_boxes, class_divisor, num_first, num_images, num_given = divisors
        counts = [len(t["labels"]) for t in targets]
        labels = torch.cat([t["labels"] for t in targets])
        target_boxes = torch.cat([t["boxes"] for t in targets]).to(boxes.dtype)

        # Matched predictions of all layers as flat indices: every layer has as many, M.
        Q = layout.matched
        query, target = (_sent(x, device) for x in _flat_indices(matches, counts, Q))  # (L, M)
        flat_logits = logits[:, :, :Q].reshape(L, B * Q, C)
        target_classes = torch.full((L, B * Q), self.num_classes, device=device)
        target_classes = target_classes.scatter(1, query, labels[target])
        loss_ce = self.class_losses(flat_logits, target_classes).sum(1) / class_divisor.clamp(
            min=self.least_divisor
        )
        flat_boxes = boxes[:, :, :Q].reshape(L, B * Q, 4)
        loss_bbox, loss_giou = _box_losses(flat_boxes, query, target_boxes[target], num_boxes)

        with torch.no_grad():
            predicted, claims = self.predicted(flat_logits)
            first = query[-1] % Q < layout.queries
            hit = first & (predicted[-1].gather(0, query[-1]) == labels[target[-1]])
            judged = query.shape[1] // layout.groups
            class_error = 100 * judged / num_first - 100 * hit.sum() / num_first
            found = claims.reshape(L, B, Q)[..., : layout.queries].sum(-1).to(logits.dtype)
            counted = _sent(torch.tensor(counts, dtype=logits.dtype), device)
            cardinality = (found - counted).abs().sum(1) / num_images

        kinds = {"loss_ce": loss_ce, "class_error": class_error, "loss_bbox": loss_bbox}
        kinds |= {"loss_giou": loss_giou, "cardinality_error": cardinality}
        out = {
            kind + suffix: values if kind == "class_error" else values[i]
            for i, suffix in self.suffixes.items()
            for kind, values in kinds.items()
            if kind != "class_error" or suffix == ""
        }
        if layout.given is None:
            return out
        given = _flat_indices([layout.given], counts, total)
        query, target = (_sent(x, device) for x in given)
        query, target = query.expand(L, -1), target.expand(L, -1)
        rows = query[..., None].expand(-1, -1, C)
        given_logits = logits.reshape(L, B * total, C).gather(1, rows)
        given_ce = self.class_losses(given_logits, labels[target]).sum(1) / num_given.clamp(min=1)
        given_boxes = boxes.reshape(L, B * total, 4)
        given = (given_ce, *_box_losses(given_boxes, query, target_boxes[target], num_given))
        for i, suffix in self.suffixes.items():
            for kind, values in zip(self.kinds, given, strict=True):
                out[GIVEN + kind + suffix] = values[i]
        return out

    def scores(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is detected: logits (B, Q, C) -> scores, labels, queries, (B, n) each."""
        return softmax_scores(logits)

    def detections(self, outputs: dict, sizes: Tensor) -> list[dict[str, Tensor]]:
        """As `postprocess`, by this criterion's `scores`."""
        return postprocess(outputs, sizes, self.scores)


def _sent(x: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device, which is not waited for."""
    return x.to(device, non_blocking=True)


def _box_losses(
    boxes: Tensor, query: Tensor, expected: Tensor, divisor: Tensor
) -> tuple[Tensor, Tensor]:
    """L1 and GIoU losses (L,) of the boxes (L, B·Q, 4) at query (L, M), expected (L, M, 4)."""
    divisor = divisor.clamp(min=1)
    matched = boxes.gather(1, query[..., None].expand(-1, -1, 4))
    giou = generalized_box_iou(cxcywh_to_xyxy(matched), cxcywh_to_xyxy(expected))
    return (matched - expected).abs().sum((1, 2)) / divisor, (1 - giou).sum(1) / divisor


def _flat_indices(
    matches: Sequence[Sequence[Pairs]], counts: list[int], num_queries: int
) -> tuple[Tensor, Tensor]:
    """Matches as (L, M) indices into all queries and all targets of the batch."""
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    queries = [np.concatenate([q + b * num_queries for b, (q, _) in enumerate(m)]) for m in matches]
    targets = [np.concatenate([t + starts[b] for b, (_, t) in enumerate(m)]) for m in matches]
    return torch.from_numpy(np.stack(queries)), torch.from_numpy(np.stack(targets))
