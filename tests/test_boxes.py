"""Box formats and overlaps, against values worked out by hand."""

import pytest
import torch

from detrnb.boxes import box_iou, cell_coverage, cxcywh_to_xyxy, generalized_box_iou, xyxy_to_cxcywh


def test_formats_convert_both_ways():
    cxcywh = torch.tensor([[0.5, 0.4, 0.2, 0.6]])
    xyxy = torch.tensor([[0.4, 0.1, 0.6, 0.7]])
    torch.testing.assert_close(cxcywh_to_xyxy(cxcywh), xyxy)
    torch.testing.assert_close(xyxy_to_cxcywh(xyxy), cxcywh)


def test_iou_and_giou_of_all_pairs():
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1]])
    b = torch.tensor([[1.0, 1, 3, 3], [4, 0, 5, 1], [0, 0, 2, 2]])
    iou, union = box_iou(a[:, None], b[None])
    torch.testing.assert_close(iou, torch.tensor([[1 / 7, 0, 1], [0, 0, 1 / 4]]))
    torch.testing.assert_close(union, torch.tensor([[7.0, 5, 4], [5, 2, 4]]))
    giou = generalized_box_iou(a[:, None], b[None])
    expected = torch.tensor([[1 / 7 - 2 / 9, -5 / 10, 1], [-4 / 9, -3 / 5, 1 / 4]])
    torch.testing.assert_close(giou, expected)


def test_boxes_without_area_give_no_nan():
    point = torch.tensor([[1.0, 1, 1, 1]])
    assert box_iou(point, point)[0].item() == 0
    assert generalized_box_iou(point, point).isfinite().all()


def test_cells_are_covered_by_the_share_that_lies_in_the_box():
    boxes = torch.tensor([[5.0, 0, 15, 5], [-3, -3, 99, 99]])
    coverage = cell_coverage(boxes, (20, 30), (2, 3))
    expected = torch.tensor([[[0.25, 0.25, 0], [0, 0, 0]], [[1, 1, 1], [1, 1, 1]]])
    torch.testing.assert_close(coverage, expected)
    assert coverage[0].mean().item() == pytest.approx(10 * 5 / (20 * 30))
