"""Rotary attention turns by position as the formula says, and nothing else is added."""

import math

import pytest
import torch

from detrnb import Config, build_detr
from detrnb.model import EncoderAttention
from detrnb.variants.rope import RotaryAttention

H, W, N, D = 3, 4, 2, 16
d = D // N


def attention(frequencies: str = "mixed") -> RotaryAttention:
    torch.manual_seed(0)
    module = RotaryAttention(D, N, 0.0, frequencies=frequencies).double()
    torch.nn.init.normal_(module.in_proj_bias)
    return module


def by_the_formula(module: RotaryAttention, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """One image, head by head and pair by pair: each pair of channels a complex number."""
    q, k, v = (x @ w.T + b for w, b in module._split([D, D, D]))
    out = torch.zeros_like(x)
    f = module.frequencies.expand(2, N, d // 2)
    for n in range(N):
        channels = slice(n * d, (n + 1) * d)
        scores = torch.full((H * W, H * W), -math.inf, dtype=torch.float64)
        for i in range(H * W):
            for j in range(H * W):
                if mask[j]:
                    continue
                score = 0.0
                for t in range(d // 2):
                    c = n * d + 2 * t
                    angle = f[0, n, t] * (i % W - j % W) + f[1, n, t] * (i // W - j // W)
                    a = complex(q[i, c], q[i, c + 1]) * complex(k[j, c], -k[j, c + 1])
                    score += a.real * math.cos(angle) - a.imag * math.sin(angle)
                scores[i, j] = score / math.sqrt(d)
        out[:, channels] = scores.softmax(-1) @ v[:, channels]
    return module.out_proj(out)


@pytest.mark.parametrize("frequencies", ["mixed", "axial"])
@torch.no_grad()
def test_agrees_with_the_formula(frequencies):
    module = attention(frequencies)
    x, pos = torch.randn(2, 2, H * W, D, dtype=torch.float64)
    mask = torch.zeros(2, H, W, dtype=torch.bool)
    mask[1, 2:], mask[1, :, 3:] = True, True
    mask = mask.flatten(1)
    ours = module(x, pos, mask, (H, W))
    for image in range(2):
        expected = by_the_formula(module, x[image], mask[image])
        torch.testing.assert_close(ours[image], expected, atol=1e-12, rtol=0)


@torch.no_grad()
def test_frequencies_start_as_the_paper_has_them():
    axial = attention("axial").frequencies
    fixed = torch.tensor([1.0, 100**-0.5], dtype=torch.float64)
    torch.testing.assert_close(axial[0, 0], torch.cat([fixed, 0 * fixed]), atol=1e-7, rtol=0)
    torch.testing.assert_close(axial[1, 0], torch.cat([0 * fixed, fixed]), atol=1e-7, rtol=0)
    mixed = attention().frequencies
    length = mixed.square().sum(0).sqrt()
    expected = torch.tensor([1.0, 10**-0.5] * 2, dtype=torch.float64).expand(N, -1)
    torch.testing.assert_close(length, expected, atol=1e-6, rtol=0)
    first, second = mixed.chunk(2, -1)  # in a direction, and across it
    assert (first * second).sum(0).abs().max() < 1e-6
    assert (mixed[:, 0] - mixed[:, 1]).abs().max() > 1e-2  # each head has its own


@pytest.mark.parametrize("frequencies", ["mixed", "axial"])
@torch.no_grad()
def test_only_relative_positions_count(frequencies):
    module = attention(frequencies)
    angles = module.angles((6, 7)).unflatten(1, (6, 7))
    step = angles[:, 1:, 1:] - angles[:, :-1, :-1]
    torch.testing.assert_close(step, step[:, :1, :1].expand_as(step))


@torch.no_grad()
def test_without_turning_it_is_detrs_attention_without_positions():
    module, plain = attention(), EncoderAttention(D, N).double()
    plain.load_state_dict({k: v for k, v in module.state_dict().items() if k != "frequencies"})
    module.frequencies.zero_()
    x, pos = torch.randn(2, 1, H * W, D, dtype=torch.float64)
    torch.testing.assert_close(
        module(x, pos, None, (H, W)), plain(x, torch.zeros_like(pos), None, (H, W))
    )


def test_every_layer_and_seed_draws_its_own_frequencies():
    def built(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        model = build_detr(Config.preset("smoke", variant="rope").model)
        return [layer.self_attn.frequencies for layer in model.transformer.encoder.layers]

    first, again, other = built(1), built(1), built(2)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[0], first[1])


def test_heads_that_have_no_pairs_for_both_directions_are_refused():
    with pytest.raises(ValueError, match="d_model 12 / num_heads 2 is 6"):
        RotaryAttention(12, 2, 0.0)
