"""Efficient attention beside torch's fused dot-product attention, forward and backward.

    python bench/efficient_attention.py

Eight heads of 32 channels, one image, from 256 to 4,096 positions. They are two functions, so no
results are held equal. Memory is the most that tensors take during forward and backward; the fused
kernel does not form the n×n matrix either, so its memory is linear too; `formed` is what attention
takes that does. Efficient attention's operations are linear, four times those of the row above,
which has a quarter of the positions; beside its time stands by how much that grew.
"""

import torch
import torch.nn.functional as F
from tables import spread
from timing import DEVICE, OURS, Findings, Options, backward, in_turns, main
from torch import Tensor

from detrnb.training import peak_memory_of
from detrnb.variants.efficient_attention import efficient_attention

SIZES = (256, 1024, 4096)
SECONDS = 10.0  # of each size, after which no further round begins


def formed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Dot-product attention with its matrix, as DETR's reference computes it."""
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


KINDS = {OURS: efficient_attention, "fused": F.scaled_dot_product_attention, "formed": formed}


def results(options: Options) -> Findings:
    """Time and memory of each kind by the number of positions."""
    found = Findings()
    rows, before = [], None
    for n in SIZES:
        q, k, v = (torch.randn(1, 8, n, 32, device=DEVICE, requires_grad=True) for _ in range(3))
        steps = {
            name: backward(lambda kind=kind, q=q, k=k, v=v: kind(q, k, v))
            for name, kind in KINDS.items()
        }
        times = in_turns({name: steps[name] for name in (OURS, "fused")}, options, SECONDS)
        memory = {}
        for name, step in steps.items():
            q.grad = k.grad = v.grad = None  # else the first alone would pay for them
            memory[name] = peak_memory_of(step, DEVICE)
        least = 1e3 * float(times[OURS].min())
        rows.append(
            {
                "positions": n,
                "efficient, ms": least,
                "fused, ms": 1e3 * float(times["fused"].min()),
                "efficient / fused": spread(times[OURS] / times["fused"]),
                "efficient, since a quarter": None if before is None else least / before,
                **{f"{name}, MiB": memory[key] for name, key in NAMED.items()},
            }
        )
        before = least
    found.tables["Attention alone"] = rows
    return found


NAMED = {"efficient": OURS, "fused": "fused", "formed": "formed"}

if __name__ == "__main__":
    main(__doc__, results)
