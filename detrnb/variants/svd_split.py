"""Attention split at its mean singular value into an object and a context part.

Source: the journal's third idea, with the gradient taken so that it stays finite. For an attention
matrix A = U diag(σ) Vᵀ (softmaxed, padding removed) with mean singular value μ, *context* is the
part with σ > μ and *object* the rest. With P = V_c V_cᵀ, the projector on the kept right singular
vectors, context = A P: no left singular vectors and no n×n part are needed to attend.

Differentiating the SVD itself divides by the gaps of all pairs of singular values, which vanish for
near-uniform attention. The split depends on pairs across the threshold only.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrnb.attention import MultiheadAttention
from detrnb.matcher import NonFiniteError

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


@torch.no_grad()
def spectrum(
    attention: Tensor, solver: Solver = "auto", num_positions: Tensor | None = None
) -> Spectrum:
    """Singular values, right singular vectors and threshold of attention matrices.

    Args:
        attention: (..., S, S); where padded, with zeros in the rows and columns of padding.
        solver: `svd` is torch.linalg.svd; `gram` takes the eigenvectors of AᵀA, several times as
            fast (bench/svd_split.py); `auto` is `gram` where the device has float64, in which it
            solves again what float32 cannot resolve.
        num_positions: (...), how many positions are not padding; None for all.

    Raises:
        ValueError: not square, or an unknown solver.
        NonFiniteError: attention holds NaN or infinity.
    """
    if attention.ndim < 2 or attention.shape[-1] != attention.shape[-2]:
        raise ValueError(f"attention is {tuple(attention.shape)}; expected (..., S, S)")
    if solver not in ("auto", "svd", "gram"):
        raise ValueError(f"solver is {solver!r}; expected 'auto', 'svd' or 'gram'")
    S = attention.shape[-1]
    matrices = attention.reshape(-1, S, S)
    matrices = matrices.to(torch.promote_types(matrices.dtype, torch.float32))
    if solver == "auto":
        solver = "svd" if matrices.device.type == "mps" else "gram"
    counts = torch.full(attention.shape[:-2], S) if num_positions is None else num_positions
    counts = counts.to(matrices.device).reshape(-1, 1)
    try:
        if solver == "svd":
            _, values, transposed = torch.linalg.svd(matrices)
            vectors = transposed.mT
        else:
            values, vectors = _gram(matrices, counts)
    except torch.linalg.LinAlgError as error:  # what LAPACK says of NaN
        raise NonFiniteError(_NAME, []) from error
    # Padding adds singular values that are 0 but for rounding.
    values = values * (torch.arange(S, device=values.device) < counts)
    mean = values.sum(-1) / counts[:, 0]
    shape = attention.shape[:-2]
    return Spectrum(
        values.reshape(*shape, S),
        vectors.reshape(*shape, S, S),
        mean.reshape(shape),
        (values > mean[:, None] * (1 + BAND)).reshape(*shape, S),
    )


def _gram(matrices: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values and right singular vectors of (M, S, S) from the eigenvectors of AᵀA.

    Squaring leaves float32 an error of about ε σ₁² in every σ², and an attention matrix has one
    large value, near 1, above many small ones. So the largest is found first, by power iteration,
    and taken out; what then still cannot be told from μ is solved in float64.
    """
    values, vectors, error = _deflated_gram(matrices, counts)
    unresolved = ~(error < BAND)
    if unresolved.any():
        if not matrices.isfinite().all():
            raise NonFiniteError(_NAME, [])
        if matrices.dtype != torch.float64:
            exact = _deflated_gram(matrices[unresolved].double(), counts[unresolved])
            values[unresolved] = exact[0].to(values.dtype)
            vectors[unresolved] = exact[1].to(vectors.dtype)
    return values, vectors


def _deflated_gram(matrices: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `_gram` in one precision, with an estimate (M,) of the relative error at the threshold."""
    epsilon, tiny = torch.finfo(matrices.dtype).eps / 2, torch.finfo(matrices.dtype).tiny
    # Rows of attention sum to 1, so that the first right singular vector is often near the mean
    # row, and few steps find it.
    x = matrices.mean(-2)[..., None]
    for _ in range(16):
        x = matrices.mT @ (matrices @ F.normalize(x, dim=-2))
    x = F.normalize(x, dim=-2)
    y = matrices @ x
    largest = y.square().sum(-2)  # (M, 1), σ₁²
    residual = (matrices.mT @ y - largest[..., None] * x).norm(dim=-2)
    found = residual < 64 * epsilon * largest  # (M, 1)
    rest = matrices - y * x.mT
    rest = rest - (rest @ x) * x.mT  # again, for what rounding left
    rest = torch.where(found[..., None], rest, matrices)
    gram = rest.mT @ rest
    # What was taken out must not lie among the zeros, where eigenvectors are anybody's choice.
    away = gram.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True).maximum(epsilon * largest)
    gram = torch.where(found[..., None], gram - away[..., None] * (x * x.mT), gram)
    squares, vectors = torch.linalg.eigh(gram)
    noise = epsilon * squares.abs().amax(-1, keepdim=True)
    squares = torch.cat([torch.where(found, largest, squares[:, :1]), squares[:, 1:]], dim=-1)
    squares, order = squares.clamp(min=0).sort(dim=-1, descending=True)
    vectors = vectors.gather(-1, order[:, None].expand_as(vectors))
    values = squares.sqrt()
    # To first order d(σ²) moves σ by d / 2σ, and never by more than √d.
    inside = torch.arange(values.shape[-1], device=values.device) < counts
    moved = (noise.sqrt()).minimum(noise / (2 * values.clamp(min=tiny))) * inside
    mean = (values * inside).sum(-1, keepdim=True) / counts
    error = (moved.sum(-1, keepdim=True) / counts + noise / (2 * mean)) / mean
    return values, vectors, error[:, 0]


class _Project(torch.autograd.Function):
    """P x with the derivative of P = V_c V_cᵀ, the projector on the context's right vectors.

    First-order perturbation of an invariant subspace of G = AᵀA: with i in context and j in object,

        dP = Σ_ij (v_iᵀ dG v_j) / (σ_i² − σ_j²) (v_i v_jᵀ + v_j v_iᵀ)

    Pairs on one side of the threshold do not enter, so equal singular values do no harm.
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
    context = matrices @ project(matrices, identity.expand_as(matrices), split, gradient)
    context = context.to(attention.dtype)
    return attention - context, context


class SplitAttention(MultiheadAttention):
    """Dot-product attention whose object and context parts have a learned gate each, per head.

    The attended value is g_o · (A_o V) + g_c · (A_c V). All gates start at 1, so that it starts as
    dot-product attention. The split is that of the weights before dropout, which then acts on A.

    Attributes:
        object_gate, context_gate: (N,).
        added: names of the parameters that DETR does not have.
    """

    added = ("object_gate", "context_gate")

    def __init__(
        self, d_model: int, num_heads: int, dropout: float, solver: Solver, gradient: Gradient
    ) -> None:
        super().__init__(d_model, num_heads, dropout)
        self.solver, self.gradient = solver, gradient
        self.object_gate = nn.Parameter(torch.ones(num_heads))
        self.context_gate = nn.Parameter(torch.ones(num_heads))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Attended values (B, N, S, d) of q, k and v, all (B, N, S, d)."""
        with torch.autocast(q.device.type, enabled=False):  # eigenvectors need float32
            dtype = torch.promote_types(q.dtype, torch.float32)
            q, k, v = (x.to(dtype) for x in (q, k, v))
            weights = self.attention_weights(q, k, padding_mask)
            clean, counts = weights, None
            if padding_mask is not None:
                # Columns of padding are 0 already; rows are removed by becoming so.
                clean = weights.masked_fill(padding_mask[:, None, :, None], 0.0)
                counts = (~padding_mask).sum(-1)[:, None].expand(weights.shape[:2])
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
