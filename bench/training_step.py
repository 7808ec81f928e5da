"""A training step of the `coco` preset beside the reference's and transformers', time and memory.

    python bench/training_step.py [--reference CLONE]

Two images of up to 800×1088 with seven boxes each, float32, all of a step but reading images: ours
normalises them, the others get them normalised. All start from equal weights, and it is seen first
that all predict alike. Memory is what the model and two steps take at most, in a process of their
own. Under it what makes ours fast, by parts, each beside what torch has for it, results held
equal first.
"""

from collections.abc import Callable

import peers
import torch
import torch.nn.functional as F
from limit import limit_row
from tables import Row, spread
from timing import (
    DEVICE,
    OURS,
    Findings,
    Options,
    backward,
    beside,
    in_own_process,
    in_turns,
    main,
    memory_now,
)
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.ops import FrozenBatchNorm2d

from detrnb.model import MultiheadAttention, ResNetBody, build_criterion
from detrnb.settings import Config
from detrnb.training import peak_memory_mb

STEP_SECONDS, PART_SECONDS = 30.0, 5.0
MEMORY_RUNS = 1  # of each contestant; two differ by less than a hundredth


def attention() -> tuple[str, str, Callable, Callable]:
    """An encoder layer's self-attention at 800×1088 (S = 850)."""
    ours = MultiheadAttention(256, 8).to(DEVICE)
    theirs = nn.MultiheadAttention(256, 8, batch_first=True).to(DEVICE)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 850, 256, device=DEVICE)
    sides = (
        lambda: theirs(x, x, x, need_weights=True)[0],
        lambda: ours(*ours.project(x, x, x), None),
    )
    _check(*sides)
    return "self-attention, S = 850", "torch's, with its weights", *map(backward, sides)


def bf16_attention() -> tuple[str, str, Callable, Callable]:
    """The toy model's self-attention under bf16 autocast."""
    attention = MultiheadAttention(128, 4).to(DEVICE)
    x = torch.randn(32, 64, 128, device=DEVICE)

    def fused() -> Tensor:
        q, k, v = attention.project(x, x, x)
        return F.scaled_dot_product_attention(q, k, v)

    def autocast(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def inner() -> Tensor:
            with torch.autocast(DEVICE.type, torch.bfloat16):
                return function().float()

        return inner

    ours = autocast(lambda: attention.attend(*attention.project(x, x, x), None))
    _check(autocast(fused), ours, 0.02)
    return (
        "self-attention under bf16",
        "fused kernel in bf16",
        backward(autocast(fused)),
        backward(ours),
    )


def folded_norms() -> tuple[str, str, Callable, Callable]:
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
    sides = (lambda: layers(images)), (lambda: ours(images))
    _check(*sides)
    return "ResNet-50, 320×320", "torchvision's, norms frozen", *map(backward, sides)


def matching() -> tuple[str, str, Callable, Callable]:
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

    def by_layer() -> list:
        layers = [matcher(logits[i : i + 1], boxes[i : i + 1], targets) for i in range(6)]
        return [matches for (matches,) in layers]

    def at_once() -> list:
        return [*matcher(logits, boxes, targets)]

    for mine, other in zip(at_once(), by_layer(), strict=True):
        for (q, t), (queries, places) in zip(mine, other, strict=True):
            assert (q == queries).all() and (t == places).all()
    return "matching 6 layers, batch of 8", "layer by layer", by_layer, at_once


def _check(theirs: Callable[[], Tensor], ours: Callable[[], Tensor], off: float = 1e-3) -> None:
    torch.testing.assert_close(ours(), theirs(), atol=off, rtol=off)


PARTS = (attention, bf16_attention, folded_norms, matching)


def parts(options: Options, found: Findings) -> list[Row]:
    """What makes a step fast, each beside what it replaces."""
    rows = []
    for part in PARTS:
        with found.leaving_out(part.__name__):
            what, name, theirs, ours = part()
            rows += beside(what, in_turns({OURS: ours, name: theirs}, options, PART_SECONDS))
    return rows


def memory(options: Options, there: list[str], found: Findings) -> list[Row]:
    """MiB that two steps and the model add, each side in processes of its own, in turns."""
    besides = [] if options.reference is None else ["--reference", str(options.reference)]
    taken: dict[str, list[float]] = {name: [] for name in there}
    for _ in range(options.rounds or MEMORY_RUNS):
        for name in [n for n in taken if f"{n}'s memory" not in found.left_out]:
            with found.leaving_out(f"{name}'s memory"):
                taken[name].append(in_own_process(__file__, "--alone", name, *besides))
    ours = taken.pop(OURS)
    rows = [
        {
            "what": "model and two steps",
            "ours, MiB": min(ours),
            "beside": name,
            "its MiB": min(theirs),
            "ours / its": spread(o / t for o, t in zip(ours, theirs, strict=True)),
        }
        for name, theirs in taken.items()
        if len(theirs) == len(ours)
    ]
    return rows or [{"what": "model and two steps", "ours, MiB": min(ours), "beside": "nobody"}]


def added_by(name: str) -> Callable[[Options], float]:
    """MiB that a contestant and two of its steps add to what this process takes."""

    def measured(options: Options) -> float:
        before = memory_now()
        peer = us = peers.ours()
        if name == peers.REFERENCE:
            peer = peers.reference(options.reference, us.model)
        elif name == peers.TRANSFORMERS:
            peer = peers.transformers(us.model)
        given = peers.batch() if peer is us else peers.normalized(us.model, peers.batch())
        step = peer.step(given)
        del us
        step()
        step()
        return peak_memory_mb(DEVICE) - before

    return measured


def results(options: Options) -> Findings:
    """All that is measured here."""
    found = Findings()
    us = peers.ours()
    there = peers.others(us, options, found)
    given = peers.batch()
    steps = {OURS: us.step(given)}
    for name, peer in there.items():
        with found.leaving_out(name):
            step = peer.step(peers.normalized(us.model, given))
            step()
            steps[name] = step
    found.tables["A step"] = beside("coco step", in_turns(steps, options, STEP_SECONDS))
    with found.leaving_out("distance from the limit"):
        found.tables["Distance from the limit"] = [limit_row("coco step", steps[OURS], options)]
    names = [*steps]
    del steps, there, us
    with found.leaving_out("memory"):
        found.tables["Memory"] = memory(options, names, found)
    found.tables["By parts"] = parts(options, found)
    return found


if __name__ == "__main__":
    names = (OURS, peers.REFERENCE, peers.TRANSFORMERS)
    main(__doc__, results, {name: added_by(name) for name in names})
