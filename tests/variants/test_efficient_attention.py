"""Efficient attention agrees with the paper's code, ignores padding and never forms n×n."""

import pytest
import reference
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from detrnb.variants.efficient_attention import (
    EfficientAttention,
    efficient_attention,
    implied_attention,
)


def heads(x) -> torch.Tensor:
    """Golden (1, channels, positions) as (1, N, S, d) in float64; heads are channel slices."""
    return torch.tensor(x, dtype=torch.float64).unflatten(1, (4, -1)).transpose(2, 3)


def test_agrees_with_golden():
    golden = reference.read("efficient_attention.npz")
    ours = efficient_attention(*(heads(golden[name]) for name in "qkv"))
    torch.testing.assert_close(ours, heads(golden["out"]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("query_softmax", ["channel", "position"])
def test_is_the_implied_attention_applied_and_padding_does_not_matter(query_softmax):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 7, 4, dtype=torch.float64)
    mask = torch.zeros(2, 7, dtype=torch.bool)
    mask[1, 5:] = True
    attended = efficient_attention(q, k, v, mask, query_softmax)
    implied = implied_attention(q, k, mask, query_softmax)
    torch.testing.assert_close(attended, implied @ v)
    assert implied[1, :, :, 5:].abs().max() == 0
    alone = efficient_attention(q[1:, :, :5], k[1:, :, :5], v[1:, :, :5], None, query_softmax)
    torch.testing.assert_close(attended[1:, :, :5], alone)
    rows = implied.sum(-1)[0]
    assert torch.allclose(rows, torch.ones_like(rows)) == (query_softmax == "channel")
    if query_softmax == "position":  # the columns of q sum to 1 instead: all rows to d together
        torch.testing.assert_close(rows.sum(-1), torch.full((3,), 4.0, dtype=torch.float64))


def test_rank_is_at_most_the_channels_of_a_head():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 20, 3, dtype=torch.float64)
    assert torch.linalg.matrix_rank(implied_attention(q, k)).item() == 3


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest result of any operation held."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return result


@pytest.mark.parametrize("query_softmax", ["channel", "position"])
def test_no_operation_makes_a_matrix_of_positions_unless_weights_are_asked_for(query_softmax):
    attention = EfficientAttention(8, 2, 0.0, query_softmax=query_softmax)
    x, mask = torch.randn(1, 500, 8), torch.zeros(1, 500, dtype=torch.bool)
    with LargestTensor() as largest:
        attention(x, torch.zeros_like(x), mask).sum().backward()
    assert largest.numbers == 500 * 8 * 2  # queries and keys, projected together
    attention.record = True
    attention(x, torch.zeros_like(x), mask)
    assert attention.recorded["attention"].shape == (1, 2, 500, 500)


def test_unknown_softmax_is_refused():
    with pytest.raises(ValueError, match="'rows'; expected 'channel' .the paper. or 'position'"):
        efficient_attention(*torch.randn(3, 1, 1, 2, 2), query_softmax="rows")
