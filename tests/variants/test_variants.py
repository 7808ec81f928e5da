"""What holds for every registered variant and every pair that may be joined."""

import functools

import numpy as np
import pytest
import reference
import torch
from features import features_and_mask
from shared_weights import shared_names

from detrnb import VARIANTS, Config, build_detr, fit, load_run, load_weights
from detrnb.model.detr import added_parameters
from detrnb.runs.folder import RunFolder
from detrnb.settings import BASELINE, combinations, resolve

NAMES = combinations()
SINGLE = [name for name in NAMES if "+" not in name]
each_variant = pytest.mark.parametrize("name", NAMES)
# What is asked of each alone, and of joins of two that both add parameters; `check_variant` asks
# the rest of all joins.
each_alone = pytest.mark.parametrize("name", [*SINGLE, "adaptive_res+svd_split"])


def test_pairs_of_encoder_and_attention_are_legal_and_others_not():
    ours = [name for name, variant in VARIANTS.items() if variant and not variant.is_own]
    assert ours == SINGLE  # other tests of this process may have entered their own
    assert {"adaptive_res+efficient_attention", "adaptive_res+svd_split"} <= set(NAMES)
    assert "efficient_attention+svd_split" not in NAMES
    for name in NAMES:
        Config.preset("smoke", variant=name)
    with pytest.raises(ValueError, match="both replace the encoder_attention"):
        Config.preset("smoke", variant="efficient_attention+svd_split")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("adaptive_res", 41_304_416),  # as in the journal's log
        ("efficient_attention", 41_302_368),
        ("svd_split", 41_302_384),
        ("adaptive_res+efficient_attention", 41_304_416),
        ("adaptive_res+svd_split", 41_304_432),
        ("group", 41_302_368 + 10 * 100 * 256),
        ("focal", 41_302_368 - 257),
        ("deformable", 40_019_938),
        ("rope", 41_302_368 + 6 * 2 * 8 * 16),
    ],
)
def test_trainable_parameters_in_the_coco_preset(name, expected):
    model = build_detr(Config.preset("coco", variant=name).model)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


@functools.lru_cache(maxsize=2)  # the baseline and one other
def start_of(variant):
    """The weights that one seed gives to a variant."""
    torch.manual_seed(1)
    return build_detr(Config.preset("smoke", variant=variant).model).state_dict()


@each_variant
def test_one_seed_gives_the_baselines_weights_to_all_shared_parts(name):
    states = start_of(BASELINE), start_of(name)
    shared = shared_names(*states, name)
    assert all(torch.equal(states[0][key], states[1][key]) for key in shared)
    assert any(key.startswith("transformer.decoder") for key in shared)


@each_alone
def test_run_is_rebuilt_from_its_folder_with_the_history_of_what_it_adds(
    name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    settings = {"data.toy.num_images": (8, 4, 4), "train.batch_size": 4, "train.lr": 1e-3}
    run = fit(Config.preset("smoke", variant=name, overrides=settings))
    again = load_run(run.path)
    assert again.config.model.variant == name
    features, mask = features_and_mask()
    device = next(run.model.parameters()).device
    with torch.no_grad():
        ours, theirs = (
            r.model(None, mask.to(device), features=features.to(device))["pred_logits"]
            for r in (run, again)
        )
    assert torch.equal(ours, theirs)
    added = {key for _, _, keys in added_parameters(again.model) for key in keys}
    assert run.history.keys() == added
    for key, rows in run.history.items():
        assert len(rows) == run.config.train.epochs + 1
        np.testing.assert_array_equal(rows[-1], again.model.state_dict()[key].cpu())
        assert not np.array_equal(rows[0], rows[-1])


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A checkpoint of the reference's DETR, with the golden weights."""
    path = tmp_path_factory.mktemp("official") / "detr.pth"
    torch.save({"model": reference.state()}, path)
    return path


@each_alone
def test_official_weights_load_and_what_is_new_is_named(name, official):
    model = build_detr(Config.preset("coco", variant=name).model).eval()
    loaded = load_weights(model, official)
    assert set(loaded.new) == model.state_dict().keys() - reference.state().keys()
    golden = reference.read("forward.npz")
    with torch.no_grad():
        outputs = model(*reference.batch())
    if outputs["pred_logits"].shape != golden["pred_logits"].shape:
        return  # logits of another meaning
    if not all(variant.starts_as_detr for variant in resolve(name)):
        assert np.abs(outputs["pred_logits"] - golden["pred_logits"]).max() > 1e-2
        return
    for key in ("pred_logits", "pred_boxes"):
        np.testing.assert_allclose(outputs[key], golden[key], atol=1e-4)
        for i, layer in enumerate(outputs["aux_outputs"]):
            np.testing.assert_allclose(layer[key], golden[f"aux{i}_{key}"], atol=1e-4)


def test_a_variants_weights_do_not_load_into_detr(tmp_path):
    variant = build_detr(Config.preset("smoke", variant="svd_split").model)
    torch.save(variant.state_dict(), tmp_path / "split.pt")
    model = build_detr(Config.preset("smoke").model)
    with pytest.raises(ValueError, match="2 not in this model, such as .*context_gate"):
        load_weights(model, tmp_path / "split.pt")


def test_weights_that_lack_some_of_what_a_variant_adds_are_refused(tmp_path):
    model = build_detr(Config.preset("smoke", variant="adaptive_res").model)
    state = model.state_dict()
    del state["transformer.encoder.norm.bias"]
    torch.save(state, tmp_path / "cut.pt")
    with pytest.raises(ValueError, match="1 missing, such as transformer.encoder.norm.bias"):
        load_weights(model, tmp_path / "cut.pt")


def test_run_whose_weights_are_anothers_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config.preset("smoke", variant="svd_split").model_dump(mode="json")
    folder = RunFolder(tmp_path / "run").create(config)
    torch.save(build_detr(Config.preset("smoke").model).state_dict(), folder.last)
    with pytest.raises(ValueError, match="last.pt does not hold .*new to them: .*object_gate"):
        load_run(folder.path)


def test_start_from_a_detr_is_told_with_what_is_new_and_what_differs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(build_detr(Config.preset("smoke").model).state_dict(), "detr.pt")
    small = {"data.toy.num_images": (8, 4, 4), "train.epochs": 1, "train.init_from": "detr.pt"}
    fit(Config.preset("smoke", variant="adaptive_res+efficient_attention", overrides=small))
    told = capsys.readouterr().out
    assert "starts from weights of detr.pt: " in told
    assert "new to them: transformer.encoder.layer_weights, transformer.encoder.norm" in told
    assert "efficient_attention computes another function" in told


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        ("svd_split", {"solver": "qr"}, r"options.svd_split.solver: .*'auto', 'svd' or 'gram'"),
        ("svd_split", {"layers": [0, -3]}, r"layers is \[0, -3\]; expected one or more of .* 3 "),
        ("svd_split", {"layers": [3]}, "0 to 2, or -1 for the last"),
        ("svd_split", {"layers": []}, "expected one or more"),
        ("efficient_attention", {"softmax": "x"}, "no option 'softmax'; .*mean 'query_softmax'"),
        ("detr", {"svd_split.solver": "svd"}, "would do nothing: the variant is 'detr'"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_built(variant, options, message):
    stem = "model.options." + (f"{variant}." if variant != "detr" else "")
    with pytest.raises(ValueError, match=message):
        Config.preset(
            "smoke", variant=variant, overrides={stem + k: value for k, value in options.items()}
        )


@pytest.mark.parametrize("name", [name for name in SINGLE if VARIANTS[name].needs_encoder])
def test_a_variant_of_the_encoder_needs_encoder_layers(name):
    with pytest.raises(ValueError, match="changes the encoder, which has no layers"):
        Config.preset("smoke", variant=name, overrides={"model.num_encoder_layers": 0})


def test_layers_option_says_where_attention_is_replaced():
    overrides = {"model.options.efficient_attention.layers": [0, -1]}
    config = Config.preset("smoke", variant="efficient_attention", overrides=overrides)
    assert Config.from_dict(config.model_dump(mode="json")) == config
    kinds = [
        type(layer.self_attn).__name__
        for layer in build_detr(config.model).transformer.encoder.layers
    ]
    assert kinds == ["EfficientAttention", "EncoderAttention", "EfficientAttention"]
