"""Attention on images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, LinearSegmentedColormap, Normalize, PowerNorm, to_rgb
from matplotlib.figure import Figure

from detrnb.plots.images import _array, _draw_anchor, _draw_box, _pixels, _show, _tag
from detrnb.plots.style import OBJECT_COLOURS, STYLE, as_text

_Samples = Mapping[str, tuple[object, object]]  # by map: positions, and their weights


@STYLE
def plot_attention_from_point(
    image: object,
    maps: Mapping[str, object],
    point: tuple[int, int],
    columns: int = 5,
    *,
    boxes_xyxy: object = (),
    samples: _Samples | None = None,
    title: str = "",
) -> Figure:
    """What one position of the feature map attends to: the image with the position, then maps.

    All maps share one colour scale, so that they can be compared; it is diverging where a value is
    negative.

    Args:
        image: (H, W, 3) or (3, H, W), uint8.
        maps: by title, each (h, w) of the feature map, drawn row by row: heads of one layer, say.
        point: row and column in the feature map.
        columns: maps in a row; the image stands to their left.
        boxes_xyxy: (G, 4) in pixels, outlined on the image and on every map.
        samples: as for `plot_cross_attention`.

    Raises:
        ValueError: no maps, maps of several shapes, or a point outside them; samples of none.
    """
    picture, values = _pixels(image), _equal_maps(maps)
    h, w = next(iter(values.values())).shape
    if not (0 <= point[0] < h and 0 <= point[1] < w):
        raise ValueError(f"point {point} lies outside the map of {h} rows and {w} columns")
    figure, (first, *axes) = _bare_axes(picture.shape, len(values), columns, title, with_image=True)
    _show(first, picture, f"from row {point[0]}, column {point[1]}")
    norm, signed = _shared_scale(values)
    look = {"norm": norm, "cmap": "RdBu_r" if signed else "viridis", "extent": _extent(picture)}
    for ax, (name, weights) in zip(axes, values.items(), strict=True):
        mappable = ax.imshow(weights, interpolation="nearest", **look)
        ax.set_title(name, fontsize=8.5)
    y, x = (
        (i + 0.5) * size / n - 0.5
        for i, size, n in zip(point, picture.shape[:2], (h, w), strict=True)
    )
    for ax in (first, *axes):
        for box in _array(boxes_xyxy).reshape(-1, 4):
            _draw_box(ax, box, "white", width=0.8, edge=0.6)
        ax.plot(x, y, marker="o", markersize=6, color="#FF2D2D", markeredgecolor="white")
    _draw_samples(dict(zip(values, axes, strict=True)), samples, picture)
    _colour_bar(figure, mappable)
    return figure


@STYLE
def plot_cross_attention(
    image: object,
    maps: Mapping[str, object],
    boxes_xyxy: object,
    columns: int = 4,
    *,
    names: Sequence[str] | None = None,
    anchors: object = (),
    samples: _Samples | None = None,
    title: str = "",
) -> Figure:
    """Where queries look, each beside the box it predicts, map and box in one colour.

    All maps share one scale: no colour is no attention, a full one the largest weight of all.

    Args:
        image: (H, W, 3) or (3, H, W), uint8.
        maps: by title, each (h, w) of the feature map: queries, or heads and layers of one query.
        boxes_xyxy: (len(maps), 4) in pixels, the box of each map's query; equal boxes get one
            colour.
        columns: maps in a row; the image with all boxes stands to their left.
        names: what is written on each box there.
        anchors: what each map's box is relative to, in pixels: (len(maps), 2) points, drawn as
            crosses, or (len(maps), 4) boxes xyxy, dashed.
        samples: of maps that come from a few sampled positions, by title: these, (P, 2) in pixels,
            and their weights (P,), drawn as dots with areas in proportion. What lies outside the
            image is counted in the map's title.

    Raises:
        ValueError: no maps, maps of several shapes, or another number of boxes or anchors; samples
            of none.
    """
    picture, values = _pixels(image), _equal_maps(maps)
    boxes, anchors = _array(boxes_xyxy).reshape(-1, 4), _array(anchors)
    for what, given in (("boxes", boxes), ("anchors", anchors)):
        if len(given) != len(values) and (len(given) or what == "boxes"):
            raise ValueError(
                f"{len(values)} maps but {len(given)} {what}; expected one for each map"
            )
    figure, (first, *axes) = _bare_axes(picture.shape, len(values), columns, title, with_image=True)
    _show(first, picture)
    norm, _ = _shared_scale(values)
    colours: dict[tuple, str] = {}
    grey = picture.mean(-1)
    for i, (ax, (name, weights)) in enumerate(zip(axes, values.items(), strict=True)):
        box = tuple(boxes[i])
        if box not in colours:
            colours[box] = OBJECT_COLOURS[len(colours) % len(OBJECT_COLOURS)]
            _draw_box(first, box, colours[box])
            if names is not None:
                _tag(first, picture, box, names[i], colours[box])
        rgb = to_rgb(colours[box])
        glow = LinearSegmentedColormap.from_list("", [(*rgb, 0), (*rgb, 1)])
        look = {"norm": norm, "cmap": glow, "extent": _extent(picture)}
        _show(ax, picture, name)
        ax.images[0].set(data=grey, cmap="gray", norm=Normalize(0, 450))
        ax.imshow(weights, interpolation="nearest", **look)
        _draw_box(ax, box, colours[box])
        if len(anchors):
            _draw_anchor(ax, anchors[i], "white")
    _draw_samples(dict(zip(values, axes, strict=True)), samples, picture)
    _colour_bar(figure, ScalarMappable(norm, "gray"))
    return figure


@STYLE
def plot_query_attention(
    maps: Mapping[str, object],
    names: Mapping[int, str] | None = None,
    columns: int = 4,
    *,
    query: int | None = None,
    title: str = "",
) -> Figure:
    """Attention among the queries: a row for each query, what it takes from each other.

    All maps share one colour scale.

    Args:
        maps: by title, each (Q, Q).
        names: what queries found; these come first, in this order, set off by a line.
        columns: maps in a row.
        query: one whose row is marked.

    Raises:
        ValueError: no maps, or maps of several shapes.
    """
    values, names = _equal_maps(maps), names or {}
    Q = len(next(iter(values.values())))
    order = [*names, *sorted(set(range(Q)) - names.keys())]
    figure, axes = _bare_axes((Q, Q), len(values), columns, title)
    norm, _ = _shared_scale(values)
    for i, (ax, (name, weights)) in enumerate(zip(axes, values.items(), strict=True)):
        weights = weights[np.ix_(order, order)]
        mappable = ax.imshow(weights, norm=norm, cmap="viridis", interpolation="nearest")
        ax.set_title(name, fontsize=8.5)
        if i % columns == 0:
            found = [as_text(f"{q}: {what}") for q, what in names.items()]
            ax.set_yticks(range(len(found)), found, fontsize=7)
        if 0 < len(names) < Q:
            for draw in (ax.axhline, ax.axvline):
                draw(len(names) - 0.5, color="white", linewidth=0.9)
        if query is not None:
            row = order.index(query)
            _draw_box(ax, np.array([-0.5, row - 0.5, Q - 0.5, row + 0.5]), "white", edge=0.9)
    _colour_bar(figure, mappable)
    return figure


def _draw_samples(axes: Mapping[str, Axes], samples: _Samples | None, picture: np.ndarray) -> None:
    """Dots on the maps of these titles, whose titles tell what does not fit on."""
    unknown = (samples or {}).keys() - axes.keys()
    if unknown:
        raise ValueError(f"samples of {', '.join(sorted(unknown))}; maps: {', '.join(axes)}")
    H, W, _ = picture.shape
    for title, (points, weights) in (samples or {}).items():
        ax, points, weights = axes[title], _array(points), _array(weights)
        x, y = points.T
        outside = ((x < 0) | (x > W) | (y < 0) | (y > H)).sum()
        look = {"color": "white", "edgecolors": "black", "linewidths": 0.7, "zorder": 3}
        # A position is a share of the area, whose first pixel's centre is drawn at 0.
        ax.scatter(x - 0.5, y - 0.5, s=110 * weights, **look)
        if outside:
            told = f"{outside} of {len(points)} outside"
            ax.set_title(f"{title}, {told}" if title else told, fontsize=8.5)


def _equal_maps(maps: Mapping[str, object]) -> dict[str, np.ndarray]:
    """The maps as arrays, seen to be one or more of one shape."""
    values = {title: _array(x) for title, x in maps.items()}
    shapes = {x.shape for x in values.values()}
    if len(shapes) != 1 or {len(shape) for shape in shapes} != {2}:
        found = ", ".join(map(str, sorted(shapes))) or "none"
        raise ValueError(f"maps should be one or more of one shape (h, w), found {found}")
    return values


def _shared_scale(values: Mapping[str, np.ndarray]) -> tuple[Normalize, bool]:
    """One colour scale for all maps, and whether it is diverging, since some value is negative.

    Attention spans decades: one head looks at a single cell, the next at all of them. A square root
    shows both.
    """
    largest = max(np.abs(x).max() for x in values.values())
    if min(x.min() for x in values.values()) < -1e-6:
        return CenteredNorm(halfrange=largest), True
    return PowerNorm(0.5, 0, largest), False


def _bare_axes(
    shape: tuple[int, ...],
    count: int,
    columns: int,
    title: str,
    *,
    with_image: bool = False,
    with_bar: bool = True,
) -> tuple[Figure, list[Axes]]:
    """Axes without ticks for pictures (H, W), row by row; before them one for the image.

    They are placed by hand: the shape is known, and a layout engine would take most of the time of
    drawing, which somebody waits for in `explore`.

    Args:
        with_image: one more, to the left of all, as high as three rows at most.
        with_bar: whether there is a margin for `_colour_bar`.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    span = min(rows, 3) if with_image else 0
    width, gap, heading = 1.75, 0.1, 0.27  # inches
    height = width * shape[0] / shape[1]
    left, right = gap if with_image else 1.0, 0.8 if with_bar else 0.0  # names of rows, the bar
    top = 0.02 + 0.18 * len(title.splitlines())
    full_width = left + (span + columns) * (width + gap) + right
    full_height = top + rows * (heading + height) + gap
    figure = plt.figure(figsize=(full_width, full_height))
    plt.close(figure)

    def add(row: int, column: int, times: int = 1) -> Axes:
        x, y = left + column * (width + gap), top + row * (heading + height) + heading
        w, h = times * (width + gap) - gap, times * (heading + height) - heading
        box = (x / full_width, 1 - (y + h) / full_height, w / full_width, h / full_height)
        ax = figure.add_axes(box, xticks=[], yticks=[], anchor="N")
        ax.spines[:].set_visible(False)
        return ax

    axes = [add(0, 0, span)] if with_image else []
    axes += [add(i // columns, span + i % columns) for i in range(count)]
    figure.suptitle(title, fontsize=10, y=1 - 0.05 / full_height, va="top")
    return figure, axes


def _extent(picture: np.ndarray) -> tuple[float, float, float, float]:
    """Where a map lies that covers the whole image."""
    return -0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5


def _colour_bar(figure: Figure, mappable: ScalarMappable) -> None:
    """Into the margin that `_bare_axes` leaves at the right."""
    width, height = figure.get_size_inches()
    boxes = [ax.get_position() for ax in figure.axes]
    low, high = min(box.y0 for box in boxes), max(box.y1 for box in boxes)
    ax = figure.add_axes((1 - 0.75 / width, low, 0.12 / width, high - low))
    bar = figure.colorbar(mappable, cax=ax)
    bar.set_label("attention weight", fontsize=8)
    bar.ax.tick_params(labelsize=7)
