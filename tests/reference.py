"""Weights, inputs and targets of tests/golden, made by its README's formulas."""

import functools
import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detrnb.model.detr import DETR, build_detr
from detrnb.settings.config import Config

GOLDEN = Path(__file__).parent / "golden"


def read(name: str) -> dict:
    """A golden file, json or npz."""
    path = GOLDEN / name
    return json.loads(path.read_text()) if name.endswith("json") else dict(np.load(path))


def weight(key: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """The tensor a state-dict key stands for."""
    x = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    if key.endswith("running_var"):
        x = 1 + 0.1 * abs(x)
    elif key.endswith("running_mean"):
        x = 0.1 * x
    elif len(shape) == 4:
        x = x * np.sqrt(2 / np.prod(shape[1:]))
    elif key == "query_embed.weight":
        pass
    elif len(shape) == 2:
        x = x / np.sqrt(shape[1])
    elif len(shape) == 1 and key.endswith("weight"):
        x = 0.5 + 0.05 * x if "backbone" in key else 1 + 0.1 * x
    else:
        x = 0.02 * x
    return torch.tensor(x, dtype=dtype)


@functools.cache
def state() -> dict[str, Tensor]:
    """All 458 tensors of the reference's model."""
    return {key: weight(key, tuple(shape)) for key, shape in read("state_keys.json").items()}


def model(**overrides: object) -> DETR:
    """The `coco` model with the golden weights."""
    config = Config.preset("coco", overrides={f"model.{k}": v for k, v in overrides.items()})
    detr = build_detr(config.model)
    detr.load_state_dict(state())
    return detr


def batch() -> tuple[Tensor, Tensor]:
    """Images (2, 3, 96, 128), the second smaller and padded, and the padding mask."""
    random = np.random.RandomState(7)
    images, mask = torch.zeros(2, 3, 96, 128), torch.ones(2, 96, 128, dtype=torch.bool)
    for i, (h, w) in enumerate([(96, 128), (80, 112)]):
        images[i, :, :h, :w] = torch.tensor(random.standard_normal((3, h, w)))
        mask[i, :h, :w] = False
    return images, mask


def _target(count: int, seed: int) -> dict[str, Tensor]:
    random = np.random.RandomState(seed)
    centre = 0.3 + 0.4 * random.random_sample((count, 2))
    size = 0.05 + 0.4 * random.random_sample((count, 2))
    boxes = torch.tensor(np.hstack([centre, size]), dtype=torch.float32)
    return {"labels": torch.tensor(random.randint(1, 91, count)), "boxes": boxes}


TARGETS = {
    "three_and_five": [_target(3, 11), _target(5, 12)],
    "four_and_none": [_target(4, 13), _target(0, 14)],
}


def mask_6x7() -> Tensor:
    """Padding (2, 42) of two maps of 6 rows and 7 columns: the second is valid on 4 and 5."""
    mask = torch.zeros(2, 6, 7, dtype=torch.bool)
    mask[1, 4:] = True
    mask[1, :, 5:] = True
    return mask.flatten(1)
