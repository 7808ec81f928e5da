"""A small data set and model that bring together what single tests leave apart.

Images that are not square and differ in size, ids with holes, an image without boxes, one with more
boxes than queries, crowds, a box that reaches out of its image; dropout, a backbone that trains, a
rate of its own for it, augmentation. A training takes a second or two.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from detrnb import Config

CATEGORIES = {3: "star", 7: "cross", 20: "ring"}
QUERIES = 4
SIZES = [(96, 64), (64, 112), (80, 72), (120, 56), (72, 104), (100, 90), (64, 80), (88, 60)]
IMAGE_IDS = {"train2017": [2, 5, 11, 12, 40, 41, 73, 90], "val2017": [1, 8, 9, 33, 50]}
NUM_BOXES = [1, 0, 7, 2, 3, 1, 2, 1]  # by place in a split; crowds come on top
CROWDED = (3, 4)  # places of the images that have one

# Half a side around the middle: where the boxes of an untrained model are, so that AP is not 0.
_MIDDLE = (0.25, 0.25, 0.5, 0.5)


def write(project: Path) -> None:
    """Make the data set in a project's folder, as `data/nasty`."""
    random = np.random.RandomState(3)
    root = project / "data" / "nasty"
    (root / "annotations").mkdir(parents=True)
    for split, ids in IMAGE_IDS.items():
        (root / split).mkdir()
        images, annotations = [], []
        for place, image_id in enumerate(ids):
            width, height = SIZES[place]
            name = f"{image_id:06d}.png"
            pixels = random.randint(0, 256, (height, width, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / split / name)
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
            shares = [_MIDDLE, *random.uniform(0.1, 0.45, (NUM_BOXES[place], 4))]
            for x, y, w, h in shares[: NUM_BOXES[place]]:
                bbox = [float(v) for v in (x * width, y * height, w * width, h * height)]
                annotations.append(_annotation(image_id, place + len(annotations), bbox, 0))
            if place in CROWDED:
                annotations.append(_annotation(image_id, 0, [0.0, 0.0, width / 2, 9.0], 1))
            if place == 0:
                annotations[-1]["bbox"][2] = float(width)  # reaches out to the right
        for number, annotation in enumerate(annotations):
            annotation["id"] = 100 + 3 * number
        content = {
            "images": images[::-1],  # not in order of their ids
            "annotations": annotations,
            "categories": [{"id": i, "name": name} for i, name in CATEGORIES.items()],
        }
        file = root / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps(content))


def _annotation(image_id: int, kind: int, bbox: list[float], crowd: int) -> dict:
    category = list(CATEGORIES)[kind % len(CATEGORIES)]
    area = bbox[2] * bbox[3]
    return {
        "image_id": image_id,
        "category_id": category,
        "bbox": bbox,
        "area": area,
        "iscrowd": crowd,
    }


def config(**settings: object) -> Config:
    """The nasty run; settings by dotted name, with `__` for the dot."""
    nasty = {
        "data.path": "data/nasty",
        "data.contiguous_labels": True,
        "data.train_sizes": (64, 88),
        "data.eval_size": 72,
        "data.max_size": 128,
        "data.crop": False,
        "data.flip": True,
        "data.num_workers": 0,
        "model.num_classes": None,
        "model.num_queries": QUERIES,
        "model.backbone": "resnet18",
        "model.backbone_weights": "none",
        "model.d_model": 32,
        "model.num_heads": 4,
        "model.num_encoder_layers": 2,
        "model.num_decoder_layers": 2,
        "model.dim_feedforward": 48,
        "model.dropout": 0.3,
        "train.epochs": 3,
        "train.batch_size": 3,
        "train.lr": 1e-3,
        "train.lr_backbone": 1e-5,
        "train.lr_drop": 2,
        "train.precision": "fp32",
    }
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    return Config.preset("coco", overrides=nasty | dotted)
