"""What boxes are relative to, where queries have points or boxes of their own."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from detrnb.plots.attention import _bare_axes
from detrnb.plots.images import _array, _draw_anchor, _draw_box, _pixels, _show, _tag
from detrnb.plots.style import OBJECT_COLOURS, STYLE


@STYLE
def plot_anchors(
    image: object,
    anchors: Mapping[str, object],
    boxes_xyxy: Mapping[int, object],
    columns: int = 4,
    *,
    names: Mapping[int, str] | None = None,
    title: str = "",
) -> Figure:
    """Anchors layer by layer, and the boxes that come of them in the end.

    The image shows the boxes of some queries; each layer the same boxes, thin, with the queries'
    anchors in their colours, points as crosses and boxes dashed, and those of all other queries as
    small grey dots in their middle.

    Args:
        image: (H, W, 3) or (3, H, W), uint8.
        anchors: by title, such as a layer's: (Q, 2) points, x and y, or (Q, 4) boxes xyxy, in
            pixels.
        boxes_xyxy: by query (4,), in pixels: the predicted boxes of the queries to show.
        names: what is written on them.

    Raises:
        ValueError: no anchors, or a query that has none.
    """
    picture, layers = _pixels(image), {name: _array(x) for name, x in anchors.items()}
    if not layers:
        raise ValueError("no anchors to plot")
    count = min(len(x) for x in layers.values())
    unknown = [query for query in boxes_xyxy if not 0 <= query < count]
    if unknown:
        raise ValueError(f"no anchor of query {unknown[0]}; there are {count}, from 0")
    figure, (first, *axes) = _bare_axes(
        picture.shape, len(layers), columns, title, with_image=True, with_bar=False
    )
    _show(first, picture)
    colours = {q: OBJECT_COLOURS[i % len(OBJECT_COLOURS)] for i, q in enumerate(boxes_xyxy)}
    boxes = {query: _array(box) for query, box in boxes_xyxy.items()}
    for query, box in boxes.items():
        _draw_box(first, box, colours[query])
        if names is not None and query in names:
            _tag(first, picture, box, names[query], colours[query])
    for ax, (name, of_all) in zip(axes, layers.items(), strict=True):
        _show(ax, picture, name)
        ax.images[0].set_alpha(0.6)
        middles = of_all if of_all.shape[-1] == 2 else (of_all[:, :2] + of_all[:, 2:]) / 2
        others = [query for query in range(len(of_all)) if query not in boxes]
        look = {"color": "#DDDDDD", "edgecolors": "#404040", "linewidths": 0.5}
        ax.scatter(*middles[others].T, s=9, **look)
        for query, box in boxes.items():
            _draw_box(ax, box, colours[query], width=0.7, edge=0.6)
            _draw_anchor(ax, of_all[query], colours[query])
    return figure
