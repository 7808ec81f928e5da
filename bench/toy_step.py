"""A training step of the `toy` preset on features: where its time goes, and the limit.

    python bench/toy_step.py

Features and boxes are random, so that no data is needed; time is of one step without its reading.
Kinds are of operators: those inside matching and inside the optimizer count there, all others by
what they do, forward and backward together. Operators' times are torch's profiler's, which slows
small ones; what of a step without the profiler no operator accounts for is Python, the engine that
goes backward, and waiting.
"""

from collections import defaultdict
from collections.abc import Callable

import torch
from limit import limit_row
from tables import Row, spread
from timing import DEVICE, Findings, Options, in_turns, main
from torch.profiler import ProfilerActivity, profile, record_function

from detrnb.model import build_criterion, build_detr
from detrnb.settings import Config
from detrnb.training import build_optimizer, make_accelerator, train_one_epoch

PROFILED = 5  # steps
REST, PYTHON = "all else on tensors: sums, copies, losses", "Python and what no operator tells"
INSIDE = {"matching": "matching", "Optimizer.step": "optimizer"}  # marks around -> kind
KINDS = {  # what an operator's name contains -> kind; the first that fits
    "scaled_dot_product": "attention's kernels",
    "mm": "products and convolutions",
    "convolution": "products and convolutions",
    "norm": "norms, and the gradient's",
    "relu": "activations",
    "clamp_min": "activations",
    "threshold": "activations",
    "sigmoid": "activations",
    "softmax": "softmax",
}


def step(variant: str = "detr") -> tuple[Callable[[], object], torch.nn.Module, torch.nn.Module]:
    """A step of `fit` on a batch of random features, and the model and criterion that it uses."""
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

    def take() -> object:
        return train_one_epoch(model, criterion, given, optimizer, accelerator, 0, **clip)

    return take, model, criterion


def by_kind(take: Callable[[], object], criterion: torch.nn.Module) -> dict[str, float]:
    """Milliseconds of a step's operators by kind, on the processor."""
    matcher = type(criterion.matcher)
    match = matcher.__call__

    def marked(*arguments: object) -> object:
        with record_function("matching"):
            return match(*arguments)

    matcher.__call__ = marked
    try:
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(PROFILED):
                take()
    finally:
        matcher.__call__ = match
    found: dict[str, float] = defaultdict(float)
    for event in profiler.events():
        found[_kind(event)] += event.self_cpu_time_total / 1e3 / PROFILED
    return found


def _kind(event: object) -> str:
    above = event
    while above is not None:
        for mark, kind in INSIDE.items():
            if above.name.startswith(mark):
                return kind
        above = above.cpu_parent
    if not event.name.startswith("aten::"):
        return PYTHON
    return next((kind for part, kind in KINDS.items() if part in event.name), REST)


def profile_rows(
    take: Callable[[], object], criterion: torch.nn.Module, step_s: float
) -> list[Row]:
    """The kinds by their share of a step; what no operator tells is left of the whole."""
    kinds = by_kind(take, criterion)
    kinds.pop(PYTHON, None)
    kinds[PYTHON] = max(0.0, 1e3 * step_s - sum(kinds.values()))
    whole = sum(kinds.values())
    ordered = sorted(kinds.items(), key=lambda item: -item[1])
    return [{"kind": kind, "ms": ms, "share": ms / whole} for kind, ms in ordered]


def results(options: Options) -> Findings:
    """A step, its products alone, and its time by kind."""
    found = Findings()
    take, _, criterion = step()
    times = in_turns({"step": take}, options)["step"]
    found.tables["A step"] = [{"what": "toy step", "ms": spread(1e3 * times)}]
    found.tables["Distance from the limit"] = [limit_row("toy step", take, options)]
    if DEVICE.type == "cpu":
        rows = profile_rows(take, criterion, float(times.min()))
        found.tables["Where its time goes"] = rows
    else:
        found.left_out["time by kind"] = "it is told of processors only"
    return found


if __name__ == "__main__":
    main(__doc__, results)
