"""A training step of the `coco` preset beside the reference's, and what makes it fast, by parts.

    python bench/training_step.py [--reference CLONE]

Ratios are of medians over alternating repeats, so that a noisy machine slows both sides alike.
Memory is what two steps add to the peak of a process of their own. Without a clone
(bench/reference.py) ours is measured alone.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import reference
import torch
import torch.nn.functional as F
from limit import products_of, seconds_of_products
from timing import DEVICE, arguments, backward, compare, medians
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.ops import FrozenBatchNorm2d

from detrnb.model import MultiheadAttention, ResNetBody, build_criterion
from detrnb.settings import Config
from detrnb.training import peak_memory_mb


def attention(repeats: int) -> dict[str, float]:
    """An encoder layer's self-attention at 800×1088 (S = 850), without and with its weights."""
    ours = MultiheadAttention(256, 8).to(DEVICE)
    theirs = nn.MultiheadAttention(256, 8, batch_first=True).to(DEVICE)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 850, 256, device=DEVICE)
    return compare(
        "self-attention, fp32: torch's with weights, ours",
        backward(lambda: theirs(x, x, x, need_weights=True)[0]),
        backward(lambda: ours(x, x, x)),
        repeats,
    )


def bf16_attention(repeats: int) -> dict[str, float]:
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

    return compare(
        "self-attention under bf16: fused kernel in bf16, ours",
        backward(autocast(fused)),
        backward(autocast(lambda: attention.attend(*attention.project(x, x, x), None))),
        repeats,
    )


def folded_norms(repeats: int) -> dict[str, float]:
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
    return compare(
        "ResNet-50, 320×320: torchvision's frozen norms, ours folded",
        backward(lambda: layers(images)),
        backward(lambda: ours(images)),
        repeats,
    )


def matching(repeats: int) -> dict[str, float]:
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
    return compare(
        "matching 6 layers, batch of 8: layer by layer, one pass",
        lambda: [matcher(logits[i : i + 1], boxes[i : i + 1], targets) for i in range(6)],
        lambda: matcher(logits, boxes, targets),
        repeats,
    )


def coco_step(repeats: int, clone: Path | None) -> dict[str, float]:
    """Two images of up to 800×1088, all but reading them."""
    model, criterion = reference.ours()
    steps = [reference.our_step(model, criterion)]
    if clone is not None:
        other, judge = reference.theirs(clone, model.state_dict())
        reference.check_equal(model, other)
        steps.append(reference.their_step(other, judge))
    ours_s, *theirs_s = medians(steps, repeats)
    products = seconds_of_products(products_of(steps[0]), 3)
    found = {"ours_s": ours_s, "products_s": products, "share_of_limit": products / ours_s}
    if theirs_s:
        found |= {"reference_s": theirs_s[0], "of_the_reference": ours_s / theirs_s[0]}
    return found


def coco_memory(clone: Path | None) -> dict[str, float]:
    """MiB that two steps add, each side in a process of its own."""
    sides = {"ours": []} | ({} if clone is None else {"reference": ["--reference", str(clone)]})
    found = {}
    for side, besides in sides.items():
        command = [sys.executable, __file__, "--repeats", "0", *besides]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[f"{side}_mb"] = float(printed.split()[-1])
    if clone is not None:
        found["of_the_reference"] = found["ours_mb"] / found["reference_mb"]
    return found


def _memory_of_two_steps(clone: Path | None) -> float:
    """In this process, of the reference where there is a clone, else of ours."""
    if clone is None:
        step = reference.our_step(*reference.ours())
    else:
        step = reference.their_step(*reference.theirs(clone))
    before = peak_memory_mb(DEVICE)
    step()
    step()
    return peak_memory_mb(DEVICE) - before


def results(repeats: int = 5, clone: Path | None = None) -> dict[str, dict[str, float]]:
    """All that is measured here, by part."""
    parts = (attention, bf16_attention, folded_norms, matching)
    found = {part.__name__: part(repeats) for part in parts}
    return found | {"coco_step": coco_step(repeats, clone), "coco_memory": coco_memory(clone)}


if __name__ == "__main__":
    parsed = arguments(__doc__, 5)
    if parsed.repeats:
        for part, numbers in results(parsed.repeats, parsed.reference).items():
            print(part, *(f"{name} {value:.3f}" for name, value in numbers.items()))
    else:
        print(_memory_of_two_steps(parsed.reference))
