"""Our attention is torch's own, with padding, recording and precision handled."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrnb.model.attention import DotProductAttention, MultiheadAttention


@pytest.fixture
def ours_and_torchs() -> tuple[MultiheadAttention, nn.MultiheadAttention]:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    nn.init.normal_(theirs.in_proj_bias)
    ours = MultiheadAttention(16, 2).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("self_attention", [True, False])
def test_agrees_with_torchs_multihead_attention(ours_and_torchs, self_attention):
    ours, theirs = ours_and_torchs
    query, value = torch.randn(3, 5, 16), torch.randn(3, 7, 16)
    key = torch.randn(3, 7, 16)
    if self_attention:
        query = key
    mask = torch.zeros(3, 7, dtype=torch.bool)
    mask[1, 4:] = True
    expected, weights = theirs(query, key, value, key_padding_mask=mask, average_attn_weights=False)
    torch.testing.assert_close(ours.look(query, key, value, mask), expected)
    assert not ours.recorded
    ours.record = True
    torch.testing.assert_close(ours.look(query, key, value, mask), expected)
    torch.testing.assert_close(ours.recorded["attention"], weights)
    assert ours.recorded["attention"][1, :, :, 4:].abs().max() == 0


def test_gradients_agree_with_torchs(ours_and_torchs):
    ours, theirs = ours_and_torchs
    x, y = torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    ours.look(x, x, y).square().sum().backward()
    theirs(x, x, y)[0].square().sum().backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    attention = MultiheadAttention(16, 2, dropout=0.5)
    nn.init.normal_(attention.in_proj_weight)
    x = torch.randn(2, 5, 16)
    assert not torch.equal(attention.look(x, x, x), attention.look(x, x, x))
    attention.eval()
    assert torch.equal(attention.look(x, x, x), attention.look(x, x, x))


def test_bf16_autocast_stays_near_float32(ours_and_torchs):
    ours, _ = ours_and_torchs
    x = torch.randn(2, 5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        half = ours.look(x, x, x)
    torch.testing.assert_close(half.float(), ours.look(x, x, x), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("padded", [False, True])
def test_dropout_on_a_processor_is_torchs_own_to_the_bit(padded):
    """What is kept for the backward pass is less: weights once, and a byte for each."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (5, 7, 7))
    unseen = torch.zeros(2, 7, dtype=torch.bool)
    unseen[1, 5:] = True
    attention = DotProductAttention(24, 3, dropout=0.3).train()
    keep = ~unseen[:, None, None, :] if padded else None
    ways = (
        lambda: attention.attend(q, k, v, unseen if padded else None),
        lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=keep, dropout_p=0.3),
    )
    found = []
    for way in ways:
        torch.manual_seed(1)
        out, matrices = _with_what_is_kept(way)
        found.append((matrices, out, *torch.autograd.grad(out.square().sum(), (q, k, v))))
    assert found[0][0] < found[1][0]
    for ours, theirs in zip(found[0][1:], found[1][1:], strict=True):
        assert torch.equal(ours, theirs)


def _with_what_is_kept(way: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """What it gives, and the bytes of matrices of weights that are kept for the backward pass."""
    kept = {}

    def keep(x: Tensor) -> Tensor:
        if x.shape == (2, 3, 5, 7):
            kept[x.data_ptr()] = x.nbytes
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = way()
    return out, sum(kept.values())
