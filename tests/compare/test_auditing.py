"""The audit: what it finds by itself in the journal's logs and in run folders."""

import json

import numpy as np
import pytest
from runs_on_disk import JOURNAL, STUDY, write_run

from detrnb.compare import audit
from detrnb.runs.log import read_log


@pytest.fixture(scope="module")
def journal():
    return audit(*JOURNAL)


def texts(found, name):
    return tuple(side[name].text for side in found.findings)


def difference(found, what):
    return next(d for d in found.differences if d.what == what)


@pytest.mark.parametrize(
    ("name", "detr", "adaptive_res"),
    [
        ("learning rate", "0.0001", "5e-05"),
        ("images an epoch", "118,272", "118,280"),
        ("steps an epoch", "3,696", "14,785"),
        ("global batch", "32", "8"),
        ("processes", "8", "1"),
        ("validation images", "4,993 to 5,024", "4,993 to 5,000"),
        ("parameters", "41,302,368", "41,304,416"),
        ("decoder layers", "6", "6"),
        ("seed", "unknown", "unknown"),
    ],
)
def test_journals_runs_are_told_from_their_logs(journal, name, detr, adaptive_res):
    assert texts(journal, name) == (detr, adaptive_res)


def test_journals_inferences_say_how_sure_they_are(journal):
    for side in journal.findings:
        assert side["images an epoch"].certainty == side["global batch"].certainty == "inferred"
        assert side["processes"].certainty == "likely"
        assert side["learning rate"].certainty == "logged"
        assert side["data"].certainty == "unknown"
        assert "6 averaged cardinality errors" in side["images an epoch"].because
    detr, variant = (side["global batch"].because for side in journal.findings)
    assert "1 to 512" in detr and "(of one process 3,678 to 3,688 and few others)" in detr
    assert "1 to 8" in variant and "as do 14,696 to 14,876 and few others" in variant


def test_journals_runs_are_not_comparable_and_why(journal):
    assert not journal.comparable
    assert journal.verdict == (
        "not comparable, because they differ in learning rate (0.0001 against 5e-05), steps an"
        " epoch (3,696 against 14,785), global batch (32 against 8)"
    )


def test_journals_differences_have_their_likely_effect(journal):
    assert "4 times as many optimiser steps in adaptive_res_epoch0" in (
        difference(journal, "steps an epoch").effect
    )
    assert "2,048 (0.005%) more in adaptive_res_epoch0" in difference(journal, "parameters").effect
    images = difference(journal, "images an epoch")
    assert not images.decisive and "one set of 118,280 to 118,287 images" in images.effect
    assert not difference(journal, "processes").decisive
    assert {d.what for d in journal.differences} == {
        *("learning rate", "steps an epoch", "global batch"),
        *("images an epoch", "processes", "parameters"),
    }


def test_journals_results_point_both_ways(journal):
    text = str(journal)
    assert "of 12 COCO numbers better: detr_epoch0 11, adaptive_res_epoch0 1 (APm)" in text
    assert "the training loss points one way, val loss and val AP the other" in text


def test_report_fits_a_terminal_and_holds_every_part(journal):
    text = str(journal)
    assert max(map(len, text.splitlines())) <= 100
    for head in ("Audit of", "What inferences rest on", "What differs", "Results at", "Verdict"):
        assert f"\n{head}" in f"\n{text}"
    assert "not comparable" in text and "One run each" in text


def test_audit_takes_lines_and_is_the_same_for_them(journal):
    found = audit(*map(read_log, JOURNAL))
    assert found.verdict == journal.verdict and found.names == ("log (1)", "log (2)")


def test_table_holds_findings_side_by_side(journal):
    row = journal.table.loc["global batch"]
    assert row["detr_epoch0", "finding"] == "32"
    assert row["adaptive_res_epoch0", "certainty"] == "inferred"


def test_runs_of_one_study_are_comparable_and_what_is_compared_is_named():
    found = audit(STUDY / "detr-s0", STUDY / "encoder1-s0")
    assert found.comparable and found.verdict == "comparable"
    assert {d.what for d in found.differences} == {"parameters", "model.num_encoder_layers"}
    model = difference(found, "model.num_encoder_layers")
    assert (model.first, model.second, model.effect) == ("3", "1", "what is compared")
    assert texts(found, "schedule")[0] == "cosine over 6 epochs, warm-up 10%"
    assert texts(found, "images an epoch")[0] == "12,000"
    assert all(side["steps an epoch"].certainty == "recorded" for side in found.findings)


def test_other_seed_is_named_and_does_not_forbid():
    found = audit(STUDY / "detr-s0", STUDY / "detr-s1")
    assert found.comparable and [d.what for d in found.differences] == ["seed"]


def test_bare_logs_of_the_study_tell_less_and_say_so():
    found = audit(STUDY / "detr-s0" / "log.txt", STUDY / "encoder1-s0" / "log.txt")
    assert texts(found, "images an epoch")[0] == "12,000"
    assert texts(found, "global batch")[0] == "1 to 32"  # the rate changes within each epoch
    assert found.comparable and "unknown: steps an epoch, global batch" in found.verdict
    assert texts(found, "processes")[0] == "unknown"  # detrnb never sorts names


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"train.lr": 1e-3, "train.weight_decay": 0.0}, "train.weight_decay"),
        ({"data.flip": True}, "data.flip"),
        ({"data.eval_size": 256}, "image size"),
    ],
)
def test_conditions_besides_the_model_forbid_the_comparison(tmp_path, settings, what):
    first = write_run(tmp_path, "detr", 0, 0.3)
    second = write_run(tmp_path, "other", 0, 0.3, settings=settings)
    found = audit(first, second)
    assert difference(found, what).decisive and what in found.verdict


def test_workers_and_cached_features_do_not_matter(tmp_path):
    changed = {"data.num_workers": 4, "train.cache_features": False}
    found = audit(
        write_run(tmp_path, "detr", 0, 0.3), write_run(tmp_path, "other", 0, 0.3, settings=changed)
    )
    assert found.verdict == "comparable" and not found.differences


def test_several_settings_of_the_model_cannot_be_told_apart(tmp_path):
    changed = {"model.num_queries": 8, "model.dropout": 0.1}
    found = audit(
        write_run(tmp_path, "detr", 0, 0.3), write_run(tmp_path, "other", 0, 0.3, settings=changed)
    )
    assert "along with 1 more" in difference(found, "model.dropout").effect


def test_other_data_forbid_the_comparison(tmp_path):
    paths = [write_run(tmp_path, name, 0, 0.3) for name in ("detr", "other")]
    provenance = json.loads((paths[1] / "provenance.json").read_text())
    provenance["data"]["instances_val2017"] = "0123456789abcdef"
    (paths[1] / "provenance.json").write_text(json.dumps(provenance))
    assert difference(audit(*paths), "data").decisive


def test_log_that_contradicts_its_provenance_is_named(tmp_path):
    path = write_run(tmp_path, "detr", 0, 0.3)
    provenance = json.loads((path / "provenance.json").read_text())
    (path / "provenance.json").write_text(json.dumps(provenance | {"steps_per_epoch": 374}))
    found = audit(path, STUDY / "detr-s0")
    assert "which does not divide it" in found.findings[0]["images an epoch"].because


def test_accumulated_batches_are_no_processes(tmp_path):
    accumulated = {"train.batch_size": 8, "train.accumulate": 2}  # of the run's 32 a step
    found = audit(
        write_run(tmp_path, "detr", 0, 0.3),
        write_run(tmp_path, "two", 0, 0.3, settings=accumulated),
    )
    assert texts(found, "processes") == ("1", "2")


def constant(rates):
    return [{"train_lr": rate, "train_loss": 2.0, "epoch": e} for e, rate in enumerate(rates)]


@pytest.mark.parametrize(
    ("rates", "text"),
    [
        ([1e-4] * 3, "constant over 3 epochs"),
        ([1e-4, 1e-4, 1e-5], "constant, 0.1 times from epoch 2"),
        ([1e-4, 9e-5, 8e-5, 7e-5, 6e-5], "changes from epoch to epoch"),
        ([1e-4], "unknown"),
    ],
)
def test_schedule_is_read_off_the_logged_rates(rates, text):
    assert texts(audit(constant(rates), constant(rates)), "schedule") == (text, text)


def test_schedules_are_compared_over_common_epochs_whatever_the_rate():
    halved = constant([5e-5, 5e-5])
    found = audit(constant([1e-4, 1e-4, 1e-5]), halved)
    assert [d.what for d in found.differences] == ["learning rate"]
    found = audit(constant([1e-4, 1e-5]), constant([1e-4, 1e-4]))
    assert [d.what for d in found.differences] == ["schedule"]


def test_log_of_a_relative_is_audited_as_far_as_it_goes():
    line = {
        "train_lr": 1e-5,
        "train_loss": 13.8,
        **{f"train_loss_{n}_aux_{i}": 1.0 for i in range(2) for n in ("vfl", "bbox", "giou")},
        **{f"train_loss_{n}": 1.0 for n in ("vfl", "bbox", "giou")},
        "test_coco_eval_bbox": [0.4] * 12,
        "epoch": 0,
        "n_parameters": 20_184_464,
    }
    found = audit([line], [line])
    assert texts(found, "decoder layers")[0] == "3" and texts(found, "processes")[0] == "1"
    assert found.comparable and "images an epoch" in found.unknown


def test_rounded_log_tells_nothing_by_its_digits():
    (line,) = read_log(JOURNAL[0])
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}
    assert texts(audit([line], [rounded]), "images an epoch") == ("118,272", "unknown")


def test_equal_results_point_nowhere():
    (line,) = read_log(JOURNAL[0])
    text = str(audit([line], [line | {"train_loss": 1.0}]))
    assert "points one way" not in text and "neither" in text


@pytest.mark.parametrize(("steps", "own", "processes"), [(57, 4, 16), (3, 1, 8), (700, 2, 4)])
def test_small_distributed_runs_are_told_too(steps, own, processes):
    batch = own * processes
    rate = float(np.full(processes, np.full(steps, 1e-4).cumsum()[-1]).cumsum()[-1])
    noise = np.random.default_rng(steps).integers(1, 20 * batch, (6, steps)).sum(axis=1)
    line = {
        "train_lr": rate / (steps * processes),
        "train_loss": 25.428831253216895,
        **{f"train_loss_{name}": 1.0 for name in ("bbox", "ce", "giou")},
        **{
            f"train_cardinality_error_{i}_unscaled": float(count) / (steps * batch)
            for i, count in enumerate(noise)
        },
        "epoch": 0,
    }
    images = steps * batch
    found = audit([line], [line])
    assert texts(found, "images an epoch")[0] == f"{images:,}"
    assert texts(found, "processes")[0] in ("several", str(processes))
    assert texts(found, "global batch")[0] in (str(batch), f"1 to {images & -images}")
    assert str(found)  # whatever the last digits left to say
