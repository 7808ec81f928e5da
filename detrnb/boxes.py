"""Box formats and overlaps, in torch.

`cxcywh` is centre and size as shares of the image (what DETR predicts), `xyxy` corners, in pixels
or shares. All functions are elementwise over leading dimensions and keep float32 or better.
"""

from torch import Tensor, linspace, stack


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Corners (..., 4) of boxes (..., 4) given by centre and size, in the same unit."""
    cx, cy, w, h = boxes.unbind(-1)
    return stack([cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Centre and size (..., 4) of boxes (..., 4) given by corners, in the same unit."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], dim=-1)


def _area(boxes_xyxy: Tensor) -> Tensor:
    return (boxes_xyxy[..., 2] - boxes_xyxy[..., 0]) * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1])


def box_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union of boxes that broadcast against each other.

    Args:
        a_xyxy, b_xyxy: (..., 4); for all pairs give (N, 1, 4) and (1, M, 4).

    Returns:
        IoU and area of the union, of the broadcast shape without the last dimension. The IoU of two
        boxes without area is 0, not NaN.
    """
    top_left = a_xyxy[..., :2].maximum(b_xyxy[..., :2])
    bottom_right = a_xyxy[..., 2:].minimum(b_xyxy[..., 2:])
    width_height = (bottom_right - top_left).clamp(min=0)
    intersection = width_height[..., 0] * width_height[..., 1]
    union = _area(a_xyxy) + _area(b_xyxy) - intersection
    return intersection / union.clamp(min=1e-12), union


def generalized_box_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """GIoU (Rezatofighi et al., CVPR 2019) of boxes that broadcast against each other, in [-1, 1].

    Args:
        a_xyxy, b_xyxy: (..., 4), as for `box_iou`.
    """
    iou, union = box_iou(a_xyxy, b_xyxy)
    top_left = a_xyxy[..., :2].minimum(b_xyxy[..., :2])
    bottom_right = a_xyxy[..., 2:].maximum(b_xyxy[..., 2:])
    width_height = (bottom_right - top_left).clamp(min=0)
    hull = width_height[..., 0] * width_height[..., 1]
    return iou - (hull - union) / hull.clamp(min=1e-12)


def cell_coverage(boxes_xyxy: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """How much of each cell of a feature map lies in each box.

    Args:
        boxes_xyxy: (G, 4), pixels.
        size: height and width of the image, pixels.
        grid: rows h and columns w of the feature map.

    Returns:
        (G, h, w), 0 to 1; its mean over the cells is the box's share of the image.
    """

    def along(low: Tensor, high: Tensor, length: int, count: int) -> Tensor:
        edges = linspace(0, length, count + 1, device=boxes_xyxy.device)
        ends = high[:, None].minimum(edges[1:]) - low[:, None].maximum(edges[:-1])
        return ends.clamp(min=0) * count / length

    x0, y0, x1, y1 = boxes_xyxy.unbind(-1)
    rows, columns = along(y0, y1, size[0], grid[0]), along(x0, x1, size[1], grid[1])
    return rows[:, :, None] * columns[:, None, :]
