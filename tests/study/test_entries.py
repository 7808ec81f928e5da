"""What the second study is made of."""

import pytest
import torch
from shared_weights import shared_names
from small_study import settled

from detrnb import build_detr
from detrnb.commands import main
from detrnb.study import second_study


def test_entries_replicates_families_and_controls_are_the_designs():
    plan = second_study()
    replicates = {entry.label: entry.replicates for entry in plan.entries}
    twelve = {"detr", "adaptive_res", "efficient_attention", "efficient_attention_position"}
    twelve |= {"svd_split", "conditional"}
    assert {label for label, n in replicates.items() if n == 12} == twelve
    assert {label for label, n in replicates.items() if n == 3} == {
        *("detr_3_epochs", "detr_12_epochs"),
    }
    assert sum(n == 6 for n in replicates.values()) == 14
    untried = {entry.label for entry in plan.entries if entry.rate_of}
    assert untried == {x for x in replicates if "+" in x or x in ("twin", "no_encoder")} | {
        *("detr_3_epochs", "detr_9_epochs", "detr_12_epochs"),
    }
    assert {f.name: (f.baseline, len(f.entries)) for f in plan.families} == {
        "the journal's": ("detr", 4),
        "published": ("detr", 8),
        "joined": ("conditional", 4),
    }
    assert {c.entry: (c.expected, c.decisive) for c in plan.controls} == {
        "twin": ("neither", False),
        "detr_9_epochs": ("better", False),
        "no_encoder": ("worse", True),
        "conditional": ("better", False),
    }
    assert (plan.delta, plan.level, plan.first) == (0.02, 0.05, 200)
    assert plan.trials.replicates == (100, 101) and plan.trials.factors == (0.5, 1.0, 2.0)
    assert second_study().trials.epochs == 3 and second_study(full=True).trials.epochs is None


def test_entries_of_a_replicate_share_all_but_their_change_rate_and_length():
    plan = settled(second_study())
    changed = [
        e.model_copy(update={"rate": 2.0}) if e.label == "conditional" else e for e in plan.entries
    ]
    plan = plan.model_copy(update={"entries": tuple(changed)})
    base = plan.config("detr", 203)
    assert (base.data.toy.seed, base.train.seed, base.train.precision) == (203, 203, "fp32")
    for entry in plan.entries:
        config = plan.config(entry.label, 203)
        assert config.data == base.data
        own = {"lr", "seed", "epochs"}
        assert config.train.model_dump(exclude=own) == base.train.model_dump(exclude=own)
        assert config.train.seed == (1203 if entry.label == "twin" else 203)
        assert config.train.lr == base.train.lr * (2 if "conditional" in entry.label else 1)
    assert plan.config("detr_9_epochs", 200).train.epochs == 9
    assert plan.budgets == {"detr_3_epochs": 0.5, "detr_9_epochs": 1.5, "detr_12_epochs": 2.0}
    joined = plan.config("conditional+efficient_attention_position", 200).model
    assert joined.variant == "conditional+efficient_attention"
    assert joined.options["efficient_attention"]["query_softmax"] == "position"
    assert plan.config("no_encoder", 200).model.num_encoder_layers == 0


def test_entries_of_a_replicate_share_their_initial_weights():
    plan = settled(second_study("smoke"))
    torch.manual_seed(200)
    weights = build_detr(plan.config("detr", 200).model).state_dict()
    for label in ("conditional+svd_split", "group"):
        config = plan.config(label, 200)
        torch.manual_seed(config.train.seed)
        state = build_detr(config.model).state_dict()
        for name in shared_names(weights, state, config.model.variant):
            assert torch.equal(state[name], weights[name]), (label, name)


@pytest.mark.parametrize("preset", ["coco", "finetune"])
def test_a_study_of_data_that_are_not_generated_is_refused(preset, capsys):
    assert main(["study", "--preset", preset, "--status"]) == 1
    told = capsys.readouterr().err
    assert f"preset {preset} trains on data that are not generated" in told
    assert "take toy or smoke" in told
