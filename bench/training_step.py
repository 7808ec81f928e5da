"""What makes a training step fast, each beside what it replaces, in one run.

    python bench/training_step.py

Ratios are of medians over alternating repeats, so that a noisy machine slows both sides alike.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import DEVICE, arguments, backward, compare
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.ops import FrozenBatchNorm2d

from detrnb.model import MultiheadAttention, ResNetBody, build_criterion
from detrnb.settings import Config


def attention(repeats: int) -> None:
    """An encoder layer's self-attention at 800×1088 (S = 850), without and with its weights."""
    ours = MultiheadAttention(256, 8).to(DEVICE)
    theirs = nn.MultiheadAttention(256, 8, batch_first=True).to(DEVICE)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 850, 256, device=DEVICE)
    compare(
        "self-attention, fp32: torch's with weights, ours",
        backward(lambda: theirs(x, x, x, need_weights=True)[0]),
        backward(lambda: ours(x, x, x)),
        repeats,
    )


def bf16_attention(repeats: int) -> None:
    """The toy model's self-attention under bf16 autocast: fused kernel in bf16, ours."""
    attention = MultiheadAttention(128, 4).to(DEVICE)
    x = torch.randn(32, 64, 128, device=DEVICE)

    def fused() -> Tensor:
        q, k, v = attention.project(x, x, x)
        return F.scaled_dot_product_attention(q, k, v)

    def autocast(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def inner() -> Tensor:
            with torch.autocast(DEVICE.type, torch.bfloat16):
                return function()

        return inner

    compare(
        "self-attention under bf16: fused kernel in bf16, ours",
        backward(autocast(fused)),
        backward(autocast(lambda: attention.attend(*attention.project(x, x, x), None))),
        repeats,
    )


def folded_norms(repeats: int) -> None:
    """ResNet-50 forward and backward: torchvision with frozen norms, ours with them folded."""
    theirs = get_model("resnet50", norm_layer=FrozenBatchNorm2d).to(DEVICE)
    ours = ResNetBody("resnet50", dilation=False).to(DEVICE)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    for part in (theirs.conv1, theirs.layer1):
        part.requires_grad_(False)
    images = torch.randn(2, 3, 320, 320, device=DEVICE)
    stem = nn.Sequential(theirs.conv1, theirs.bn1, theirs.relu, theirs.maxpool)
    layers = nn.Sequential(stem, theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)
    last = {"memory_format": torch.channels_last}  # as `fit` lays both out
    images, layers, ours = images.to(**last), layers.to(**last), ours.to(**last)
    compare(
        "ResNet-50, 320×320: torchvision's frozen norms, ours folded",
        backward(lambda: layers(images)),
        backward(lambda: ours(images)),
        repeats,
    )


def matching(repeats: int) -> None:
    """Matching six decoder layers: one at a time, all in one pass."""
    matcher = build_criterion(Config.preset("coco").model).matcher
    logits = torch.randn(6, 8, 100, 92, device=DEVICE)
    boxes = torch.rand(6, 8, 100, 4, device=DEVICE)
    targets = [
        {
            "labels": torch.randint(0, 91, (n,), device=DEVICE),
            "boxes": torch.rand(n, 4, device=DEVICE) * 0.4 + 0.1,
        }
        for n in (3, 7, 1, 12, 0, 25, 5, 8)
    ]
    compare(
        "matching 6 layers, batch of 8: layer by layer, one pass",
        lambda: [matcher(logits[i : i + 1], boxes[i : i + 1], targets) for i in range(6)],
        lambda: matcher(logits, boxes, targets),
        repeats,
    )


if __name__ == "__main__":
    repeats = arguments(__doc__).repeats
    for part in (attention, bf16_attention, folded_norms, matching):
        part(repeats)
