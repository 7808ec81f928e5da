"""Attention split at its mean singular value into an object and a context part.

Source: the journal's third idea, with the gradient taken so that it stays finite. For an attention
matrix A = U diag(σ) Vᵀ (softmaxed, padding removed) with mean singular value μ, *context* is the
part with σ > μ and *object* the rest. With P = V_c V_cᵀ, the projector on the kept right singular
vectors, context = A P: no left singular vectors and no n×n part are needed to attend.

Differentiating the SVD itself divides by the gaps of all pairs of singular values, which vanish for
attention of low rank or near to uniform. The split depends on pairs across the threshold only.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrnb.loss import NonFiniteError
from detrnb.model import EncoderAttention

Solver = Literal["auto", "svd", "gram"]
Gradient = Literal["held", "exact"]

BAND = 1e-4  # singular values up to μ (1 + BAND) are not above μ: rounding alone could put them so

_NAME = "the attention to split"


class Spectrum(NamedTuple):
    """Singular values of attention matrices and their right singular vectors, largest first.

    Attributes:
        values: (..., S).
        vectors: (..., S, S), in columns.
        mean: (...), μ, over the positions that are not padding.
        is_context: (..., S) bool, where σ > μ (1 + BAND): the first few.
    """

    values: Tensor
    vectors: Tensor
    mean: Tensor
    is_context: Tensor


def _full_precision(x: Tensor) -> torch.autocast:
    """No autocast: half precision cannot tell singular values apart."""
    return torch.autocast(x.device.type, enabled=False)


@torch.no_grad()
def spectrum(
    attention: Tensor, solver: Solver = "auto", num_positions: Tensor | None = None
) -> Spectrum:
    """Singular values, right singular vectors and threshold of attention matrices.

    Args:
        attention: (..., S, S); where padded, with zeros in the rows and columns of padding.
        solver: `svd` is torch.linalg.svd; `gram` takes the eigenvectors of AᵀA, faster for large S
            (bench/svd_split.py); `auto` is `gram` where the device has float64, in which it solves
            again what float32 cannot resolve.
        num_positions: (...), how many positions are not padding; None for all.

    Returns:
        In float32, or float64 where attention is.

    Raises:
        ValueError: not square, or an unknown solver.
        NonFiniteError: attention holds NaN or infinity.
    """
    if attention.ndim < 2 or attention.shape[-1] != attention.shape[-2]:
        raise ValueError(f"attention is {tuple(attention.shape)}; expected (..., S, S)")
    if solver not in ("auto", "svd", "gram"):
        raise ValueError(f"solver is {solver!r}; expected 'auto', 'svd' or 'gram'")
    *shape, S, _ = attention.shape
    matrices = attention.to(torch.promote_types(attention.dtype, torch.float32)).reshape(-1, S, S)
    if solver == "auto":
        solver = "svd" if matrices.device.type == "mps" else "gram"
    counts = torch.full(shape, S) if num_positions is None else num_positions
    counts = counts.to(matrices.device).reshape(-1, 1)
    with _full_precision(matrices):
        values, vectors = _svd(matrices) if solver == "svd" else _gram(matrices, counts)
    # Padding adds singular values that are 0 but for rounding.
    values = values * (torch.arange(S, device=values.device) < counts)
    mean = values.sum(-1) / counts[:, 0]
    is_context = values > mean[:, None] * (1 + BAND)
    return Spectrum(
        values.reshape(*shape, S),
        vectors.reshape(*shape, S, S),
        mean.reshape(shape),
        is_context.reshape(*shape, S),
    )


def _svd(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values and right singular vectors of (M, S, S) by torch.linalg.svd."""
    try:
        _, values, transposed = torch.linalg.svd(matrices)
    except torch.linalg.LinAlgError as error:
        if matrices.isfinite().all():
            raise
        raise NonFiniteError(_NAME) from error
    return values, transposed.mT


def _gram(matrices: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values and right singular vectors of (M, S, S) from the eigenvectors of AᵀA.

    Squaring leaves float32 an error of about ε σ₁² in every σ². Attention often has one value near
    1 above many small ones, which that would drown. So the largest is sought first, by power
    iteration, and taken out; what then still cannot be told from μ is solved in float64.
    """
    try:
        values, vectors, resolved = _deflated_gram(matrices, counts)
    except torch.linalg.LinAlgError:  # LAPACK may give up where most of the eigenvalues are 0
        if matrices.isfinite().all() and matrices.dtype == torch.float64:
            return _svd(matrices)
        resolved = torch.zeros(len(matrices), dtype=torch.bool, device=matrices.device)
        values, vectors = torch.empty_like(matrices[..., 0]), torch.empty_like(matrices)
    if not resolved.all():
        if not matrices.isfinite().all():
            raise NonFiniteError(_NAME)
        if matrices.dtype != torch.float64:
            again = ~resolved
            exact = _gram(matrices[again].double(), counts[again])
            values[again], vectors[again] = (x.to(values.dtype) for x in exact)
    return values, vectors


def _deflated_gram(matrices: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `_gram` in one precision, and (M,) bool, whether that sufficed; False for NaN."""
    epsilon = torch.finfo(matrices.dtype).eps / 2
    # Rows of attention sum to 1, so that the first right singular vector is often near their mean.
    x = matrices.mean(-2)[..., None]
    for _ in range(8):
        x = matrices.mT @ (matrices @ F.normalize(x, dim=-2))
    x = F.normalize(x, dim=-2)
    y = matrices @ x
    largest = y.square().sum(-2)  # (M, 1), σ₁²
    residual = (matrices.mT @ y - largest[..., None] * x).norm(dim=-2)
    found = residual < 64 * epsilon * largest  # (M, 1)
    removed = x * found[..., None]
    rest = torch.baddbmm(matrices, y, removed.mT, alpha=-1)
    rest.baddbmm_(rest @ removed, removed.mT, alpha=-1)  # again, for what rounding left
    gram = rest.mT @ rest
    # What was taken out must not lie among the zeros, where eigenvectors are anybody's choice.
    away = gram.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True).maximum(epsilon * largest)
    gram.baddbmm_(away[..., None] * removed, removed.mT, alpha=-1)
    squares, vectors = torch.linalg.eigh(gram)  # ascending, what was taken out first
    noise = epsilon * squares.abs().amax(-1, keepdim=True)
    squares = torch.cat([torch.where(found, largest, squares[:, :1]), squares[:, 1:].flip(-1)], -1)
    vectors = torch.cat([vectors[..., :1], vectors[..., 1:].flip(-1)], -1)
    values = squares.clamp(min=0).sqrt()
    in_order = (values[:, :-1] >= values[:, 1:]).all(-1)
    if not in_order.all():
        wrong = ~in_order
        values[wrong], order = values[wrong].sort(dim=-1, descending=True)
        vectors[wrong] = vectors[wrong].take_along_dim(order[:, None], dim=-1)
    return values, vectors, _resolved(values, noise, counts)


def _resolved(values: Tensor, noise: Tensor, counts: Tensor) -> Tensor:
    """Whether errors of `noise` (M, 1) in the squares leave the split as it is, (M,) bool.

    That is, no value (M, S) is as near to the threshold as both may be off, and the error that the
    squares add to values at the threshold is at most ten times that of an SVD, ε σ₁.
    """
    epsilon, tiny = torch.finfo(values.dtype).eps / 2, torch.finfo(values.dtype).tiny
    inside = torch.arange(values.shape[-1], device=values.device) < counts
    # To first order d(σ²) moves σ by d / 2σ, and never by more than √d.
    moved = noise.sqrt().minimum(noise / (2 * values.clamp(min=tiny))) * inside
    mean, moved_mean = ((x * inside).sum(-1, keepdim=True) / counts for x in (values, moved))
    apart = (values - mean * (1 + BAND)).abs() > moved + moved_mean
    fine = noise <= 20 * epsilon * mean * values[:, :1]
    return (apart | ~inside).all(-1) & fine[:, 0]


class _Project(torch.autograd.Function):
    """P x with the derivative of P = V_c V_cᵀ, the projector on the context's right vectors.

    First-order perturbation of an invariant subspace of G = AᵀA: with i in context and j in object,

        dP = Σ_ij (v_iᵀ dG v_j) / (σ_i² − σ_j²) (v_i v_jᵀ + v_j v_iᵀ)

    Pairs on one side of the threshold do not enter, so equal singular values do no harm there. A
    pair close together *across* it still gives a large derivative: the split itself is then about
    to change.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        attention: Tensor,
        x: Tensor,
        values: Tensor,
        vectors: Tensor,
        is_context: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(attention, x, values, vectors, is_context)
        return _held_projection(x, vectors, is_context)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple:
        attention, x, values, vectors, is_context = ctx.saved_tensors
        kept = is_context.sum(-1)
        most, least = int(kept.max()), int(kept.min())  # context comes first
        above, below = vectors[..., :most], vectors[..., least:]
        pairs = is_context[..., :most, None] & ~is_context[..., None, least:]
        high, low = values[..., :most, None], values[..., None, least:]
        gaps = torch.where(pairs, (high - low) * (high + low), 1.0)
        products = (above.mT @ grad) @ (below.mT @ x).mT + (above.mT @ x) @ (below.mT @ grad).mT
        weights = above @ (torch.where(pairs, products / gaps, 0.0) @ below.mT)
        grad_attention = attention @ (weights + weights.mT)
        return grad_attention, _held_projection(grad, vectors, is_context), None, None, None


def _held_projection(x: Tensor, vectors: Tensor, is_context: Tensor) -> Tensor:
    """P x, (..., S, d) -> (..., S, d), with P a constant."""
    return vectors @ (is_context[..., None] * (vectors.mT @ x))


def project(attention: Tensor, x: Tensor, split: Spectrum, gradient: Gradient = "held") -> Tensor:
    """P x, with P the projector on the right singular vectors of the context part.

    Args:
        attention: (..., S, S), what `split` was computed from.
        x: (..., S, d).
        gradient: `held` takes P for a constant; `exact` differentiates it with respect to
            attention as well.

    Raises:
        ValueError: unknown `gradient`.
    """
    if gradient not in ("held", "exact"):
        raise ValueError(f"gradient is {gradient!r}; expected 'held' or 'exact'")
    with _full_precision(x):
        if gradient == "held":
            return _held_projection(x, split.vectors, split.is_context)
        return _Project.apply(attention, x, split.values, split.vectors, split.is_context)


def split_attention(
    attention: Tensor, solver: Solver = "auto", gradient: Gradient = "held"
) -> tuple[Tensor, Tensor]:
    """Split attention matrices into object and context; they sum to the matrix.

    Args:
        attention: (..., S, S), after the softmax, without padding.
        solver: see `spectrum`.
        gradient: see `project`. `held` gives context P·G for an upstream gradient G.

    Returns:
        object and context, (..., S, S) each. They hold negative numbers and are no probabilities.

    Raises:
        ValueError: not square, unknown solver or gradient.
        NonFiniteError: attention holds NaN or infinity.
    """
    split = spectrum(attention.detach(), solver)
    matrices = attention.to(split.vectors.dtype)
    identity = torch.eye(attention.shape[-1], dtype=matrices.dtype, device=matrices.device)
    with _full_precision(matrices):
        context = matrices @ project(matrices, identity.expand_as(matrices), split, gradient)
        context = context.to(attention.dtype)
    return attention - context, context


class SplitAttention(EncoderAttention):
    """Dot-product attention whose object and context parts have a learned gate each, per head.

    The attended value is g_o · (A_o V) + g_c · (A_c V). All gates start at 1, so that it starts as
    dot-product attention. The split is that of the weights before dropout, which then acts on A.

    Attributes:
        object_gate, context_gate: (N,).
        added: names of the parameters that DETR does not have.
    """

    added = ("object_gate", "context_gate")

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        dropout: float,
        *,
        solver: Solver = "auto",
        gradient: Gradient = "held",
    ) -> None:
        super().__init__(d_model, num_heads, dropout)
        self.solver, self.gradient = solver, gradient
        self.object_gate = nn.Parameter(torch.ones(num_heads))
        self.context_gate = nn.Parameter(torch.ones(num_heads))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, unseen: Tensor | None) -> Tensor:
        """Attended values (B, N, S, d) of q, k and v, all (B, N, S, d)."""
        with _full_precision(q):
            dtype = torch.promote_types(q.dtype, torch.float32)
            q, k, v = (x.to(dtype) for x in (q, k, v))
            weights = self.attention_weights(q, k, unseen)
            clean, counts = weights, None
            if unseen is not None:
                # Columns of padding are 0 already; rows are removed by becoming so.
                clean = weights.masked_fill(unseen[:, None, :, None], 0.0)
                counts = (~unseen).sum(-1)[:, None].expand(weights.shape[:2])
            split = spectrum(clean.detach(), self.solver, counts)
            if self.record:
                self._keep(clean.detach(), split)
            weights = F.dropout(weights, self.dropout, self.training)
            attended = weights @ v
            context = weights @ project(clean, v, split, self.gradient)
            object_gate, context_gate = (
                self.object_gate[:, None, None],
                self.context_gate[:, None, None],
            )
            return object_gate * (attended - context) + context_gate * context

    def _keep(self, weights: Tensor, split: Spectrum) -> None:
        """Record the matrix and its parts."""
        projector = (split.vectors * split.is_context[..., None, :]) @ split.vectors.mT
        context = weights @ projector
        self.recorded = {"attention": weights, "object": weights - context, "context": context}

    def start_as_detr(self, state: dict[str, Tensor], prefix: str) -> None:
        """Add to DETR's tensors, in place, what this attention holds beyond them: gates of 1."""
        for name in self.added:
            state[prefix + name] = torch.ones(self.num_heads)
