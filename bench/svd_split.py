"""Splitting attention by its spectrum, beside the same split through torch.linalg.svd.

    python bench/svd_split.py

Eight heads; 289 and 841 positions, as images of 544 and 928 pixels a side have at stride 32. Both
sides give the attended values of both parts from the same matrices and values. Backward, `svd` is
differentiated by torch in full; `exact` is the same gradient where both exist, `held` takes the
projector for a constant. Attention-like: queries and keys N(0, 1) of 32 channels; near-uniform: as
in an untrained model, a twentieth of these scores, which float32 may not resolve, so that `gram`
solves again in float64.

The second table is how well both solvers in float32 agree with an SVD in float64; `band` is the
share of values within 2e-4 of the mean, which rounding may put on either side. Where times are
taken the parts may differ by that band.
"""

import torch
from tables import Row
from timing import DEVICE, OURS, Findings, Options, beside, in_turns, main
from torch import Tensor

from detrnb.variants.svd_split import BAND, Gradient, project, spectrum

SIZES = (289, 841)
GRADIENTS: tuple[Gradient, ...] = ("exact", "held")
SVD = "torch.linalg.svd"
SECONDS = 12.0  # of each contest, after which no further round begins


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


def agreement(n: int) -> list[Row]:
    """For each kind and solver, what differs from the split by an SVD in float64."""
    rows = []
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
            count = int(split.is_context.sum())
            rows.append(
                {
                    "matrix": f"{name}, n = {n}",
                    "solver": solver,
                    "kept": count,
                    "kept in float64": int(above.sum()),
                    "context off by": float(off),
                    "band": float(band),
                    "P² - P": float((P @ P - P).abs().max()),
                    "trace off by": float((P.trace() - count).abs()),
                }
            )
    return rows


def check_equal(matrix: Tensor, values: Tensor) -> None:
    """Raises AssertionError where both splits differ by more than the band around the mean."""
    singular = torch.linalg.svdvals(matrix)
    near = (singular / singular.mean(-1, keepdim=True) - 1).abs() <= 2 * BAND
    band = (singular * near).square().sum().sqrt() / singular.square().sum().sqrt()
    for mine, other in zip(ours(matrix, values, "held"), by_svd(matrix, values), strict=True):
        off = (mine - other).norm() / values.norm()
        assert off <= 1e-3 + 2 * band, f"parts differ by {off:.1e}, the band is {band:.1e}"


def results(options: Options) -> Findings:
    """Times beside torch's SVD, then agreement with float64."""
    found = Findings()
    rows = []
    for n in SIZES:
        for kind, spread in (("attention-like", 1.0), ("near-uniform", 0.05)):
            generator = torch.Generator().manual_seed(0)
            q, k, v = torch.randn(3, 8, n, 32, generator=generator).to(DEVICE)
            matrix = (spread * q @ k.mT / 32**0.5).softmax(-1)
            name = f"n = {n}, {kind}"
            check_equal(matrix, v)
            sides = {
                OURS: lambda m=matrix, v=v: ours(m, v, "held"),
                SVD: lambda m=matrix, v=v: by_svd(m, v),
            }
            rows += beside(f"{name}: forward", in_turns(sides, options, SECONDS))
            matrix, v = matrix.clone().requires_grad_(), v.clone().requires_grad_()
            sides = {gradient: with_backward(ours, matrix, v, gradient) for gradient in GRADIENTS}
            times = in_turns(sides | {SVD: with_backward(by_svd, matrix, v)}, options, SECONDS)
            for gradient in GRADIENTS:
                both = {OURS: times[gradient], SVD: times[SVD]}
                rows += beside(f"{name}: forward and backward, {gradient}", both)
    found.tables["Splitting"] = rows
    found.tables["Agreement with float64"] = agreement(64) + agreement(841)
    return found


if __name__ == "__main__":
    main(__doc__, results)
