"""Variants join by name, conflicts are refused, and a registered class reaches the model."""

import importlib

import pytest
import torch
from torch import Tensor, nn

from detrnb.model.attention import DecoderSelfAttention, EncoderAttention
from detrnb.model.detr import build_detr
from detrnb.model.transformer import TransformerEncoder
from detrnb.settings import registry
from detrnb.settings.config import Config
from detrnb.settings.registry import LayerOptions, Options, Variant


class ScaledOptions(LayerOptions):
    start: float = 0.5


class ScaledAttention(EncoderAttention):
    """Attention times a learned number, which starts at `start`."""

    def __init__(self, d_model: int, num_heads: int, dropout: float, *, start: float) -> None:
        super().__init__(d_model, num_heads, dropout)
        self.scale = nn.Parameter(torch.tensor(start))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, unseen: Tensor | None) -> Tensor:
        return self.scale * super().attend(q, k, v, unseen)


class GatedAttention(EncoderAttention):
    """Attention with a gate that is shut at the start, and a projection without bias."""

    added = ("gate.weight", "gate.bias")

    def __init__(self, d_model: int, num_heads: int, dropout: float) -> None:
        super().__init__(d_model, num_heads, dropout)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)
        self.gate = nn.Linear(d_model, d_model)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, -3.0)


class ReversedEncoder(TransformerEncoder):
    """Layers from last to first."""

    def __init__(self, layers: list[nn.Module], d_model: int, pre_norm: bool) -> None:
        super().__init__(layers[::-1], d_model, pre_norm)


@pytest.fixture(autouse=True)
def _two_variants(monkeypatch):
    monkeypatch.setattr(registry, "VARIANTS", dict(registry.VARIANTS))
    monkeypatch.setattr("detrnb.settings.model.VARIANTS", registry.VARIANTS)
    for name, part, target, options in (
        ("scaled", "encoder_attention", "ScaledAttention", ScaledOptions),
        ("scaled_too", "encoder_attention", "ScaledAttention", ScaledOptions),
        ("gated", "encoder_attention", "GatedAttention", LayerOptions),
        ("reversed", "encoder", "ReversedEncoder", Options),
    ):
        target = f"{__name__}:{target}"
        registry.enter(Variant(name, {part: target}, "for this test", options))


def test_joined_variants_replace_their_parts_with_their_options():
    config = Config.preset(
        "smoke", variant="reversed+scaled", overrides={"model.options.scaled.start": 0.25}
    )
    model = build_detr(config.model)
    assert isinstance(model.transformer.encoder, ReversedEncoder)
    for layer in model.transformer.encoder.layers:
        assert layer.self_attn.scale.item() == 0.25
    assert type(model.transformer.decoder.layers[0].self_attn) is DecoderSelfAttention


def test_a_variant_shares_the_baselines_initial_weights():
    states = []
    for variant in ("detr", "scaled"):
        torch.manual_seed(0)
        states.append(build_detr(Config.preset("smoke", variant=variant).model).state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_what_a_variant_adds_keeps_its_own_start():
    model = build_detr(Config.preset("smoke", variant="gated").model)
    for layer in model.transformer.encoder.layers:
        gate = layer.self_attn.gate
        assert (gate.weight == 0).all() and (gate.bias == -3).all()
        assert layer.self_attn.out_proj.bias is None
    torch.manual_seed(0)
    plain = build_detr(Config.preset("smoke").model).state_dict()
    torch.manual_seed(0)
    gated = build_detr(Config.preset("smoke", variant="gated").model).state_dict()
    assert all(torch.equal(gated[name], plain[name]) for name in gated.keys() & plain.keys())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scaled+scaled_too", "'scaled' and 'scaled_too' both replace the encoder_attention"),
        ("scaled+scaled", "both replace"),
        ("detr+scaled", "joins with nothing"),
        ("reverse", "did you mean 'reversed'"),
        ("", "unknown variant ''"),
    ],
)
def test_impossible_names_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        Config.preset("smoke", variant=name)


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match=r"no option 'begin'; it has layers, start"):
        Config.preset("smoke", variant="scaled", overrides={"model.options.scaled.begin": 1})


def test_names_register_once():
    with pytest.raises(ValueError, match="is taken"):
        registry.enter(Variant("detr", {"encoder": "a:b"}))


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        ("mine", {"encoder_attn": "a:b"}, "did you mean 'encoder_attention'"),
        ("mine", {"decoders": "a:b"}, "there are encoder_attention, encoder, queries"),
        ("my idea", {"encoder": "a:b"}, "'my idea' cannot be part of a run's name"),
        ("a+b", {"encoder": "a:b"}, r"'\+' joins names"),
        ("mine", {"encoder": "nonsense"}, "expected 'module:attribute', a class, or None"),
        ("mine", {"encoder_attention": "a:b"}, "Options lack layers; derive them from LayerOp"),
    ],
)
def test_what_nothing_could_build_is_refused_when_it_is_registered(name, parts, message):
    with pytest.raises(ValueError, match=message):
        registry.enter(Variant(name, parts))
    assert name not in registry.VARIANTS


@pytest.mark.parametrize("heads", [{"box": (0.0, -2.0)}, {"class_bias": (0.0,) * 4}])
def test_a_head_starts_at_a_number_and_the_box_at_four(heads):
    with pytest.raises(ValueError, match=f"starts the {next(iter(heads))} of the heads at"):
        registry.enter(Variant("mine", {"queries": "a:b"}, heads=heads))


def test_the_source_of_an_entry_is_its_modules():
    """Venue and year, which tables show, are those that the variant's docstring tells."""
    for variant in registry.VARIANTS.values():
        if variant is None or variant.is_own:
            continue
        modules = {made.split(":")[0] for made in variant.parts.values() if isinstance(made, str)}
        docs = (importlib.import_module(module).__doc__ or "" for module in modules)
        told = " ".join(" ".join(docs).split())
        *_, venue = variant.source.split(", ")
        assert venue in told, f"{variant.name}: {variant.source}"
