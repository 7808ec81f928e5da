"""The split against a float64 SVD, its gradients against finite differences, its attention."""

import pytest
import torch
from torch import Tensor

from detrnb.loss.matcher import NonFiniteError
from detrnb.model.attention import MultiheadAttention
from detrnb.variants.svd_split import BAND, SplitAttention, spectrum, split_attention

S = 40


def scores(spread: float) -> Tensor:
    """Two matrices of scores as queries and keys of 16 channels give them."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 2, S, 16, generator=generator, dtype=torch.float64)
    return spread * q @ k.mT / 4


def local(width: float) -> Tensor:
    """Attention to neighbours: rows near 1 on the diagonal, singular values close together."""
    place = torch.arange(S, dtype=torch.float64)
    return (-(place[:, None] - place).abs() / width).softmax(-1)


GENERATOR = torch.Generator().manual_seed(1)
MATRICES = {
    "attention": scores(1.0).softmax(-1),
    "sharp attention": scores(5.0).softmax(-1),
    "local attention": local(3.0),
    "near-uniform": scores(0.05).softmax(-1),
    "nearer uniform": scores(1e-3).softmax(-1),
    "uniform": torch.full((S, S), 1 / S, dtype=torch.float64),
    "rank one": torch.rand(S, generator=GENERATOR, dtype=torch.float64).softmax(-1).expand(S, S),
    "identity": torch.eye(S, dtype=torch.float64),
    "permutation": torch.eye(S, dtype=torch.float64)[torch.randperm(S, generator=GENERATOR)],
    "random": torch.randn(3, S, S, generator=GENERATOR, dtype=torch.float64),
    "zero": torch.zeros(S, S, dtype=torch.float64),
}
each_matrix = pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES.keys())
each_solver = pytest.mark.parametrize("solver", ["auto", "svd", "gram"])


def reference_split(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The context part by a float64 SVD, and the energy of the values too near μ to tell."""
    U, values, Vh = torch.linalg.svd(matrix)
    mean = values.mean(-1, keepdim=True)
    context = (U * (values * (values > mean * (1 + BAND)))[..., None, :]) @ Vh
    near = (values / mean - 1).abs() <= 2 * BAND
    return context, (values.square() * near).sum(-1)


@each_matrix
@each_solver
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parts_are_those_of_a_float64_svd_up_to_the_band(matrix, solver, dtype):
    given = matrix.to(dtype)
    object_part, context = split_attention(given, solver)
    assert object_part.dtype == context.dtype == dtype
    torch.testing.assert_close(object_part + context, given)
    expected, band = reference_split(matrix)
    difference = (context.double() - expected).square().sum((-2, -1))
    rounding = (1e-5 if dtype == torch.float32 else 1e-11) * matrix.norm(dim=(-2, -1))
    assert (difference <= band + rounding.square()).all()


def test_gram_agrees_with_a_float64_svd_whatever_size_sharpness_and_padding():
    generator = torch.Generator().manual_seed(0)
    for sharpness in (1e-3, 1e-1, 1.0, 10.0, 1e3):
        for size, valid in ((1, 1), (2, 1), (2, 2), (3, 2), (5, 5), (17, 11), (40, 33)):
            whole = torch.zeros(3, size, size)
            scored = torch.randn(3, valid, valid, generator=generator)
            whole[:, :valid, :valid] = (sharpness * scored).softmax(-1)
            split = spectrum(whole, "gram", torch.full((3,), valid))
            kept = split.vectors * split.is_context[..., None, :]
            context = (whole @ kept @ kept.mT)[:, :valid, :valid].double()
            expected, band = reference_split(whole[:, :valid, :valid].double())
            difference = (context - expected).square().sum((-2, -1))
            assert (difference <= band + 1e-9).all(), (sharpness, size, valid)
            assert not split.is_context[..., valid:].any()


@each_matrix
@each_solver
def test_projector_is_one(matrix, solver):
    split = spectrum(matrix.float(), solver)
    kept = split.vectors * split.is_context[..., None, :]
    projector = kept @ kept.mT
    torch.testing.assert_close(projector @ projector, projector, atol=1e-5, rtol=0)
    number = split.is_context.sum(-1)
    torch.testing.assert_close(projector.diagonal(dim1=-2, dim2=-1).sum(-1), number.float())
    assert (split.values.diff(dim=-1) <= 0).all() and (split.values >= 0).all()
    # The first ones and no others, which the backward pass relies on.
    assert (split.is_context.int().diff(dim=-1) <= 0).all()


@pytest.mark.parametrize("solver", ["svd", "gram"])
def test_equal_singular_values_are_all_object(solver):
    for name in ("identity", "permutation"):
        matrix = MATRICES[name].float()
        object_part, context = split_attention(matrix, solver)
        assert context.abs().max() == 0 and torch.equal(object_part, matrix)


@pytest.mark.parametrize("size", [289, 400])
def test_gram_resolves_float32_where_squaring_alone_does_not(size):
    generator = torch.Generator().manual_seed(2)
    q, k = torch.randn(2, size, 64, generator=generator, dtype=torch.float64)
    for spread in (0.02, 0.3):
        matrix = (spread * q @ k.mT / 8).softmax(-1)
        ours, exact = spectrum(matrix.float(), "gram"), torch.linalg.svdvals(matrix)
        assert ours.mean.item() == pytest.approx(exact.mean().item(), rel=1e-3)
        gap = (exact / exact.mean() - 1 - BAND).abs().min().item()
        assert gap > 2 * BAND  # so that the number is no matter of rounding
        assert ours.is_context.sum() == (exact > exact.mean() * (1 + BAND)).sum()


@pytest.mark.parametrize("solver", ["svd", "gram"])
def test_exact_gradient_agrees_with_finite_differences(solver):
    torch.manual_seed(0)
    matrix = torch.randn(2, 9, 9, dtype=torch.float64).mul(2).softmax(-1)
    values = torch.linalg.svdvals(matrix)
    assert (values / values.mean(-1, keepdim=True) - 1).abs().min() > 1e-2
    matrix.requires_grad_()
    assert torch.autograd.gradcheck(lambda a: split_attention(a, solver, "exact"), matrix)


def test_held_gradient_takes_the_projector_for_a_constant():
    matrix = MATRICES["attention"].clone().requires_grad_()
    weight = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(3)).double()
    _, context = split_attention(matrix, gradient="held")
    (weight * context).sum().backward()
    split = spectrum(matrix.detach())
    kept = split.vectors * split.is_context[..., None, :]
    torch.testing.assert_close(matrix.grad, weight @ kept @ kept.mT)


def svd_gradient(matrix: Tensor, weight: Tensor) -> Tensor:
    """Gradient through torch.linalg.svd of the same split."""
    matrix = matrix.clone().requires_grad_()
    U, values, Vh = torch.linalg.svd(matrix)
    is_context = values > values.mean(-1, keepdim=True) * (1 + BAND)
    (weight * ((U * (values * is_context)[..., None, :]) @ Vh)).sum().backward()
    return matrix.grad


@pytest.mark.parametrize("name", ["identity", "permutation", "uniform", "rank one"])
def test_gradients_are_finite_where_that_of_the_svd_is_not(name):
    matrix = MATRICES[name]
    weight = torch.randn(S, S, generator=torch.Generator().manual_seed(4)).double()
    assert not svd_gradient(matrix, weight).isfinite().all()
    for gradient in ("held", "exact"):
        for solver in ("svd", "gram"):
            given = matrix.clone().requires_grad_()
            (weight * split_attention(given, solver, gradient)[1]).sum().backward()
            assert given.grad.norm() <= 1e3 * weight.norm(), (gradient, solver)


def test_exact_gradient_is_that_of_the_svd_where_that_is_sound():
    matrix = MATRICES["attention"]
    weight = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(5)).double()
    given = matrix.clone().requires_grad_()
    (weight * split_attention(given, "gram", "exact")[1]).sum().backward()
    torch.testing.assert_close(given.grad, svd_gradient(matrix, weight), rtol=1e-6, atol=1e-8)


@pytest.fixture
def split_and_plain() -> tuple[SplitAttention, MultiheadAttention]:
    torch.manual_seed(0)
    plain = MultiheadAttention(16, 2, dropout=0.3).eval()
    plain.in_proj_weight.data.mul_(3)
    split = SplitAttention(16, 2, 0.3).eval()
    split.load_state_dict(plain.state_dict(), strict=False)
    return split, plain


@pytest.mark.parametrize("gradient", ["held", "exact"])
@pytest.mark.parametrize("padded", [False, True])
def test_gates_weigh_the_parts_of_each_head(split_and_plain, gradient, padded):
    split, plain = split_and_plain
    split.gradient, split.record, plain.record = gradient, True, True
    split.object_gate.data = torch.tensor([0.5, 2.0])
    split.context_gate.data = torch.tensor([-1.0, 3.0])
    x = torch.randn(1, 10, 16)
    length = 7 if padded else 10
    mask = torch.arange(10)[None] >= length
    plain.look(x, x, x, mask)
    weights = plain.recorded["attention"][:, :, :length, :length]
    parts = split_attention(weights)
    v = plain.project(x, x, x)[2][:, :, :length]
    gates = split.object_gate, split.context_gate
    attended = sum(
        gate[:, None, None] * (part @ v) for gate, part in zip(gates, parts, strict=True)
    )
    expected = plain.out_proj(attended.transpose(1, 2).flatten(2))
    torch.testing.assert_close(split.look(x, x, x, mask)[:, :length], expected)
    assert split.recorded.keys() == {"attention", "object", "context"}
    for name, part in zip(("object", "context"), parts, strict=True):
        recorded = split.recorded[name]
        torch.testing.assert_close(recorded[:, :, :length, :length], part)
        assert recorded[:, :, length:].abs().sum() + recorded[:, :, :, length:].abs().sum() < 1e-4


@pytest.mark.parametrize("gradient", ["held", "exact"])
@pytest.mark.parametrize("solver", ["svd", "gram"])
def test_padding_changes_neither_values_nor_gradients(solver, gradient):
    torch.manual_seed(0)
    attention = SplitAttention(16, 2, 0.0, solver=solver, gradient=gradient).double()
    attention.in_proj_weight.data.mul_(3)
    attention.object_gate.data = torch.tensor([0.5, 2.0]).double()
    attention.context_gate.data = torch.tensor([-1.0, 3.0]).double()
    x = torch.randn(2, 10, 16, dtype=torch.float64)
    mask = torch.arange(10).expand(2, 10) >= torch.tensor([[7], [10]])
    found = []
    for given, padding in ((x, mask), (x[:1, :7], None)):
        given = given.clone().requires_grad_()
        attention.zero_grad()
        out = attention.look(given, given, given, padding)[0, :7]
        out.square().sum().backward()
        found.append([out, given.grad[0, :7], *(p.grad for p in attention.parameters())])
    for padded, alone in zip(*found, strict=True):
        torch.testing.assert_close(padded, alone)


@pytest.mark.parametrize("training", [False, True])
def test_starts_as_dot_product_attention(split_and_plain, training):
    split, plain = split_and_plain
    plain.record = True  # so that its dropout, too, acts on the weights
    x = torch.randn(2, 10, 16)
    outputs = []
    for attention in (split, plain):
        attention.train(training)
        torch.manual_seed(1)  # of the dropout
        outputs.append(attention.look(x, x, x))
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)
    assert not split.recorded


def test_gradients_reach_queries_through_an_exact_split_only():
    grads = {}
    for gradient in ("held", "exact"):
        torch.manual_seed(0)
        attention = SplitAttention(16, 2, 0.0, gradient=gradient)
        attention.context_gate.data.fill_(0.2)
        x = torch.randn(1, 10, 16)
        attention.look(x, x, x).square().sum().backward()
        grads[gradient] = attention.in_proj_weight.grad
    values, rest = grads["held"][32:], grads["held"][:32]
    torch.testing.assert_close(values, grads["exact"][32:])
    assert not torch.allclose(rest, grads["exact"][:32])


def test_bf16_autocast_splits_in_float32(split_and_plain):
    split, _ = split_and_plain
    x = torch.randn(2, 10, 16)
    with torch.autocast("cpu", torch.bfloat16):
        half = split.look(x, x, x)
    torch.testing.assert_close(half.float(), split.look(x, x, x), atol=5e-2, rtol=5e-2)


def test_split_under_autocast_is_that_of_full_precision():
    matrix = MATRICES["attention"].float()
    expected = split_attention(matrix)
    with torch.autocast("cpu", torch.bfloat16):
        for ours, part in zip(split_attention(matrix), expected, strict=True):
            torch.testing.assert_close(ours, part)


def test_what_cannot_be_split_is_refused():
    matrix = MATRICES["attention"]
    for solver in ("svd", "gram"):
        with pytest.raises(NonFiniteError, match="attention to split is not finite"):
            split_attention(matrix * torch.nan, solver)
    with pytest.raises(ValueError, match=r"expected \(\.\.\., S, S\)"):
        split_attention(matrix[..., 1:])
    with pytest.raises(ValueError, match="solver is 'qr'; expected 'auto', 'svd' or 'gram'"):
        split_attention(matrix, "qr")
    with pytest.raises(ValueError, match="gradient is 'none'; expected 'held' or 'exact'"):
        split_attention(matrix, gradient="none")


@pytest.mark.parametrize("gives_up_on", ([torch.float32], [torch.float32, torch.float64]))
def test_gram_goes_on_where_lapack_gives_up(monkeypatch, gives_up_on):
    """As it does in float32 on some matrices with hundreds of zeros among their eigenvalues."""
    eigh = torch.linalg.eigh

    def moody(matrices):
        if matrices.dtype in gives_up_on:
            raise torch.linalg.LinAlgError("failed to converge")
        return eigh(matrices)

    generator = torch.Generator().manual_seed(0)
    attention = (4 * torch.randn(3, 20, 20, generator=generator)).softmax(-1)
    expected = split_attention(attention.double(), "svd")
    monkeypatch.setattr(torch.linalg, "eigh", moody)
    for part, known in zip(split_attention(attention, "gram"), expected, strict=True):
        torch.testing.assert_close(part.double(), known, rtol=0, atol=1e-6)
    with pytest.raises(NonFiniteError):
        split_attention(attention * torch.nan, "gram")
