"""Boxes on images: data, detections beside ground truth, the matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from detrnb.plots.style import INK, OBJECT_COLOURS, STYLE

ClassNames = Mapping[int, str] | Sequence[str]


@STYLE
def plot_images(
    images: Sequence,
    boxes: Sequence | None = None,
    labels: Sequence | None = None,
    class_names: ClassNames | None = None,
    titles: Sequence[str] | None = None,
    columns: int = 4,
) -> Figure:
    """Images in a grid, with their boxes where given.

    Args:
        images: Each (H, W, 3) or (3, H, W), uint8.
        boxes: Per image (G, 4) xyxy, pixels.
        labels: Per image (G,) class indices; they colour and name the boxes.

    Raises:
        ValueError: No images, or one of another shape or type.
    """
    pictures = [_pixels(image) for image in images]
    figure, axes = _image_grid(pictures, -(-len(pictures) // columns), columns)
    for i, (ax, picture) in enumerate(zip(axes.flat, pictures, strict=False)):
        _show(ax, picture, titles[i] if titles else "")
        known = _array(labels[i]) if labels is not None else None
        for g, box in enumerate(_array(boxes[i]).reshape(-1, 4) if boxes is not None else ()):
            colour = OBJECT_COLOURS[0] if known is None else _class_colour(class_names, known[g])
            _draw_box(ax, box, colour)
            if known is not None:
                _tag(ax, picture, box, _class_name(class_names, known[g]), colour)
    return figure


@STYLE
def plot_detections(
    images: Sequence,
    targets: Sequence[Mapping],
    detections: Sequence[Mapping],
    class_names: ClassNames,
    *,
    score_threshold: float = 0.5,
    columns: int = 4,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Ground truth (white, dashed) above what the model found in the same images.

    The same dashed boxes lie under the detections, so that what was missed shows.

    Args:
        images: Each (H, W, 3) or (3, H, W), uint8.
        targets: Per image ``boxes`` (G, 4) xyxy pixels and ``labels`` (G,).
        detections: Per image ``scores`` (Q,), ``labels`` (Q,) and ``boxes`` (Q, 4) xyxy pixels.
        score_threshold: Detections with less are left out.

    Raises:
        ValueError: No images, or one of another shape or type.
    """
    pictures = [_pixels(image) for image in images]
    columns = min(columns, len(pictures))
    figure, axes = _image_grid(pictures, 2 * -(-len(pictures) // max(columns, 1)), columns)
    for i, picture in enumerate(pictures):
        row, column = 2 * (i // columns), i % columns
        above, below = axes[row, column], axes[row + 1, column]
        _show(above, picture, titles[i] if titles else "")
        _show(below, picture)
        if column == 0:
            above.set_ylabel("ground truth")
            below.set_ylabel(f"detections, score ≥ {score_threshold:g}")
        _draw_targets(above, picture, targets[i], class_names)
        _draw_targets(below, picture, targets[i], None)
        _draw_detections(below, picture, detections[i], class_names, score_threshold)
    return figure


def _draw_targets(
    ax: Axes, picture: np.ndarray, target: Mapping, class_names: ClassNames | None
) -> None:
    labels = _array(target["labels"])
    for box, label in zip(_array(target["boxes"]).reshape(-1, 4), labels, strict=True):
        _draw_box(ax, box, "white", width=1.1, style=(0, (4, 2)))
        if class_names is not None:
            _tag(ax, picture, box, _class_name(class_names, label), "white")


def _draw_detections(
    ax: Axes, picture: np.ndarray, found: Mapping, class_names: ClassNames, threshold: float
) -> None:
    scores, labels = _array(found["scores"]), _array(found["labels"])
    boxes_xyxy = _array(found["boxes"]).reshape(-1, 4)
    for i in np.argsort(scores, kind="stable"):  # the surest last, on top
        if scores[i] >= threshold:
            colour = _class_colour(class_names, labels[i])
            _draw_box(ax, boxes_xyxy[i], colour)
            name = _class_name(class_names, labels[i])
            _tag(ax, picture, boxes_xyxy[i], f"{name} {scores[i]:.2f}", colour)


@STYLE
def plot_matching(
    image: object,
    queries_xyxy: object,
    targets_xyxy: object,
    pairs: tuple[Sequence[int], Sequence[int]],
    labels: Sequence[int] | None = None,
    class_names: ClassNames | None = None,
    title: str = "",
) -> Figure:
    """Which query the Hungarian matching gave to which target.

    Args:
        image: (H, W, 3) or (3, H, W), uint8.
        queries_xyxy: (Q, 4) predicted boxes, pixels.
        targets_xyxy: (G, 4) ground truth, pixels.
        pairs: Query indices and target indices of equal length, as the matcher gives them.
        labels: (G,) classes of the targets, written beside them.
    """
    picture = _pixels(image)
    queries, targets = (_array(b).reshape(-1, 4) for b in (queries_xyxy, targets_xyxy))
    query_of = {int(g): int(q) for q, g in zip(*map(_array, pairs), strict=True)}
    figure, axes = _image_grid([picture], 1, 1, width=5.0)
    ax = axes[0, 0]
    _show(ax, picture, title)
    for q in sorted(set(range(len(queries))) - set(query_of.values())):
        _draw_box(ax, queries[q], "#D0D0D0", width=0.8, alpha=0.6, edge=0.0)
    for g, target in enumerate(targets):
        colour = OBJECT_COLOURS[g % len(OBJECT_COLOURS)]
        _draw_box(ax, target, colour, width=2.2)
        if labels is not None:
            _tag(ax, picture, target, _class_name(class_names, labels[g]), colour)
        if g in query_of:
            query = queries[query_of[g]]
            _draw_box(ax, query, colour, width=1.4, style=(0, (3, 2)))
            ends = np.stack([_centre(target), _centre(query)], axis=1)
            ax.plot(*ends, color=colour, marker="o", markersize=3.5, path_effects=_halo(1.5))
    _explain_matching(figure)
    return figure


def _explain_matching(figure: Figure) -> None:
    kinds = {
        "target": (INK, "-", 2.2),
        "its query": (INK, "--", 1.4),
        "query without target: “no object”": ("#B8B8B8", "-", 0.8),
    }
    handles = [
        Line2D([], [], color=colour, linestyle=style, linewidth=width, label=name)
        for name, (colour, style, width) in kinds.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)


def _image_grid(
    pictures: list[np.ndarray], rows: int, columns: int, width: float = 2.3
) -> tuple[Figure, np.ndarray]:
    """Bare axes (rows, columns), each about ``width`` inches wide and as high as the images."""
    if not pictures:
        raise ValueError("no images to plot")
    columns = min(columns, len(pictures))
    height = width * max(p.shape[0] / p.shape[1] for p in pictures) + 0.25
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width * columns + 0.3, height * rows),
        squeeze=False,
        layout="compressed",  # no gaps around images of a fixed shape
    )
    plt.close(figure)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return figure, axes


def _show(ax: Axes, picture: np.ndarray, title: str = "") -> None:
    ax.imshow(picture, interpolation="bicubic")
    ax.set_title(title, fontsize=8.5)
    ax.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))
    ax.autoscale(False)


def _draw_box(
    ax: Axes,
    box_xyxy: np.ndarray,
    colour: str,
    width: float = 1.8,
    style: object = "-",
    alpha: float = 1.0,
    edge: float = 1.2,
) -> None:
    """A box outline with a dark edge of ``edge`` points, so that it shows on any photograph."""
    x0, y0, x1, y1 = (float(v) for v in box_xyxy)
    look = {"edgecolor": colour, "linewidth": width, "linestyle": style, "alpha": alpha}
    effects = _halo(width + edge) if edge else None
    ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, path_effects=effects, **look))


def _draw_anchor(ax: Axes, anchor: np.ndarray, colour: str) -> None:
    """What a box is relative to: a dashed box (4,), or a cross at a point (2,)."""
    if len(anchor) == 4:
        _draw_box(ax, anchor, colour, width=1.2, style=(0, (3, 2)))
    else:
        look = {"marker": "P", "markersize": 7, "markeredgecolor": "black", "markeredgewidth": 0.6}
        ax.plot(*anchor, color=colour, **look)


def _halo(width: float) -> list:
    return [patheffects.Stroke(linewidth=width, foreground="#00000090"), patheffects.Normal()]


def _tag(ax: Axes, picture: np.ndarray, box_xyxy: np.ndarray, text: str, colour: str) -> None:
    """A label on the box's upper edge, kept inside the image."""
    H, W, _ = picture.shape
    x0, y0, x1, _ = (float(v) for v in box_xyxy)
    right = (x0 + x1) / 2 > 0.6 * W
    ax.text(
        min(x1, W - 1) if right else max(x0, 0),
        max(y0, 0.09 * H),
        text,
        ha="right" if right else "left",
        va="bottom",
        fontsize=7,
        color="black",
        bbox={
            "facecolor": colour,
            "alpha": 0.85,
            "pad": 0.8,
            "edgecolor": "black",
            "linewidth": 0.4,
        },
    )


def _centre(box_xyxy: np.ndarray) -> np.ndarray:
    return (box_xyxy[:2] + box_xyxy[2:]) / 2


def _named(class_names: ClassNames | None) -> Mapping[int, str]:
    """Names by class index; COCO's have gaps, so they come as a mapping."""
    return class_names if isinstance(class_names, Mapping) else dict(enumerate(class_names or ()))


def _class_name(class_names: ClassNames | None, label: int) -> str:
    return _named(class_names).get(int(label), f"class {int(label)}")


def _class_colour(class_names: ClassNames | None, label: int) -> str:
    """By place among the names, so that few classes never share a colour; else by index."""
    order = sorted(_named(class_names))
    place = order.index(int(label)) if int(label) in order else int(label)
    return OBJECT_COLOURS[place % len(OBJECT_COLOURS)]


def _array(values: object) -> np.ndarray:
    """A numpy array of a tensor on any device, an array or a list."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values  # numpy has no bfloat16
    return np.asarray(values)


def _pixels(image: object) -> np.ndarray:
    """(H, W, 3) uint8 of an image in either layout."""
    pixels = _array(image)
    if pixels.ndim == 3 and pixels.shape[-1] != 3 and pixels.shape[0] == 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
        raise ValueError(
            f"an image should be (H, W, 3) or (3, H, W) uint8, found {pixels.shape} "
            f"{pixels.dtype}; undo the normalisation first"
        )
    return pixels
