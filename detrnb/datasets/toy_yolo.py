"""The toy set as YOLO's tools would keep it: a small foreign data set to try an import with."""

import json
import os
import tempfile
from collections import defaultdict
from pathlib import Path

from detrnb.datasets.toy import SETTINGS_FILE, SPLITS, make_toy
from detrnb.settings import ToyConfig


def make_toy_yolo(path: str | Path, settings: ToyConfig) -> Path:
    """Make the toy set in YOLO's layout, or find it made with the same settings.

    Args:
        path: the folder to make, wholly or not at all: `images/` and `labels/`, each with `train`,
            `val` and `test`, and `data.yaml`.
        settings: what is drawn.

    Returns:
        `path`.

    Raises:
        ValueError: `path` holds something else, or digits cannot be placed apart.
    """
    path = Path(path)
    if path.exists():
        if not _is_of(path, settings):
            raise ValueError(
                f"{path} is there already, and no toy set of these settings; choose another path"
            )
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as temporary:
        toy = make_toy(Path(temporary) / "toy", settings)
        made = Path(temporary) / "yolo"
        for split in SPLITS:
            (made / "labels" / split).mkdir(parents=True)
            (made / "images").mkdir(exist_ok=True)
            os.replace(toy / f"{split}2017", made / "images" / split)
            content = json.loads((toy / "annotations" / f"instances_{split}2017.json").read_text())
            for name, lines in _labels(content).items():
                (made / "labels" / split / f"{name}.txt").write_text("".join(lines))
        places = "".join(f"{split}: images/{split}\n" for split in SPLITS)
        names = json.dumps([str(digit) for digit in settings.digits])
        (made / "data.yaml").write_text(f"{places}names: {names}\n")
        os.replace(toy / SETTINGS_FILE, made / SETTINGS_FILE)
        os.replace(made, path)
    return path


def _is_of(path: Path, settings: ToyConfig) -> bool:
    """Whether a folder holds the set of these settings, in this layout."""
    try:
        found = json.loads((path / SETTINGS_FILE).read_text())
    except (OSError, ValueError):
        return False
    return (path / "data.yaml").is_file() and found.items() >= settings.model_dump(
        mode="json"
    ).items()


def _labels(content: dict) -> dict[str, list[str]]:
    """Stem of each image -> its lines: class, then centre and size as shares of the image."""
    boxes = defaultdict(list)
    for annotation in content["annotations"]:
        boxes[annotation["image_id"]].append(annotation)
    lines = {}
    for image in content["images"]:
        sides = image["width"], image["height"]
        lines[Path(image["file_name"]).stem] = [
            _line(box["category_id"] - 1, box["bbox"], sides) for box in boxes[image["id"]]
        ]
    return lines


def _line(number: int, xywh: list[float], sides: tuple[int, int]) -> str:
    x, y, w, h = xywh
    width, height = sides
    shares = (x + w / 2) / width, (y + h / 2) / height, w / width, h / height
    return " ".join([str(number), *(f"{share:.8g}" for share in shares)]) + "\n"
