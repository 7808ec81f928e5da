"""Pictures of attention: which numbers are drawn, on which scale, beside which box."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import CenteredNorm, PowerNorm, to_hex
from matplotlib.patches import Rectangle

from detrnb import plots
from detrnb.plots.style import OBJECT_COLOURS

IMAGE = np.full((20, 30, 3), 90, np.uint8)  # (H, W, 3)
EVEN = np.full((2, 3), 1 / 6)  # a feature map of 2 rows and 3 columns
SHARP = torch.tensor([[0.0, 0, 0], [0, 0, 1]])


def corners(ax):
    """xyxy of each rectangle on an axis."""
    boxes = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    return [
        [*box.get_xy(), *np.add(box.get_xy(), (box.get_width(), box.get_height()))] for box in boxes
    ]


def titles(figure):
    return [ax.get_title() for ax in figure.axes]


def test_maps_from_a_point_show_numbers_point_and_boxes_on_one_scale():
    maps = {"head 1": EVEN, "head 2": SHARP}
    figure = plots.plot_attention_from_point(
        IMAGE, maps, (1, 2), boxes_xyxy=[[2, 3, 12, 9]], title="image 7"
    )
    first, one, two, bar = figure.axes
    assert figure.get_suptitle() == "image 7"
    assert titles(figure)[:3] == ["from row 1, column 2", "head 1", "head 2"]
    assert np.array_equal(one.images[0].get_array(), EVEN)
    assert np.array_equal(two.images[0].get_array(), SHARP)
    assert one.images[0].norm is two.images[0].norm
    assert isinstance(one.images[0].norm, PowerNorm) and one.images[0].norm.vmax == 1
    assert one.images[0].get_extent() == [-0.5, 29.5, 19.5, -0.5]
    for ax in (first, one, two):
        # The middle of the last of 3 columns in 30 pixels, of the second of 2 rows in 20.
        assert ax.lines[0].get_xydata().tolist() == [[24.5, 14.5]]
        assert corners(ax) == [[2, 3, 12, 9]]
    assert bar.get_ylabel() == "attention weight"


def test_maps_with_negative_values_share_a_diverging_scale():
    maps = {"attention": EVEN, "object": EVEN - SHARP.numpy(), "context": SHARP}
    figure = plots.plot_attention_from_point(IMAGE, maps, (0, 0))
    images = [ax.images[0] for ax in figure.axes[1:4]]
    assert {image.get_cmap().name for image in images} == {"RdBu_r"}
    assert {id(image.norm) for image in images} == {id(images[0].norm)}
    assert isinstance(images[0].norm, CenteredNorm) and images[0].norm(0) == 0.5
    assert images[0].norm.halfrange == 1


def test_small_multiples_stand_row_by_row_right_of_the_image():
    maps = {f"layer {i}, head {j}": EVEN for i in (1, 2, 3) for j in (1, 2)}
    figure = plots.plot_attention_from_point(IMAGE, maps, (0, 0), columns=2)
    first, *rest = [ax.get_position() for ax in figure.axes[:-1]]
    assert len({round(box.x0, 6) for box in rest}) == 2
    assert len({round(box.y0, 6) for box in rest}) == 3
    assert first.x1 < min(box.x0 for box in rest) and first.y1 == pytest.approx(rest[0].y1)
    assert first.width > 2 * rest[0].width


@pytest.mark.parametrize(
    ("maps", "point", "message"),
    [
        ({}, (0, 0), "found none"),
        ({"a": EVEN, "b": EVEN.T}, (0, 0), r"found \(2, 3\), \(3, 2\)"),
        ({"a": EVEN[None]}, (0, 0), r"one shape \(h, w\), found \(1, 2, 3\)"),
        ({"a": EVEN}, (0, 3), r"point \(0, 3\) lies outside the map of 2 rows and 3 columns"),
    ],
)
def test_maps_that_cannot_be_compared_are_refused(maps, point, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_attention_from_point(IMAGE, maps, point)


def test_cross_attention_has_map_and_box_in_one_colour_for_each_query():
    boxes = torch.tensor([[2.0, 3, 12, 9], [20, 1, 29, 15], [2, 3, 12, 9]])
    maps = {"query 4": EVEN, "query 9": SHARP, "query 4 again": SHARP}
    figure = plots.plot_cross_attention(
        IMAGE, maps, boxes, columns=3, names=["a cat", "a dog", "a cat"], title="layer 6"
    )
    first, *panels, bar = figure.axes
    assert titles(figure)[1:4] == list(maps) and figure.get_suptitle() == "layer 6"
    assert corners(first) == boxes[:2].tolist()  # each once
    assert [text.get_text() for text in first.texts] == ["a cat", "a dog"]
    norms = set()
    for ax, box, colour in zip(panels, boxes, [0, 1, 0], strict=True):
        assert corners(ax) == [box.tolist()]
        assert to_hex(ax.patches[0].get_edgecolor()) == OBJECT_COLOURS[colour].lower()
        glow = ax.images[1]
        norms.add(id(glow.norm))
        assert to_hex(glow.get_cmap()(1.0)) == OBJECT_COLOURS[colour].lower()
        assert glow.get_cmap()(0.0)[3] == 0
    assert len(norms) == 1
    assert np.array_equal(panels[0].images[1].get_array(), EVEN)
    assert bar.get_ylabel() == "attention weight"


def test_cross_attention_needs_a_box_for_each_map():
    with pytest.raises(ValueError, match="1 maps but 2 boxes; expected one for each map"):
        plots.plot_cross_attention(IMAGE, {"query 4": EVEN}, [[0, 0, 1, 1]] * 2)


def test_samples_are_dots_where_they_lie_as_large_as_their_weights():
    maps = {"query 4": EVEN, "query 9": SHARP}
    samples = {"query 9": ([[25, 5], [7, 15], [-3, 4]], torch.tensor([0.5, 0.125, 0.375]))}
    figure = plots.plot_cross_attention(IMAGE, maps, [[2, 3, 12, 9]] * 2, samples=samples)
    _, plain, sampled, _ = figure.axes
    assert not plain.collections
    (dots,) = sampled.collections
    # Pixel 0 reaches from -0.5 to 0.5: the middle of the last of 3 columns, of the first of 2 rows.
    assert dots.get_offsets().tolist() == [[24.5, 4.5], [6.5, 14.5], [-3.5, 3.5]]
    sizes = dots.get_sizes()
    assert sizes[0] / sizes[1] == 4 and sizes[2] / sizes[1] == 3
    assert titles(figure)[1:3] == ["query 4", "query 9, 1 of 3 outside"]
    assert sampled.get_xlim() == (-0.5, 29.5)  # the dot outside moves nothing
    figure = plots.plot_attention_from_point(IMAGE, maps, (0, 0), samples=samples)
    assert figure.axes[2].collections[0].get_offsets().tolist()[0] == [24.5, 4.5]
    with pytest.raises(ValueError, match="samples of query 5; maps: query 4, query 9"):
        plots.plot_cross_attention(
            IMAGE, maps, [[2, 3, 12, 9]] * 2, samples={"query 5": samples["query 9"]}
        )


@pytest.mark.parametrize("anchors", [[[7, 6], [20, 4]], [[1, 2, 13, 10], [18, 2, 22, 6]]])
def test_each_map_has_the_anchor_of_its_query(anchors):
    boxes = [[2, 3, 12, 9], [20, 1, 29, 15]]
    maps = {"query 4": EVEN, "query 9": SHARP}
    figure = plots.plot_cross_attention(IMAGE, maps, boxes, anchors=anchors)
    for ax, box, anchor in zip(figure.axes[1:3], boxes, anchors, strict=True):
        if len(anchor) == 2:
            assert corners(ax) == [box] and ax.lines[0].get_xydata().tolist() == [anchor]
        else:
            assert corners(ax) == [box, anchor] and not ax.lines
            assert [patch.get_linestyle() == "-" for patch in ax.patches] == [True, False]
    assert not figure.axes[0].lines and corners(figure.axes[0]) == boxes
    with pytest.raises(ValueError, match="2 maps but 1 anchors; expected one for each map"):
        plots.plot_cross_attention(IMAGE, maps, boxes, anchors=anchors[:1])


def test_anchors_of_some_queries_stand_out_in_every_layer():
    points = np.array([[[3, 4], [25, 7], [14, 9]], [[5, 4], [22, 7], [14, 12]]])  # layer, query
    boxes = {2: [10, 5, 20, 15], 0: [0, 0, 8, 9]}
    layers = {"layer 1": points[0], "layer 2": points[1]}
    figure = plots.plot_anchors(IMAGE, layers, boxes, names={2: "2: a cat"}, title="image 7")
    first, *axes = figure.axes
    assert figure.get_suptitle() == "image 7" and titles(figure) == ["", "layer 1", "layer 2"]
    assert corners(first) == list(boxes.values())
    assert [text.get_text() for text in first.texts] == ["2: a cat"]
    for ax, layer in zip(axes, points, strict=True):
        assert corners(ax) == list(boxes.values())
        assert [line.get_xydata()[0].tolist() for line in ax.lines] == layer[[2, 0]].tolist()
        assert ax.collections[0].get_offsets().tolist() == layer[[1]].tolist()
    colours = [
        [to_hex(x) for x in (ax.patches[0].get_edgecolor(), ax.lines[0].get_color())] for ax in axes
    ]
    assert colours == [[OBJECT_COLOURS[0].lower()] * 2] * 2


def test_anchors_that_are_boxes_are_dashed_and_others_have_a_dot_in_their_middle():
    layer = torch.tensor([[1.0, 2, 13, 10], [18, 2, 22, 8]])
    figure = plots.plot_anchors(IMAGE, {"every layer": layer}, {0: [2, 3, 12, 9]})
    ax = figure.axes[1]
    assert corners(ax) == [[2, 3, 12, 9], [1, 2, 13, 10]]
    assert [patch.get_linestyle() == "-" for patch in ax.patches] == [True, False]
    assert ax.collections[0].get_offsets().tolist() == [[20, 5]]


def test_anchors_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="no anchors to plot"):
        plots.plot_anchors(IMAGE, {}, {})
    with pytest.raises(ValueError, match="no anchor of query 2; there are 2, from 0"):
        plots.plot_anchors(IMAGE, {"": [[1, 2], [3, 4]]}, {2: [2, 3, 12, 9]})


def test_query_attention_puts_what_was_found_first():
    weights = np.arange(16.0).reshape(4, 4)
    figure = plots.plot_query_attention(
        {"head 1": weights, "head 2": weights}, {2: "seven 0.95", 0: "one 0.60"}, query=0
    )
    one, two, _ = figure.axes
    assert np.array_equal(one.images[0].get_array()[0], weights[2, [2, 0, 1, 3]])
    assert [label.get_text() for label in one.get_yticklabels()] == ["2: seven 0.95", "0: one 0.60"]
    assert len(two.get_yticks()) == 0
    assert one.lines[0].get_ydata()[0] == one.lines[1].get_xdata()[0] == 1.5
    assert corners(one) == [[-0.5, 0.5, 3.5, 1.5]]  # query 0 stands in the second row


def test_query_attention_needs_no_names():
    figure = plots.plot_query_attention({"": np.eye(3)})
    assert not figure.axes[0].lines and not figure.axes[0].patches


def test_pictures_are_closed_towards_pyplot():
    plots.plot_attention_from_point(IMAGE, {"a": EVEN}, (0, 0))
    plots.plot_query_attention({"": np.eye(3)})
    assert plt.get_fignums() == []
