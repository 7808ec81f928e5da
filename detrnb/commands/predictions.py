"""What `detrnb predict` leaves: pictures, COCO's results, counts."""

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from detrnb.datasets import open_upright
from detrnb.plots import draw_detections, plot_thresholds
from detrnb.runs import write_whole
from detrnb.training import Found, Predictions


def write_predictions(found: Predictions, folder: Path, kept: Mapping[str, object]) -> None:
    """Write all of it into a folder.

    Args:
        kept: thresholds as from `Run.thresholds`; empty where one was given by hand.

    Raises:
        OSError: it cannot be written.
    """
    used = Counter(_stem(entry) for entry in found)
    for entry in found:
        stem = _stem(entry)
        name = stem if used[stem] == 1 else f"{stem}_{entry.image_id}"
        drawn = draw_detections(
            open_upright(entry.file), entry.boxes, entry.labels, entry.scores, found.class_names
        )
        save = partial(drawn.save, format="JPEG", quality=90)
        write_whole(folder / "pictures" / f"{name}.jpg", save)
    texts = {
        "predictions.json": json.dumps(found.to_coco()),
        "images.json": json.dumps(_images(found), indent=1),
        "counts.csv": _table(found),
    }
    for name, text in texts.items():
        write_whole(folder / name, lambda file, text=text: file.write(text.encode()))
    if kept:
        figure = plot_thresholds(kept)
        save = partial(figure.savefig, format="png", dpi=110, bbox_inches="tight")
        write_whole(folder / "thresholds.png", save)


def _stem(entry: Found) -> str:
    return entry.file.stem


def _images(found: Predictions) -> list[dict]:
    """Id, file and size of each image, as COCO has them."""
    return [
        {"id": e.image_id, "file_name": str(e.file), "width": e.size[0], "height": e.size[1]}
        for e in found
    ]


def _table(found: Predictions) -> str:
    """Detections of each class in each image, as comma-separated values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    labels = range(len(found.class_names))
    writer.writerow(["file", *found.class_names])
    for entry in found:
        times = Counter(entry.labels.tolist())
        writer.writerow([entry.file, *(times[label] for label in labels)])
    return text.getvalue()
