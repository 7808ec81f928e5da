"""What a variant must hold: the package's own hold it, and wrong classes are told with a remedy."""

import pytest
import torch
import toy_variants
from torch import nn

from detrnb import VARIANTS, check_variant, variant
from detrnb.loss import SetCriterion
from detrnb.model import DecoderSelfAttention, EncoderAttention, LearnedQueries
from detrnb.settings import combinations, registry, resolve
from detrnb.study.bench import Bench
from detrnb.study.checking import CHECKS, Checked, outcome_of
from detrnb.study.checks import Skipped

OWN = [name for name in combinations() if "+" not in name]
JOINS = [name for name in combinations() if "+" in name]
EXPORTED = (
    "adaptive_res+efficient_attention+conditional+group+focal",
    "rope+dab",
    "dn_dab",
    "reference_points",
    "deformable",
    "svd_split",
)
OF_JOINS = ("builds", "shapes", "gradients", "padding", "state dict")


@pytest.fixture(autouse=True)
def _registry_as_it_was(monkeypatch):
    for place in ("registry", "model", "own"):
        monkeypatch.setattr(f"detrnb.settings.{place}.VARIANTS", VARIANTS)
    monkeypatch.setattr(registry, "VARIANTS", VARIANTS)
    before = dict(VARIANTS)
    yield
    VARIANTS.clear()
    VARIANTS.update(before)


@pytest.mark.parametrize("name", [*OWN, *toy_variants.NAMES])
def test_variants_hold_what_they_must(name):
    bench = Bench(name)
    outcomes = {c.name: outcome_of(c, bench) for c in CHECKS if c.name != "export"}
    assert Checked(name, tuple(outcomes.values())).ok, str(outcomes)
    skipped = {check for check, one in outcomes.items() if one.outcome == "skipped"}
    as_detr = all(variant.starts_as_detr for variant in resolve(name))
    assert skipped == (set() if as_detr else {"starts as DETR"}), str(outcomes)


# Exporting takes longer than all other checks together.
@pytest.mark.parametrize("name", EXPORTED)
def test_every_variant_exports_alone_or_joined(name):
    found = outcome_of(next(c for c in CHECKS if c.name == "export"), Bench(name))
    # ONNX has no eigenvectors.
    assert found.outcome == ("skipped" if name == "svd_split" else "ok"), found.seen


def test_every_variant_is_in_an_export():
    assert {part for name in EXPORTED for part in name.split("+")} == set(OWN)


def test_checking_a_join_of_ones_own_does_all_checks():
    found = check_variant(toy_variants.JOINED)
    assert found.ok, str(found)
    assert len(found.outcomes) == len(CHECKS)


@pytest.mark.parametrize("name", JOINS)
def test_joins_build_learn_and_ignore_padding(name):
    bench = Bench(name)
    for check in CHECKS:
        if check.name in OF_JOINS:
            check.run(bench)


class WrongShape(EncoderAttention):
    def forward(self, x, pos, padding_mask=None, grid=None):
        return super().forward(x, pos, padding_mask, grid).mean(1)[:, None, :-1]


class Breaks(EncoderAttention):
    def forward(self, x, pos, padding_mask=None, grid=None):
        return super().forward(x[:, :-1], pos, padding_mask, grid)


class LeaksPadding(EncoderAttention):
    def forward(self, x, pos, padding_mask=None, grid=None):
        return super().forward(x, pos, padding_mask, grid) + x.mean(1, keepdim=True)


class SeesItsNeighbour(EncoderAttention):
    def forward(self, x, pos, padding_mask=None, grid=None):
        return super().forward(x, pos, padding_mask, grid) + x.mean(0, keepdim=True)


class DeadParameter(EncoderAttention):
    def __init__(self, d_model, num_heads, dropout):
        super().__init__(d_model, num_heads, dropout)
        self.unused = nn.Parameter(torch.ones(d_model))


class OverflowsInHalf(EncoderAttention):
    def forward(self, x, pos, padding_mask=None, grid=None):
        out = super().forward(x, pos, padding_mask, grid)
        exact = out.dtype == torch.float32
        return out if exact else out / (out - out)


class DrawsAnew(EncoderAttention):
    def forward(self, x, pos, padding_mask=None, grid=None):
        return super().forward(x, pos, padding_mask, grid) + self.training * torch.rand(())


class Added(SetCriterion):
    """A loss more, which is told, or not, or has no weight."""

    told, weighed = True, True

    def __init__(self, num_classes, num_queries, num_layers, costs, weights, eos_coef):
        super().__init__(num_classes, num_queries, num_layers, costs, weights, eos_coef)
        if self.weighed:
            self.weight_dict["loss_more"] = 1.0

    def names(self, layout):
        return super().names(layout) + ["loss_more"] * self.told

    def losses(self, logits, boxes, targets, matches, layout=None, normalizers=None):
        found = super().losses(logits, boxes, targets, matches, layout, normalizers)
        return found | {"loss_more": boxes.sum() * 1e-3}


class Untold(Added):
    told, weighed = False, True


class Unweighed(Added):
    weighed = False


@pytest.mark.parametrize(
    ("cls", "seen"),
    [
        (Untold, "there is loss_more; override `names`, and give what is to be trained its weight"),
        (Unweighed, "loss_more has no weight, so that nothing trains it"),
    ],
)
def test_a_loss_that_nothing_trains_is_told(cls, seen):
    variant("wrong", part="criterion")(cls)
    outcome = outcome_of(next(c for c in CHECKS if c.name == "losses"), Bench("wrong"))
    assert outcome.outcome == "fails" and seen in outcome.seen
    variant("right", part="criterion")(Added)
    assert outcome_of(next(c for c in CHECKS if c.name == "losses"), Bench("right")).outcome == "ok"


class WithDropout(EncoderAttention):
    """Dropout of its own, for which it asks for no size."""

    def __init__(self, d_model, num_heads, *, shared_layers: int = 1):
        super().__init__(d_model, num_heads)
        self.drop = nn.Dropout(0.5)

    def forward(self, x, pos, padding_mask=None, grid=None):
        return self.drop(super().forward(x, pos, padding_mask, grid))


def test_a_class_with_dropout_of_its_own_and_any_option_holds():
    variant("dropping", part="encoder_attention")(WithDropout)
    bench, asked = Bench("dropping"), ("builds", "options", "padding", "neighbours", "equal twice")
    outcomes = {c.name: outcome_of(c, bench) for c in CHECKS if c.name in asked}
    assert [o.outcome for o in outcomes.values()] == ["ok"] * 5, str(outcomes)


def test_a_class_that_is_in_no_place_is_told():
    """A decoder that makes its layers by itself leaves no place for another's attention."""

    class Alone(nn.Module):
        def __init__(self, num_layers, d_model):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(d_model, d_model) for _ in range(num_layers))

        def forward(self, queries, memory, pos, padding_mask, grid, box_head):
            return torch.stack([layer(queries.content) for layer in self.layers]), None

    class Silent(DecoderSelfAttention):
        pass

    variant("alone", part="decoder")(Alone)
    variant("silent", part="decoder_self_attention")(Silent)
    assert check_variant("silent").outcomes[0].outcome == "ok"
    (found,) = check_variant("alone+silent").outcomes
    assert "Silent of 'silent' is in no place" in found.seen


@pytest.mark.parametrize(
    ("cls", "check", "seen"),
    [
        (WrongShape, "shapes", "RuntimeError: The size of tensor a"),
        (Breaks, "shapes", "in forward, line "),
        (LeaksPadding, "padding", "with other padding"),
        (SeesItsNeighbour, "neighbours", "beside another image differ by"),
        (
            DeadParameter,
            "gradients",
            "no gradient reaches transformer.encoder.layers.0.self_attn",
        ),
        (OverflowsInHalf, "bfloat16", "not finite"),
        (DrawsAnew, "equal twice", "differ between two equal passes in training"),
    ],
)
def test_wrong_classes_are_told_with_what_to_do(cls, check, seen):
    variant("wrong", part="encoder_attention")(cls)
    bench = Bench("wrong")
    outcomes = {c.name: outcome_of(c, bench) for c in CHECKS if c.name in (check, "builds")}
    assert outcomes["builds"].outcome == "ok" and outcomes[check].outcome == "fails"
    assert seen in outcomes[check].seen
    found = Checked("wrong", tuple(outcomes.values()))
    assert not found.ok and outcomes[check].remedy in str(found)
    assert f"<td>{outcomes[check].remedy}</td>" in found._repr_html_()


def test_what_cannot_be_built_is_told_and_nothing_else_is_tried():
    class Asks(LearnedQueries):
        anchor_size = 3

    variant("asks", part="queries")(Asks)
    found = check_variant("asks")
    assert [o.outcome for o in found.outcomes] == ["fails"]
    assert "anchor_size is 3; expected 0 (no anchors), 2 or 4" in found.outcomes[0].seen
    with pytest.raises(ValueError, match="did you mean 'asks'"):
        check_variant("askz")
    with pytest.raises(ValueError, match="Bench is no variant's part"):
        check_variant(Bench)


def test_attention_that_keeps_nothing_is_told_but_no_fault():
    class Mix(nn.Module):
        def __init__(self, d_model):
            super().__init__()
            self.value = nn.Linear(d_model, d_model)

        def forward(self, x, pos, padding_mask, grid):
            return self.value(x)

    variant("mix", part="encoder_attention")(Mix)
    (recording,) = (check for check in CHECKS if check.name == "recording")
    with pytest.raises(Skipped, match="not in pictures: encoder.0.self, encoder.1.self"):
        recording.run(Bench("mix"))
