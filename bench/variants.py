"""What each of the package's variants costs in a training step, beside DETR.

    python bench/variants.py

At the sizes of the preset `toy`, a batch of 32 from cached features, so without the backbone:
forward, losses with matching, backward, AdamW, in float32. All take a step in turn. Memory is what
a step's tensors take at most beyond weights and the optimizer's state, in a process of its own for
each. Parameters are those that train. Time and memory are in shares of DETR's. They are other
functions than DETR, so no results are held equal; `tests/variants/` holds what they compute.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch
from tables import spread
from timing import DEVICE, Findings, Options, in_turns, main

from detrnb.model import build_criterion, build_detr
from detrnb.settings import BASELINE, VARIANTS, Config
from detrnb.training import peak_memory_of

SECONDS = 30.0  # after which no further round begins


def training_step(variant: str) -> tuple[Callable[[], None], int]:
    """A step of training, and how many parameters it moves."""
    config = Config.preset("toy", variant=variant)
    torch.manual_seed(0)
    model = build_detr(config.model, train_backbone=False).to(DEVICE).train()
    criterion, B = build_criterion(config.model), config.train.batch_size
    features = torch.randn(B, model.backbone[0].body.num_channels, 8, 8, device=DEVICE)
    mask = torch.zeros(B, 128, 128, dtype=torch.bool, device=DEVICE)
    targets = [
        {
            "labels": torch.randint(0, 4, (1 + image % 4,), device=DEVICE),
            "boxes": 0.3 + 0.2 * torch.rand(1 + image % 4, 4, device=DEVICE),
            "draws": image,
        }
        for image in range(B)
    ]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def step() -> None:
        outputs = model(None, mask, features=features, targets=targets)
        loss = criterion.total(criterion(outputs, targets, model.layout(targets)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()  # here, so that a profile of the step sees what it allocates freed

    return step, sum(parameter.numel() for parameter in trained)


def peak(variant: str) -> float:
    """Most memory of a step in MiB, after one that made the optimizer's state."""
    step, _ = training_step(variant)
    step()
    return peak_memory_of(step, DEVICE)


def results(options: Options) -> Findings:
    """By variant its parameters, and time and memory of a step in shares of DETR's."""
    found = Findings()
    steps, parameters = {}, {}
    for name, variant in VARIANTS.items():
        if variant is None or not variant.is_own:
            with found.leaving_out(name):
                step, parameters[name] = training_step(name)
                step()
                steps[name] = step
    seconds = in_turns(steps, options, SECONDS)
    # Two at a time: what tensors take does not depend on it.
    fresh = {"max_workers": 2, "max_tasks_per_child": 1}
    with ProcessPoolExecutor(**fresh, mp_context=multiprocessing.get_context("spawn")) as pool:
        peaks = dict(zip(steps, pool.map(peak, steps), strict=True))
    found.tables["A step"] = [
        {
            "variant": name,
            "parameters": parameters[name],
            "time": spread(seconds[name] / seconds[BASELINE]),
            "memory": peaks[name] / peaks[BASELINE],
        }
        for name in steps
    ]
    return found


if __name__ == "__main__":
    main(__doc__, results)
