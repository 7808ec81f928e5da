"""A training step of the `toy` preset on features: its time, and the limit that products set.

    python bench/toy_step.py

Features and boxes are random, so that no data is needed; time is of one step without its reading.
"""

from collections.abc import Callable

import torch
from limit import products_of, seconds_of_products
from timing import DEVICE, arguments, medians

from detrnb.model import build_criterion, build_detr
from detrnb.settings import Config
from detrnb.training import build_optimizer, make_accelerator, train_one_epoch


def step(variant: str = "detr") -> Callable[[], object]:
    """A step of `fit` on a batch of random features."""
    config = Config.preset("toy", variant=variant)
    generator, images = torch.Generator().manual_seed(0), config.train.batch_size
    torch.manual_seed(0)
    model = build_detr(config.model, train_backbone=False).place(DEVICE)
    criterion = build_criterion(config.model).to(DEVICE)
    side = config.data.toy.image_size // config.model.stride
    channels = model.backbone[0].body.num_channels
    features = torch.randn(images, channels, side, side, generator=generator).to(DEVICE)
    targets = [
        {
            "labels": torch.randint(0, 4, (1 + i % 4,), generator=generator).to(DEVICE),
            "boxes": (0.2 + 0.4 * torch.rand(1 + i % 4, 4, generator=generator)).to(DEVICE),
            "image_id": i,
        }
        for i in range(images)
    ]
    optimizer, accelerator = build_optimizer(model, config.train), make_accelerator("fp32")
    clip = {"clip_max_norm": config.train.clip_max_norm}
    given = [(features, None, targets)]
    return lambda: train_one_epoch(model, criterion, given, optimizer, accelerator, 0, **clip)


def results(repeats: int = 7) -> dict[str, float]:
    """Seconds of a step, of its products alone, and their share."""
    take = step()
    take()
    (seconds,) = medians([take], repeats)
    products = seconds_of_products(products_of(take), repeats)
    return {"step_s": seconds, "products_s": products, "share_of_limit": products / seconds}


if __name__ == "__main__":
    found = results(arguments(__doc__).repeats)
    print("\n".join(f"{name:16} {value:8.4f}" for name, value in found.items()))
