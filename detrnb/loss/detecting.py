"""From predictions to detections in pixels (reference: models/detr.py, PostProcess)."""

from collections.abc import Callable

import torch
from torch import Tensor

from detrnb.boxes import cxcywh_to_xyxy

Scores = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def softmax_scores(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """DETR's detections: of each query in order its best class but no-object.

    Args:
        logits: (B, Q, C).

    Returns:
        Scores, labels and queries, (B, n) each, n being Q.
    """
    scores, labels = logits.softmax(-1)[..., :-1].max(-1)
    return scores, labels, torch.arange(logits.shape[1], device=logits.device).expand_as(labels)


@torch.no_grad()
def postprocess(
    outputs: dict, sizes: Tensor, scores: Scores = softmax_scores
) -> list[dict[str, Tensor]]:
    """Detections in pixels; DETR's own are all queries in order.

    Args:
        outputs: the model's dict, in evaluation.
        sizes: (B, 2) height and width of each image in pixels.
        scores: as `softmax_scores`; n may be any number.

    Returns:
        Per image `scores` (n,), `labels` (n,), `boxes` (n, 4) xyxy in pixels, and `queries` (n,),
        which each comes from.
    """
    logits, boxes = (at_least_float32(outputs[name]) for name in ("pred_logits", "pred_boxes"))
    found, labels, queries = scores(logits)
    height, width = sizes.to(boxes.device).unbind(1)
    scale = torch.stack([width, height, width, height], dim=1)[:, None]
    boxes = (cxcywh_to_xyxy(boxes) * scale).take_along_dim(queries[..., None], dim=1)
    return [
        {"scores": s, "labels": c, "boxes": b, "queries": q}
        for s, c, b, q in zip(found, labels, boxes, queries, strict=True)
    ]
