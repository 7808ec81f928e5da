"""Energy under boxes and inference with one part agree with what their definitions give by hand."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from features import features_and_mask
from scipy.stats import ttest_1samp

from detrnb import Config, build_detr, open_split
from detrnb.look.knock_outs import (
    against_controls,
    ap_of_parts,
    energy_in_boxes,
    energy_table,
    intervals,
    keep_part,
    kept_triplets,
    observations,
)
from detrnb.variants.svd_split import spectrum, split_attention


def model_of(variant: str = "detr"):
    torch.manual_seed(0)
    return build_detr(Config.preset("smoke", variant=variant).model).eval()


def features_without_padding():
    return features_and_mask()[0], torch.zeros(2, 96, 128, dtype=torch.bool)


def test_energy_under_boxes_is_that_of_the_formed_parts():
    torch.manual_seed(0)
    attention = torch.randn(2, 24, 24).mul(3).softmax(-1)
    boxes = torch.tensor([[0.25, 0.5, 0.5, 1.0]])  # the left half of the map
    found = energy_in_boxes(attention.reshape(2, 4, 6, 4, 6), boxes, torch.Generator())
    left = (torch.arange(24) % 6) < 3
    for name, part in zip(("object", "context"), split_attention(attention), strict=True):
        energy = part.square().sum(1)
        expected = (energy[:, left].sum(1) / energy.sum(1) - 0.5).mean().item()
        assert found[name] == pytest.approx(expected, abs=1e-5)
    values = torch.linalg.svdvals(attention)
    above = values > values.mean(-1, keepdim=True)
    assert found["rank"] == above.sum(-1).float().mean()
    shares = (values.square() * above).sum(-1) / values.square().sum(-1)
    assert found["context energy"] == pytest.approx(shares.mean().item(), abs=1e-5)
    assert found["area"] == 0.5


def test_attention_that_is_blind_to_boxes_has_no_excess():
    uniform = torch.full((1, 4, 6, 4, 6), 1 / 24)
    found = energy_in_boxes(uniform, torch.tensor([[0.3, 0.4, 0.4, 0.5]]), torch.Generator())
    assert found["attention"] == pytest.approx(0, abs=1e-6)
    assert found["context"] == pytest.approx(0, abs=1e-6)


def test_random_parts_have_the_parts_rank_and_follow_the_generator():
    split = spectrum(torch.randn(3, 5, 20, 20).mul(3).softmax(-1))
    for part in ("object", "context"):
        kept = kept_triplets(split, part, torch.Generator())
        draws = [
            kept_triplets(split, f"random {part}", torch.Generator().manual_seed(seed))
            for seed in (1, 1, 2)
        ]
        assert all(torch.equal(draw.sum(-1), kept.sum(-1)) for draw in draws)
        assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@torch.no_grad()
@pytest.mark.parametrize("variant", ["detr", "svd_split"])
def test_parts_of_a_layer_add_up_to_its_attention(variant):
    model = model_of(variant)
    attention = model.transformer.encoder.layers[2].self_attn
    if variant == "svd_split":
        attention.object_gate.uniform_(0.5, 2.0)
        attention.context_gate.uniform_(0.5, 2.0)
    x = torch.randn(2, 30, 32)
    whole = attention.look(x, x, x)
    attended = []
    for part in ("object", "context"):
        with keep_part(model, [2], part):
            attended.append(model.transformer.encoder.layers[2].self_attn.look(x, x, x))
    bias = attention.out_proj.bias  # once in each
    torch.testing.assert_close(sum(attended) - bias, whole, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_keeping_a_part_changes_the_model_inside_only():
    model = model_of()
    features, mask = features_without_padding()
    before = model(None, mask, features=features)["pred_logits"]
    names = list(model.state_dict())
    for part in ("object", "context", "random object", "random context"):
        with keep_part(model, [0, 2], part):
            inside = model(None, mask, features=features)["pred_logits"]
        assert not torch.allclose(inside, before, atol=1e-5), part
        with keep_part(model, [0, 2], part), torch.autocast("cpu", torch.bfloat16):
            half = model(None, mask, features=features)["pred_logits"]
        torch.testing.assert_close(half.float(), inside, atol=0.1, rtol=0.1)
    assert torch.equal(model(None, mask, features=features)["pred_logits"], before)
    assert list(model.state_dict()) == names


def test_table_has_a_row_for_each_image_with_boxes_and_layer():
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4]])
    data = [(image, {"image_id": i, "boxes": boxes[: i % 2]}) for i in range(6)]
    table = energy_table(model_of(), data, [0, 2], limit=4)
    assert table[["image_id", "layer"]].to_numpy().tolist() == [[1, 0], [1, 2], [3, 0], [3, 2]]
    again = energy_table(model_of(), data, [0, 2], limit=4)
    assert table.equals(again)


@pytest.mark.parametrize(
    ("variant", "named"),
    [("efficient_attention", "EfficientAttention"), ("rope", "RotaryAttention")],
)
def test_what_has_no_parts_is_refused(variant, named):
    with (
        pytest.raises(ValueError, match=f"layer 0 has {named}"),
        keep_part(model_of(variant), [0], "object"),
    ):
        pass


def test_what_is_no_layer_and_no_part_is_refused():
    model = model_of()
    with (
        pytest.raises(ValueError, match="no encoder layer 3; this model has 0 to 2"),
        keep_part(model, [3], "object"),
    ):
        pass
    with (
        pytest.raises(ValueError, match="'whole'; expected one of"),
        keep_part(model, [0], "whole"),
    ):
        pass
    features, mask = features_and_mask()
    with keep_part(model, [0], "object"), pytest.raises(ValueError, match="without padding only"):
        model(None, mask, features=features)


def energy_of_images(values, photographs) -> pd.DataFrame:
    """A table whose object part is one above its control and whose context two below."""
    rows = {"object": values + 1, "random object": values, "context": values - 2}
    place = {"layer": 1, "model": "detr", "photograph": photographs}
    return pd.DataFrame(
        {**rows, "random context": values, **place, "image_id": np.arange(len(values))}
    )


def test_intervals_and_controls_are_paired_by_image():
    generator = np.random.default_rng(0)
    common = generator.normal(size=50)  # of an image, in the part and in its control alike
    energy = energy_of_images(common, None)
    found = against_controls(energy).loc["detr", 2]
    np.testing.assert_allclose(found.loc["object - random"], [1, 1, 1, 50], atol=1e-12)
    np.testing.assert_allclose(found.loc["context - random"], [-2, -2, -2, 50], atol=1e-12)
    by_scipy = ttest_1samp(energy["object"], 0).confidence_interval(0.95)
    observed = observations(energy)
    assert observed.name == "images"  # no photograph is told
    mean = intervals(energy, ["object"]).loc["object"]
    np.testing.assert_allclose(mean[["low", "high"]].astype(float), by_scipy)


def test_images_of_one_photograph_are_one_observation():
    """A thousand images cut from three scenes tell of three scenes."""
    generator = np.random.default_rng(1)
    scenes = np.repeat([-1.0, 0.5, 2.0], [500, 300, 200])
    names = np.repeat(["china", "flower", "moon"], [500, 300, 200])
    energy = energy_of_images(scenes + generator.normal(scale=0.01, size=1000), names)
    observed = observations(energy)
    assert observed.name == "photographs" and observed.nunique() == 3
    found = intervals(energy, ["object"]).loc["object"]
    means = energy.groupby("photograph")["object"].mean()
    by_scipy = ttest_1samp(means, 0).confidence_interval(0.95)  # two degrees of freedom
    np.testing.assert_allclose(found[["low", "high"]].astype(float), by_scipy)
    assert found["observations"] == 3 and found["low"] < 0 < found["high"]
    assert against_controls(energy)["observations"].tolist() == [3, 3]
    one = intervals(energy[:500], ["object"]).loc["object"]
    assert (one["low"], one["high"]) == (-np.inf, np.inf)
    energy.loc[0, "photograph"] = None  # an image whose photograph is not told stands for itself
    assert observations(energy).nunique() == 4


def test_energy_table_names_the_photographs_of_the_toy_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config.preset("smoke", overrides={"data.toy.num_images": (1, 1, 12)})
    dataset = open_split(config.data, "test2017")
    table = energy_table(model_of(), dataset, [0, 1])
    content = json.loads(dataset.annotations.read_text())
    cut_from = {image["id"]: image["photograph"] for image in content["images"]}
    assert table["photograph"].tolist() == [cut_from[i] for i in table["image_id"]]
    assert observations(table).name == "photographs"


def test_ap_of_parts_evaluates_each_part_and_draw_once():
    model = model_of()
    plain, seen = model.transformer.encoder.layers[2].self_attn, []

    def evaluate() -> float:
        kept = model.transformer.encoder.layers[2].self_attn
        seen.append("all" if kept is plain else kept.part)
        return float(len(seen))

    table = ap_of_parts(model, 2, evaluate, draws=2)
    assert seen == ["all", "object", "context", *["random object"] * 2, *["random context"] * 2]
    assert table.loc["random context"].tolist() == [6.5, 6, 7]
    assert model.transformer.encoder.layers[2].self_attn is plain
