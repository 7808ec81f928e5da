"""The reference's model beside ours: equal weights, equal images, the steps that each takes.

`--reference CLONE` names a clone of facebookresearch/detr (commit 29901c5); without one ours is
measured alone, and that is said.
"""

import importlib
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from timing import DEVICE
from torch import Tensor, nn

from detrnb.loss import Targets
from detrnb.model import build_criterion, build_detr
from detrnb.settings import Config
from detrnb.training import build_optimizer, make_accelerator, train_one_epoch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = ((800, 1088), (736, 1024))  # height and width of a batch's two images
OPTIONS = {
    **{"lr_backbone": 1e-5, "masks": False, "backbone": "resnet50", "dilation": False},
    **{"position_embedding": "sine", "hidden_dim": 256, "dropout": 0.1, "nheads": 8},
    **{"dim_feedforward": 2048, "enc_layers": 6, "dec_layers": 6, "pre_norm": False},
    **{"num_queries": 100, "aux_loss": True, "dataset_file": "coco", "frozen_weights": None},
    **{"set_cost_class": 1, "set_cost_bbox": 5, "set_cost_giou": 2, "bbox_loss_coef": 5},
    **{"giou_loss_coef": 2, "eos_coef": 0.1},
}


def ours() -> tuple[nn.Module, nn.Module]:
    """The `coco` preset's model and criterion, from seed 0."""
    torch.manual_seed(0)
    config = Config.preset("coco").model
    return build_detr(config).place(DEVICE), build_criterion(config).to(DEVICE)


def theirs(clone: Path, weights: dict[str, Tensor] | None = None) -> tuple[nn.Module, nn.Module]:
    """The reference's model with these weights or random ones, and its criterion."""
    sys.path.insert(0, str(clone))
    version = torchvision.__version__
    torchvision.__version__ = "0.9.0"  # it compares the first three letters as a number
    try:
        models = importlib.import_module("models")
    finally:
        torchvision.__version__ = version
    # Else it downloads the weights that are filled in below.
    sys.modules["models.backbone"].is_main_process = lambda: False
    model, criterion, _ = models.build_model(Namespace(**OPTIONS, device=str(DEVICE)))
    if weights is not None:
        model.load_state_dict(weights)
    return model.to(DEVICE), criterion.to(DEVICE)


def batch(sizes: tuple[tuple[int, int], ...] = SIZES) -> tuple[Tensor, Tensor, Targets]:
    """Images of these sizes as the loader gives them, seven boxes each."""
    generator = torch.Generator().manual_seed(0)
    H, W = (max(side) for side in zip(*sizes, strict=True))
    images = torch.zeros(len(sizes), 3, H, W, dtype=torch.uint8)
    mask, targets = torch.ones(len(sizes), H, W, dtype=torch.bool), []
    for i, (h, w) in enumerate(sizes):
        images[i, :, :h, :w] = torch.randint(0, 256, (3, h, w), generator=generator)
        mask[i, :h, :w] = False
        labels = torch.randint(1, 91, (7,), generator=generator).to(DEVICE)
        boxes = (0.2 + 0.4 * torch.rand(7, 4, generator=generator)).to(DEVICE)
        targets.append({"labels": labels, "boxes": boxes, "image_id": i})
    return images.to(DEVICE), mask.to(DEVICE), targets


def our_step(model: nn.Module, criterion: nn.Module) -> Callable[[], object]:
    """A step of `fit`, all of it but reading images."""
    train, given = Config.preset("coco").train, [batch()]
    optimizer, accelerator = build_optimizer(model, train), make_accelerator("fp32")
    clip = {"clip_max_norm": train.clip_max_norm}
    return lambda: train_one_epoch(model, criterion, given, optimizer, accelerator, 0, **clip)


def their_step(model: nn.Module, criterion: nn.Module) -> Callable[[], object]:
    """A step as the reference's engine and main take it."""
    train = Config.preset("coco").train
    backbone = [p for n, p in model.named_parameters() if "backbone" in n and p.requires_grad]
    others = [p for n, p in model.named_parameters() if "backbone" not in n]
    groups = [{"params": others}, {"params": backbone, "lr": train.lr_backbone}]
    optimizer = torch.optim.AdamW(groups, lr=train.lr, weight_decay=train.weight_decay)
    images, mask, targets = batch()
    samples = nested(images, mask)

    def step() -> None:
        model.train()
        losses = criterion(model(samples), targets)
        weights = criterion.weight_dict
        loss = sum(losses[name] * weights[name] for name in losses if name in weights)
        loss.item()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip_max_norm)
        optimizer.step()

    return step


def nested(images: Tensor, mask: Tensor) -> object:
    """A batch as the reference's model takes it."""
    mean, std = (torch.tensor(values, device=DEVICE)[:, None, None] for values in (MEAN, STD))
    normalized = ((images.float() / 255 - mean) / std).masked_fill(mask[:, None], 0.0)
    return sys.modules["util.misc"].NestedTensor(normalized, mask)


def check_equal(our_model: nn.Module, their_model: nn.Module) -> None:
    """Both predict alike in evaluation, or an AssertionError ends the measurement."""
    images, mask, _ = batch()
    with torch.no_grad():
        found = our_model.eval()(our_model.normalize(images, mask), mask)
        expected = their_model.eval()(nested(images, mask))
    for name in ("pred_logits", "pred_boxes"):
        torch.testing.assert_close(found[name], expected[name], atol=1e-3, rtol=1e-3)
