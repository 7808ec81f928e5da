"""AdaptiveResEncoder computes its formula and starts as DETR."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from detrnb import Config, build_detr
from detrnb.variants.adaptive_res import AdaptiveResEncoder, layer_weights, layer_weights_history


class AddOne(nn.Module):
    """Stands for an encoder layer."""

    def forward(self, x, pos, padding_mask, grid):
        return x * 2 + pos


@pytest.mark.parametrize("preset", ["coco", "smoke"])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_weights_are_one_hot_after_build(preset, pre_norm):
    overrides = {"model.pre_norm": pre_norm}
    model = build_detr(Config.preset(preset, variant="adaptive_res", overrides=overrides).model)
    weights = layer_weights(model)
    assert weights.shape == (len(model.transformer.encoder.layers), model.query_embed.embedding_dim)
    assert (weights[-1] == 1).all() and (weights[:-1] == 0).all()


def test_memory_is_the_weighted_sum_of_normalised_layers():
    torch.manual_seed(0)
    encoder = AdaptiveResEncoder([AddOne(), AddOne(), AddOne()], d_model=6, pre_norm=False)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter)
    x, pos = torch.randn(2, 5, 6), torch.randn(2, 5, 6)
    first = 2 * x + pos
    second = 2 * first + pos
    third = 2 * second + pos
    scale, shift = encoder.norm.weight, encoder.norm.bias
    expected = sum(
        weight * F.layer_norm(layer, (6,), scale, shift)
        for weight, layer in zip(encoder.layer_weights, (first, second, third), strict=True)
    )
    torch.testing.assert_close(encoder(x, pos), expected)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_fresh_model_answers_as_detr(pre_norm):
    outputs = []
    for variant in ("detr", "adaptive_res"):
        torch.manual_seed(0)
        config = Config.preset("smoke", variant=variant, overrides={"model.pre_norm": pre_norm})
        model = build_detr(config.model).eval()
        torch.manual_seed(1)
        images, mask = torch.randn(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool)
        outputs.append(model(images, mask)["pred_logits"])
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)


def test_helpers_refuse_other_models_and_runs(tmp_path):
    with pytest.raises(ValueError, match="build it with variant='adaptive_res'"):
        layer_weights(build_detr(Config.preset("smoke").model))
    with pytest.raises(ValueError, match="keeps no layer weights .it keeps nothing."):
        layer_weights_history(tmp_path)
