"""Efficient attention beside torch's fused dot-product attention, forward and backward.

    python bench/efficient_attention.py

Eight heads of 32 channels, one image, from 256 to 16,384 positions. Time as medians over turns;
memory as the most that tensors take during forward and backward. The fused kernel does not form the
n×n matrix either, so its memory is linear too; `formed` is what attention takes that does.
"""

import torch
import torch.nn.functional as F
from timing import DEVICE, arguments, backward, medians
from torch import Tensor

from detrnb.training import peak_memory_of
from detrnb.variants.efficient_attention import efficient_attention

SIZES = (256, 1024, 4096, 16_384)
FORMED_UP_TO = 4096  # beyond, several times 8 GB


def formed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Dot-product attention with its matrix, as DETR's reference computes it."""
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


if __name__ == "__main__":
    repeats = arguments(__doc__, repeats=5).repeats
    print(f"{'n':>6} {'fused':>11} {'efficient':>11} {'ratio':>8}   MiB: fused efficient formed")
    before = None
    for n in SIZES:
        q, k, v = (torch.randn(1, 8, n, 32, device=DEVICE, requires_grad=True) for _ in range(3))

        def step(attention, q=q, k=k, v=v):
            return backward(lambda: attention(q, k, v))

        sides = [step(F.scaled_dot_product_attention), step(efficient_attention)]
        fused, efficient = (seconds * 1e3 for seconds in medians(sides, repeats))
        measured = [*sides, step(formed)] if n <= FORMED_UP_TO else sides
        memory = []
        for side in measured:
            q.grad = k.grad = v.grad = None  # else the first alone would pay for them
            memory.append(f"{peak_memory_of(side, DEVICE):9.1f}")
        print(
            f"{n:6} {fused:8.2f} ms {efficient:8.2f} ms {fused / efficient:6.1f} x   "
            f"{' '.join(memory)}"
            + (f"   efficient: {efficient / before:.2f} x the quarter's time" if before else ""),
            flush=True,
        )
        before = efficient
