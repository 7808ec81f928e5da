"""Splitting attention by its spectrum, beside the same split through torch.linalg.svd.

    python bench/svd_split.py

Eight heads; 289 and 841 positions, as images of 544 and 928 pixels a side have at stride 32. Both
sides give the attended values of both parts from the same matrices and values. Backward, `svd` is
differentiated by torch in full; `exact` is the same gradient where both exist, `held` takes the
projector for a constant. Attention-like: queries and keys N(0, 1) of 32 channels; near-uniform: as
in an untrained model, a twentieth of these scores, which float32 may not resolve, so that `gram`
solves again in float64.

First a table of how well both solvers in float32 agree with an SVD in float64; `band` is the share
of values within 2e-4 of the mean, which rounding may put on either side.
"""

import torch
from timing import DEVICE, arguments, compare
from torch import Tensor

from detrnb.variants.svd_split import BAND, Gradient, project, spectrum


def by_svd(matrix: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attended values of object and context, all through torch.linalg.svd."""
    U, singular, Vh = torch.linalg.svd(matrix)
    above = singular > singular.mean(-1, keepdim=True) * (1 + BAND)
    context = (U * (singular * above)[..., None, :]) @ Vh
    object_part = (U * (singular * ~above)[..., None, :]) @ Vh
    return object_part @ values, context @ values


def ours(matrix: Tensor, values: Tensor, gradient: Gradient) -> tuple[Tensor, Tensor]:
    """The same as `SplitAttention` has it."""
    split = spectrum(matrix.detach())
    context = matrix @ project(matrix, values, split, gradient)
    return matrix @ values - context, context


def with_backward(function, matrix: Tensor, values: Tensor, *options: str):
    """Forward and backward, the two parts weighed differently."""

    def step() -> None:
        object_part, context = function(matrix, values, *options)
        (object_part.square().mean() + 2 * context.square().mean()).backward()

    return step


def matrices(n: int) -> dict[str, Tensor]:
    """Kinds of matrices that attention comes near to, in float64."""
    generator = torch.Generator().manual_seed(0)
    kind = {"generator": generator, "dtype": torch.float64}
    q, k = torch.randn(2, n, 32, **kind)
    scores = q @ k.mT / 32**0.5
    return {
        "attention-like": scores.softmax(-1),
        "near-uniform": (scores / 20).softmax(-1),
        "rank one": torch.rand(n, **kind).softmax(-1).expand(n, n),
        "identity": torch.eye(n, dtype=torch.float64),
        "permutation": torch.eye(n, dtype=torch.float64)[torch.randperm(n, generator=generator)],
        "random": torch.randn(n, n, **kind),
    }


def agreement(n: int) -> None:
    """Print, for each kind and solver, what differs from the split by an SVD in float64."""
    print(f"{'n = ' + str(n):16} {'solver':6} kept (float64)  context off by  band   P² - P  trace")
    for name, matrix in matrices(n).items():
        U, values, Vh = torch.linalg.svd(matrix)
        mean = values.mean()
        above, near = values > mean * (1 + BAND), (values / mean - 1).abs() <= 2 * BAND
        expected = (U * (values * above)) @ Vh
        band = (values[near].square().sum() / values.square().sum()).sqrt()
        for solver in ("svd", "gram"):
            split = spectrum(matrix.float().to(DEVICE), solver)
            kept = split.vectors * split.is_context
            P = (kept @ kept.mT).cpu()
            off = (matrix.float() @ P - expected).norm() / matrix.norm()
            print(
                f"{name:16} {solver:6} {int(split.is_context.sum()):4} ({int(above.sum()):4})"
                f" {off:16.0e} {band:8.0e} {(P @ P - P).abs().max():8.0e}"
                f" {(P.trace() - split.is_context.sum()).abs():6.0e}"
            )


if __name__ == "__main__":
    repeats = arguments(__doc__, repeats=3).repeats
    agreement(64)
    agreement(841)
    for n in (289, 841):
        for kind, spread in (("attention-like", 1.0), ("near-uniform", 0.05)):
            generator = torch.Generator().manual_seed(0)
            q, k, v = torch.randn(3, 8, n, 32, generator=generator).to(DEVICE)
            matrix = (spread * q @ k.mT / 32**0.5).softmax(-1)
            name = f"n = {n}, {kind}"
            compare(
                f"{name}: forward",
                lambda m=matrix, v=v: by_svd(m, v),
                lambda m=matrix, v=v: ours(m, v, "held"),
                repeats,
            )
            matrix, v = matrix.clone().requires_grad_(), v.clone().requires_grad_()
            for gradient in ("exact", "held"):
                compare(
                    f"{name}: forward and backward, {gradient}",
                    with_backward(by_svd, matrix, v),
                    with_backward(ours, matrix, v, gradient),
                    repeats,
                )
