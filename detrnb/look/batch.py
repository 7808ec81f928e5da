"""The batch as the model sees it: augmented, resized, padded, with its boxes."""

import torch
from matplotlib.figure import Figure

from detrnb.boxes import cxcywh_to_xyxy
from detrnb.datasets import CocoDataset, make_loader, open_split
from detrnb.plots import plot_images
from detrnb.settings import Config


def plot_batch(config: Config, epoch: int = 0, most: int = 16) -> Figure:
    """Images of the first batch of an epoch as training sees them, boxes and classes drawn.

    Args:
        epoch: from 0; on it order and augmentation depend.
        most: images at most.

    Raises:
        ValueError: the data cannot be read.
    """
    data, train = config.data, config.train
    dataset = open_split(data, data.train_split, train=True, seed=train.seed)
    dataset.set_epoch(epoch)
    loader = make_loader(
        dataset,
        train.batch_size,
        num_workers=0,
        seed=train.seed,
        accumulate=train.accumulate,
        group_by_aspect=data.group_by_aspect,
    )
    loader.batch_sampler.set_epoch(epoch)
    images, _, targets = next(iter(loader))
    targets = targets[:most]
    boxes = []
    for target in targets:
        height, width = target["size"]
        boxes.append(cxcywh_to_xyxy(target["boxes"]) * torch.tensor([width, height] * 2))
    return plot_images(
        list(images[:most]),
        boxes,
        [target["labels"] for target in targets],
        dataset.class_names,
        [_title(dataset, target) for target in targets],
    )


def _title(dataset: CocoDataset, target: dict) -> str:
    """An image's id, and its size before and after."""
    (height, width), (new_height, new_width) = target["orig_size"], target["size"]
    return f"{target['image_id']}: {width}×{height} → {new_width}×{new_height}"
