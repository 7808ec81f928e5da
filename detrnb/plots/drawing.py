"""Detections drawn into the picture itself, pixel for pixel."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detrnb.plots.style import OBJECT_COLOURS

_LINES = 250  # of the picture's short side is one line's width; letters are some times that


def draw_detections(
    picture: Image.Image,
    boxes: np.ndarray,
    labels: Sequence[int],
    scores: Sequence[float],
    class_names: Sequence[str],
) -> Image.Image:
    """A copy of a picture with boxes, each with its class and score.

    Args:
        boxes: (n, 4) xyxy in pixels.
        labels, scores: (n,); the surest is drawn last, on top.
    """
    drawn = picture.copy()
    draw = ImageDraw.Draw(drawn)
    width = max(1, round(min(picture.size) / _LINES))
    font = ImageFont.load_default(max(10, 6 * width + 4))
    for at in np.argsort(np.asarray(scores), kind="stable").tolist():
        label = int(labels[at])
        colour = OBJECT_COLOURS[label % len(OBJECT_COLOURS)]
        left, upper, right, lower = (float(side) for side in boxes[at])
        draw.rectangle((left, upper, max(left, right), max(upper, lower)), None, colour, width)
        text = f"{class_names[label]} {scores[at]:.2f}"
        extent = draw.textbbox((0, 0), text, font)
        place = max(0.0, left), max(0.0, upper - extent[3] - 2)
        frame = (*place, place[0] + extent[2] + 4, place[1] + extent[3] + 2)
        draw.rectangle(frame, colour)
        draw.text((place[0] + 2, place[1]), text, "black", font)
    return drawn
