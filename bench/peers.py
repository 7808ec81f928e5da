"""DETR by the reference and by transformers, beside ours: equal weights, images and settings.

The reference is a clone of facebookresearch/detr (commit 29901c5) that `--reference CLONE` names.
transformers' `DetrForObjectDetection` trains the stages of its backbone that the reference and ours
do. Whoever is not there is left out.
"""

import importlib
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from timing import DEVICE, NO_REFERENCE, Findings, Options
from torch import Tensor, nn

from detrnb.exchange import export_to_transformers
from detrnb.loss import Targets
from detrnb.model import build_criterion, build_detr
from detrnb.settings import Config
from detrnb.training import Run, build_optimizer, make_accelerator, train_one_epoch

COCO = Config.preset("coco")
SIZES = ((800, 1088), (736, 1024))  # height and width of a batch's two images
BOXES = 7  # an image, as COCO has
REFERENCE, TRANSFORMERS = "reference", "transformers"
FROZEN = ("conv1", "bn1", "layer1")  # of the backbone, by the reference
OPTIONS = {
    **{"lr_backbone": 1e-5, "masks": False, "backbone": "resnet50", "dilation": False},
    **{"position_embedding": "sine", "hidden_dim": 256, "dropout": 0.1, "nheads": 8},
    **{"dim_feedforward": 2048, "enc_layers": 6, "dec_layers": 6, "pre_norm": False},
    **{"num_queries": 100, "aux_loss": True, "dataset_file": "coco", "frozen_weights": None},
    **{"set_cost_class": 1, "set_cost_bbox": 5, "set_cost_giou": 2, "bbox_loss_coef": 5},
    **{"giou_loss_coef": 2, "eos_coef": 0.1},
}

Batch = tuple[Tensor, Tensor, Targets]


@dataclass(frozen=True)
class Peer:
    """One of those that are compared.

    Attributes:
        model: its DETR.
        predict: from images and padding mask to logits and boxes, without gradients.
        step: makes, for a batch, the function that takes a step of training on it.
    """

    model: nn.Module
    predict: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    step: Callable[[Batch], Callable[[], object]]


def batch(sizes: tuple[tuple[int, int], ...] = SIZES, boxes: int = BOXES) -> Batch:
    """Images of these sizes as the loader gives them."""
    generator = torch.Generator().manual_seed(0)
    H, W = (max(side) for side in zip(*sizes, strict=True))
    images = torch.zeros(len(sizes), 3, H, W, dtype=torch.uint8)
    mask, targets = torch.ones(len(sizes), H, W, dtype=torch.bool), []
    for i, (h, w) in enumerate(sizes):
        images[i, :, :h, :w] = torch.randint(0, 256, (3, h, w), generator=generator)
        mask[i, :h, :w] = False
        labels = torch.randint(1, 91, (boxes,), generator=generator).to(DEVICE)
        cxcywh = (0.2 + 0.4 * torch.rand(boxes, 4, generator=generator)).to(DEVICE)
        targets.append({"labels": labels, "boxes": cxcywh, "image_id": i})
    return images.to(DEVICE), mask.to(DEVICE), targets


def ours(config: Config = COCO) -> Peer:
    """This package's, from seed 0; a step is one of `fit`, all of it but reading images."""
    torch.manual_seed(0)
    model = build_detr(config.model).place(DEVICE)
    criterion = build_criterion(config.model).to(DEVICE)
    clip = {"clip_max_norm": config.train.clip_max_norm}

    @torch.no_grad()
    def predict(images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        outputs = model.eval()(model.normalize(images, mask), mask)
        return outputs["pred_logits"], outputs["pred_boxes"]

    def step(given: Batch) -> Callable[[], object]:
        optimizer, accelerator = build_optimizer(model, config.train), make_accelerator("fp32")
        return lambda: train_one_epoch(model, criterion, [given], optimizer, accelerator, 0, **clip)

    return Peer(model, predict, step)


def reference(clone: Path | None, model: nn.Module) -> Peer:
    """The reference's, with a model's weights; a step is as its engine and main take it.

    Raises:
        ValueError: there is no clone.
    """
    if clone is None:
        raise ValueError(NO_REFERENCE)
    sys.path.insert(0, str(clone))
    version = torchvision.__version__
    torchvision.__version__ = "0.9.0"  # it compares the first three letters as a number
    try:
        models = importlib.import_module("models")
    finally:
        torchvision.__version__ = version
        sys.path.remove(str(clone))
    # Else it downloads the weights that are filled in below.
    sys.modules["models.backbone"].is_main_process = lambda: False
    other, criterion, _ = models.build_model(Namespace(**OPTIONS, device=str(DEVICE)))
    other.load_state_dict(model.state_dict())
    other, criterion = other.to(DEVICE), criterion.to(DEVICE)
    nested = sys.modules["util.misc"].NestedTensor

    @torch.no_grad()
    def predict(images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        outputs = other.eval()(nested(images, mask))
        return outputs["pred_logits"], outputs["pred_boxes"]

    def step(given: Batch) -> Callable[[], object]:
        images, mask, targets = given
        samples = nested(images, mask)

        def loss() -> Tensor:
            losses = criterion(other(samples), targets)
            weights = criterion.weight_dict
            return sum(losses[name] * weights[name] for name in losses if name in weights)

        return _stepping(other, loss)

    return Peer(other, predict, step)


def transformers(model: nn.Module) -> Peer:
    """transformers', with a model's weights.

    Its auxiliary losses are on in training: they are work that all others have. With them its
    decoder norms what goes from layer to layer, which DETR's does not.

    Raises:
        ImportError: it is not installed.
    """
    from transformers import DetrForObjectDetection
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        names = {label: (label, f"class {label}") for label in range(COCO.model.num_classes)}
        run = Run(Path("coco"), COCO, model.eval(), names)
        saved = export_to_transformers(run, Path(folder, "saved"))
        other = DetrForObjectDetection.from_pretrained(saved, local_files_only=True).to(DEVICE)
    for name, parameter in other.named_parameters():
        inside = name.partition("backbone.model.")[2]
        parameter.requires_grad_(not inside.startswith(FROZEN))

    @torch.no_grad()
    def predict(images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        other.config.auxiliary_loss = False
        outputs = other.eval()(pixel_values=images, pixel_mask=(~mask).long())
        return outputs.logits, outputs.pred_boxes

    def step(given: Batch) -> Callable[[], object]:
        images, mask, targets = given
        labels = [{"class_labels": t["labels"], "boxes": t["boxes"]} for t in targets]
        pixels = {"pixel_values": images, "pixel_mask": (~mask).long()}

        def loss() -> Tensor:
            other.config.auxiliary_loss = True
            return other(**pixels, labels=labels).loss

        return _stepping(other, loss)

    return Peer(other, predict, step)


def _stepping(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """A step as the reference's engine takes it, with its main's optimizer."""
    train = COCO.train
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in trained if "backbone" not in name]},
        {"params": [p for name, p in trained if "backbone" in name], "lr": train.lr_backbone},
    ]
    optimizer = torch.optim.AdamW(groups, lr=train.lr, weight_decay=train.weight_decay)

    def step() -> None:
        model.train()
        value = loss()
        value.item()
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip_max_norm)
        optimizer.step()

    return step


def others(us: Peer, options: Options, found: Findings) -> dict[str, Peer]:
    """Those who are there and predict what we do; the rest is left out, and why is found."""
    makers = {
        REFERENCE: lambda: reference(options.reference, us.model),
        TRANSFORMERS: lambda: transformers(us.model),
    }
    there = {}
    for name, make in makers.items():
        with found.leaving_out(name):
            peer = make()
            check_equal(us, peer)
            there[name] = peer
    return there


def normalized(model: nn.Module, given: Batch) -> Batch:
    """A batch with its images as floats, as the others take them."""
    images, mask, targets = given
    return model.normalize(images, mask).contiguous(), mask, targets


def check_equal(us: Peer, peer: Peer) -> None:
    """Raises AssertionError unless both predict alike in evaluation."""
    images, mask, _ = batch()
    expected = us.predict(images, mask)
    found = peer.predict(normalized(us.model, (images, mask, []))[0], mask)
    for mine, other in zip(expected, found, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-3, rtol=1e-3)
