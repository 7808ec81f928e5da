"""What each of the package's variants costs in a training step, beside DETR.

    python bench/variants.py

A step of `fit` at the preset `toy`, a batch of 32 from features, so without the backbone: forward,
losses with matching, backward, AdamW, in float32. All take a step in turn. Memory is what
a step's tensors take at most beyond weights and the optimizer's state, in a process of its own for
each. Parameters are those that train. Time and memory are in shares of DETR's. They are other
functions than DETR, so no results are held equal; `tests/variants/` holds what they compute.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from tables import spread
from timing import DEVICE, Findings, Options, in_turns, main
from toy_step import step

from detrnb.settings import BASELINE, VARIANTS
from detrnb.training import peak_memory_of

SECONDS = 20.0  # after which no further round begins


def peak(variant: str) -> float:
    """Most memory of a step in MiB, after one that made the optimizer's state."""
    take, *_ = step(variant)
    take()
    return peak_memory_of(take, DEVICE)


def results(options: Options) -> Findings:
    """By variant its parameters, and time and memory of a step in shares of DETR's."""
    found = Findings()
    steps, parameters = {}, {}
    for name, variant in VARIANTS.items():
        if variant is None or not variant.is_own:
            with found.leaving_out(name):
                take, model, _ = step(name)
                take()
                parameters[name] = sum(p.numel() for p in model.parameters() if p.requires_grad)
                steps[name] = take
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
