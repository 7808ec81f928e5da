"""Pictures: what is drawn, where and in which colour; nothing is rendered but once."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from detrnb import plots
from detrnb.plots.style import OBJECT_COLOURS, OTHER_COLOURS, VARIANT_COLOURS
from detrnb.runs.log import log_table

NAMES = {1: "one", 7: "seven"}
TARGET = {"boxes": torch.tensor([[2.0, 3.0, 12.0, 9.0]]), "labels": torch.tensor([7])}


@pytest.fixture
def image():
    """(H, W, 3) = (20, 30, 3)."""
    return np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)


def epochs(count, first=0):
    """A log of ``count`` epochs with two decoder layers."""
    lines = []
    for e in range(first, first + count):
        line = {"train_loss": 10.0 - e, "epoch": e}
        for layer, more in (("", 0.0), ("_0", 1.0)):
            for part in ("ce", "bbox", "giou"):
                line[f"train_loss_{part}{layer}"] = 3.0 - e / 10 + more
                line[f"test_loss_{part}{layer}"] = 4.0 - e / 10 + more
        numbers = [0.1 * e, 0.2 * e, *[-1.0] * 10]
        lines.append({**line, "test_loss": 12.0 - e, "test_coco_eval_bbox": numbers})
    return log_table(lines)


def rectangles(ax):
    return [patch for patch in ax.patches if isinstance(patch, Rectangle)]


def corners(patch):
    x, y = patch.get_xy()
    return [x, y, x + patch.get_width(), y + patch.get_height()]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_known_variants_have_colours_of_their_own():
    assert len({plots.variant_colour(name) for name in VARIANT_COLOURS}) == len(VARIANT_COLOURS)
    assert plots.variant_colour("detr") == "#4D4D4D"


def test_variant_colour_is_stable_and_ignores_order_of_parts():
    joined = plots.variant_colour("adaptive_res+efficient_attention")
    assert plots.variant_colour("efficient_attention+adaptive_res") == joined
    assert plots.variant_colour("linear") == "#999933"  # by crc32, the same in every process
    assert plots.variant_colour("linear") in OTHER_COLOURS


def test_images_are_drawn_in_either_layout(image):
    chw = torch.from_numpy(image).permute(2, 0, 1)
    figure = plots.plot_images([image, chw], titles=["a", "b"])
    assert [ax.get_title() for ax in figure.axes] == ["a", "b"]
    for ax in figure.axes:
        assert np.array_equal(ax.images[0].get_array(), image)


def test_images_fill_columns(image):
    figure = plots.plot_images([image] * 5, columns=3)
    assert figure.axes[0].get_gridspec().get_geometry() == (2, 3)
    assert [len(ax.images) for ax in figure.axes] == [1, 1, 1, 1, 1, 0]


def test_image_boxes_are_drawn_where_they_are_and_named(image):
    boxes, labels = [[[2, 3, 12, 9], [5, 5, 8, 9]], []], [[7, 3], []]
    figure = plots.plot_images([image, image], boxes, labels, NAMES)
    first, second = figure.axes
    assert [corners(patch) for patch in rectangles(first)] == boxes[0]
    assert texts(first) == ["seven", "class 3"]
    assert not rectangles(second) and not texts(second)


def test_image_boxes_need_no_labels(image):
    figure = plots.plot_images([image], [TARGET["boxes"]])
    assert len(rectangles(figure.axes[0])) == 1 and not texts(figure.axes[0])


@pytest.mark.parametrize("bad", [np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3), np.float32)])
def test_image_of_another_kind_is_refused(bad):
    with pytest.raises(ValueError, match=r"\(H, W, 3\) or \(3, H, W\) uint8, found \(4, 5"):
        plots.plot_images([bad])


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="no images"):
        plots.plot_images([])
    with pytest.raises(ValueError, match="no images"):
        plots.plot_detections([], [], [], NAMES)


def test_detections_stand_below_their_ground_truth(image):
    found = {
        "scores": torch.tensor([0.97, 0.49, 0.5], requires_grad=True),
        "labels": torch.tensor([7, 1, 1]),
        "boxes": torch.tensor([[1.0, 2, 11, 8], [0, 0, 3, 3], [20, 1, 29, 15]]),
    }
    nothing = {"scores": np.zeros(0), "labels": np.zeros(0, int), "boxes": np.zeros((0, 4))}
    figure = plots.plot_detections(
        [image] * 3, [TARGET] * 3, [found, nothing, nothing], NAMES, columns=2
    )
    assert figure.axes[0].get_gridspec().get_geometry() == (4, 2)
    above, _, below, _, *rest = figure.axes
    assert above.get_ylabel() == "ground truth" and below.get_ylabel() == "detections, score ≥ 0.5"
    assert texts(above) == ["seven"] and texts(below) == ["one 0.50", "seven 0.97"]
    (truth,) = rectangles(above)
    assert corners(truth) == [2, 3, 12, 9] and to_hex(truth.get_edgecolor()) == "#ffffff"
    assert truth.get_linestyle() != "-"
    also_truth, one, seven = rectangles(below)
    assert corners(also_truth) == corners(truth)
    assert corners(one) == [20, 1, 29, 15] and corners(seven) == [1, 2, 11, 8]
    # By place among the names: 1 and 7 are first and second.
    assert to_hex(one.get_edgecolor()) == OBJECT_COLOURS[0].lower()
    assert to_hex(seven.get_edgecolor()) == OBJECT_COLOURS[1].lower()
    assert [len(ax.images) for ax in rest] == [1, 0, 1, 0]


def test_detections_may_be_asked_for_at_another_score(image):
    found = {"scores": [0.3, 0.1], "labels": [1, 1], "boxes": [[0, 0, 5, 5], [1, 1, 4, 4]]}
    figure = plots.plot_detections([image], [TARGET], [found], ["zero", "one"], score_threshold=0.2)
    assert texts(figure.axes[1]) == ["one 0.30"]
    assert texts(figure.axes[0]) == ["class 7"]  # beyond the list of names


def test_tags_stay_inside_the_image(image):
    figure = plots.plot_images([image], [[[25, 0, 40, 5], [-4, 8, 3, 12]]], [[1, 1]], NAMES)
    right, left = figure.axes[0].texts
    assert right.get_ha() == "right" and right.get_position()[0] == 29
    assert right.get_position()[1] > 0
    assert left.get_ha() == "left" and left.get_position()[0] == 0


def test_matching_joins_each_target_with_its_query(image):
    queries = np.array([[0, 0, 4, 4], [10, 2, 20, 12], [6, 6, 8, 8]], float)
    targets = torch.tensor([[2.0, 2, 6, 6], [12, 4, 22, 14]])
    pairs = (torch.tensor([0, 1]), torch.tensor([1, 0]))  # query 0 takes target 1
    figure = plots.plot_matching(image, queries, targets, pairs, [1, 7], NAMES, "matching")
    ax = figure.axes[0]
    assert ax.get_title() == "matching" and texts(ax) == ["one", "seven"]
    unmatched, *matched = rectangles(ax)
    assert corners(unmatched) == [6, 6, 8, 8] and unmatched.get_alpha() < 1
    assert [corners(patch) for patch in matched] == [
        [2, 2, 6, 6],
        [10, 2, 20, 12],
        [12, 4, 22, 14],
        [0, 0, 4, 4],
    ]
    colours = [to_hex(patch.get_edgecolor()) for patch in matched]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    first, second = ax.lines
    assert first.get_xydata().tolist() == [[4, 4], [15, 7]]
    assert second.get_xydata().tolist() == [[17, 9], [2, 2]]
    assert [to_hex(line.get_color()) for line in ax.lines] == colours[::2]


def test_matching_of_an_image_without_objects_shows_only_queries(image):
    figure = plots.plot_matching(image, [[0, 0, 4, 4]], np.zeros((0, 4)), ([], []))
    assert len(rectangles(figure.axes[0])) == 1 and not figure.axes[0].lines


def test_curves_hold_the_logs_numbers():
    figure = plots.plot_curves({"toy-adaptive_res-s0-1a2b3c4d": epochs(3)})
    loss, ap, ap50 = figure.axes
    train, test = loss.lines
    assert train.get_xydata().tolist() == [[0, 10], [1, 9], [2, 8]]
    assert test.get_ydata().tolist() == [12, 11, 10]
    assert train.get_linestyle() == "--" and test.get_linestyle() == "-"
    assert ap.lines[0].get_ydata() == pytest.approx([0, 0.1, 0.2])
    assert ap50.lines[0].get_ydata() == pytest.approx([0, 0.2, 0.4])
    assert {line.get_color() for ax in figure.axes for line in ax.lines} == {
        plots.variant_colour("adaptive_res")
    }
    assert loss.get_ylabel() == "loss, weighted sum" and ap50.get_xlabel() == "epoch"


def test_curves_of_one_variant_share_a_colour_and_differ_by_marker():
    logs = {"DETR seed 0": epochs(2), "detr seed 1": epochs(3), "svd_split": epochs(2)}
    figure = plots.plot_curves(logs)
    first, second, third = figure.axes[1].lines
    assert first.get_color() == second.get_color() == plots.variant_colour("detr")
    assert first.get_marker() != second.get_marker()
    assert third.get_color() == plots.variant_colour("svd_split")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(logs)


@pytest.mark.parametrize("logs", [{}, {"detr": log_table([])}])
def test_curves_without_epochs_say_so(logs):
    figure = plots.plot_curves(logs)
    assert [texts(ax) for ax in figure.axes] == [["nothing logged yet"]] * 3


def test_curves_of_a_single_epoch_show_a_point_on_a_whole_epoch():
    ap = plots.plot_curves({"detr": epochs(1, first=4)}).axes[1]
    assert ap.lines[0].get_marker() == "o" and ap.lines[0].get_xdata().tolist() == [4]
    low, high = ap.get_xlim()
    assert [tick for tick in ap.get_xticks() if low < tick < high] == [4]


def test_curves_take_a_log_without_evaluation():
    figure = plots.plot_curves({"detr": pd.DataFrame({"train_loss": [3.0, 2.0]})})
    assert len(figure.axes[0].lines) == 1 and texts(figure.axes[1]) == ["nothing logged yet"]
    assert figure.legends[0].get_texts()[0].get_text() == "detr"


def test_ap_near_zero_is_not_blown_up():
    assert plots.plot_curves({"detr": epochs(1)}).axes[1].get_ylim() == (
        0,
        pytest.approx(0.055, abs=0.006),
    )


def test_loss_parts_have_a_panel_each_and_a_line_for_each_layer():
    figure = plots.plot_loss_parts(epochs(2))
    assert [ax.get_title(loc="left") for ax in figure.axes[:3]] == [
        "Class: cross-entropy",
        "Box: L1",
        "Box: GIoU",
    ]
    for ax, expected in zip(figure.axes, [3.0] * 3 + [4.0] * 3, strict=True):
        early, last = ax.lines
        assert early.get_ydata() == pytest.approx([expected + 1, expected + 0.9])
        assert last.get_ydata() == pytest.approx([expected, expected - 0.1])
        assert last.get_linewidth() > early.get_linewidth()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["layer 1", "last layer"]


def test_loss_parts_order_layers_by_number_beyond_nine():
    log = pd.DataFrame({f"train_loss_ce{i}": [0.0] for i in ("_10", "_9", "")})
    lines = plots.plot_loss_parts(log).axes[0].lines
    assert [line.get_label() for line in lines] == ["layer 10", "layer 11", "last layer"]


def test_loss_parts_without_epochs_say_so():
    figure = plots.plot_loss_parts(log_table([]))
    assert [texts(ax) for ax in figure.axes] == [["nothing logged yet"]] * 6


def test_loss_parts_of_another_models_log_name_its_columns():
    with pytest.raises(ValueError, match=r"no train_loss_ce.*train_loss_vfl"):
        plots.plot_loss_parts(pd.DataFrame({"train_loss_vfl": [1.0]}))


def test_error_kinds_keep_order_and_show_shares():
    ax = plots.plot_error_kinds({"right": 6, "missed": 1, "duplicate": 1}).axes[0]
    assert [bar.get_width() for bar in rectangles(ax)] == [6, 1, 1]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["right", "missed", "duplicate"]
    assert texts(ax) == ["6  (75%)", "1  (12%)", "1  (12%)"]
    assert ax.yaxis_inverted()  # the first on top


@pytest.mark.parametrize("kinds", [{}, {"right": 0}])
def test_error_kinds_may_be_empty(kinds):
    ax = plots.plot_error_kinds(kinds).axes[0]
    assert texts(ax) == ["0"] * len(kinds) and ax.get_xlim() == (0, 1)


def test_per_class_is_sorted_and_keeps_missing_classes_out_of_the_mean():
    per_class = {"one": 0.2, "nine": math.nan, "four": 0.4, "two": -1.0, "zero": 0.0}
    ax = plots.plot_per_class(per_class).axes[0]
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    assert names == ["four", "one", "zero", "nine", "two"]
    assert texts(ax) == ["0.40", "0.20", "0.00", "no ground truth", "no ground truth"]
    assert ax.get_title(loc="left") == "Mean AP 0.200 (dashed)"
    assert ax.lines[0].get_xdata() == pytest.approx([0.2, 0.2])


def test_figures_are_white_and_closed_whatever_the_notebooks_style():
    with plt.style.context("dark_background"):
        figure = plots.plot_curves({"detr": epochs(2)})
        figure.canvas.draw()
    assert to_hex(figure.get_facecolor()) == "#ffffff"
    ax = figure.axes[0]
    assert to_hex(ax.get_facecolor()) == "#ffffff"
    dark = [ax.title, ax.xaxis.label, *ax.get_xticklabels(), *figure.legends[0].get_texts()]
    assert all(sum(plt.matplotlib.colors.to_rgb(text.get_color())) < 1 for text in dark)
    assert plt.get_fignums() == []


def test_style_of_the_notebook_is_left_as_it_was():
    before = dict(plt.rcParams)
    plots.plot_error_kinds({"right": 1})
    assert dict(plt.rcParams) == before


def test_scaling_draws_infinite_values_on_top_and_skips_missing_ones():
    table = pd.DataFrame(
        {"svd_split, exact": [1.0, 2.0, np.inf], "detr": [3.0, 0.0, 5.0]}, index=[64, 256, 1024]
    )
    figure = plots.plot_scaling({"Norm": table, "MiB": table}, "positions")
    ax = figure.axes[0]
    assert ax.get_xscale() == ax.get_yscale() == "log" and ax.get_xlabel() == "positions"
    first, lost, second = ax.lines
    assert to_hex(first.get_color()).upper() == VARIANT_COLOURS["svd_split"]
    np.testing.assert_array_equal(first.get_ydata(), [1, 2, np.nan])
    assert lost.get_xdata().tolist() == [1024] and lost.get_label() == "svd_split, exact: infinite"
    np.testing.assert_array_equal(second.get_ydata(), [3, np.nan, 5])
    figure.canvas.draw()


def test_intervals_stand_in_rows_with_their_ends_and_variants_colours():
    table = pd.DataFrame({"mean": [0.1, -0.2], "low": [0.0, -0.3], "high": [0.3, 0.1]}, ["a", "b"])
    figure = plots.plot_intervals({"detr": table, "svd_split": table + 1}, "excess")
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    for container, colour, shift in zip(ax.containers, ("detr", "svd_split"), (0, 1), strict=True):
        points, _, (bars,) = container
        assert to_hex(points.get_color()).upper() == VARIANT_COLOURS[colour]
        np.testing.assert_allclose(np.asarray(points.get_xdata(), float), table["mean"] + shift)
        ends = np.stack([segment[:, 0] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends, table[["low", "high"]].to_numpy() + shift)
    figure.canvas.draw()
