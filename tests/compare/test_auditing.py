"""The audit: what it finds by itself in the journal's logs and in run folders."""

import numpy as np
import pytest
from runs_on_disk import JOURNAL, STUDY, write_run

from detrnb.compare import audit
from detrnb.runs import RunFolder
from detrnb.runs.log import read_log

RUNS_OF_0_1 = "comparable as far as is known; unknown: code"  # which hashed no files


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
    assert found.comparable and found.verdict == RUNS_OF_0_1
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
    assert found.verdict == RUNS_OF_0_1 and not found.differences


def test_several_settings_of_the_model_cannot_be_told_apart(tmp_path):
    changed = {"model.num_queries": 8, "model.dropout": 0.1}
    found = audit(
        write_run(tmp_path, "detr", 0, 0.3), write_run(tmp_path, "other", 0, 0.3, settings=changed)
    )
    assert "along with 1 more" in difference(found, "model.dropout").effect


def test_other_data_forbid_the_comparison(tmp_path):
    paths = [write_run(tmp_path, name, 0, 0.3) for name in ("detr", "other")]
    folder = RunFolder(paths[1])
    provenance = folder.read_provenance()
    provenance["data"]["instances_val2017"] = "0123456789abcdef"
    folder.write_provenance(provenance)
    assert difference(audit(*paths), "data").decisive


def test_log_that_contradicts_its_provenance_is_named(tmp_path):
    path = write_run(tmp_path, "detr", 0, 0.3)
    folder = RunFolder(path)
    folder.write_provenance(folder.read_provenance() | {"steps_per_epoch": 374})
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
    assert texts(found, "decoder layers")[0] == "2 or 3" and texts(found, "processes")[0] == "1"
    assert found.comparable and {"images an epoch", "decoder layers"} <= set(found.unknown)


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
        "train_class_error": 93.1,
        "train_loss": 25.428831253216895,
        **{f"train_loss_{name}": 1.0 for name in ("bbox", "ce", "giou")},
        **{
            f"train_cardinality_error{layer}_unscaled": float(count) / (steps * batch)
            for layer, count in zip(("", "_0", "_1", "_2", "_3", "_4"), noise, strict=True)
        },
        "epoch": 0,
    }
    images = steps * batch
    found = audit([line], [line])
    assert texts(found, "images an epoch")[0] == f"{images:,}"
    assert texts(found, "processes")[0] in ("several", str(processes))
    assert texts(found, "global batch")[0] in (str(batch), f"1 to {images & -images}")
    assert str(found)  # whatever the last digits left to say


def simulated(images, batch, rates, *, own_keys=(), seed=0, losses=("ce", "bbox", "giou")):
    """Lines, one a rate, with averages over `images` in steps of `batch`, in one process.

    Args:
        own_keys: that the reference has not.
    """
    steps, noise = images // batch, np.random.default_rng(seed)
    return [
        {
            "train_lr": float(np.full(steps, rate).cumsum()[-1] / steps),
            "train_class_error": 93.1,
            "train_loss": 2.1343642441124012,
            **{f"train_loss_{name}": 1.0 for name in losses},
            **{
                f"train_cardinality_error{layer}_unscaled": int(noise.integers(images, 9 * images))
                / images
                for layer in ("", "_0", "_1", "_2")
            },
            **dict.fromkeys(own_keys, 1.0),
            "test_coco_eval_bbox": [0.3] * 12,
            "epoch": epoch,
            "n_parameters": 30_000_000,
        }
        for epoch, rate in enumerate(rates)
    ]


def test_what_digits_prove_counts_only_where_the_keys_are_the_references():
    rates = [1e-4, 1e-4]
    reference = audit(*[simulated(4036, 4, rates)] * 2)
    for name, text in (("images an epoch", "4,036"), ("global batch", "4")):
        assert texts(reference, name)[0] == text
        assert reference.findings[0][name].certainty == "inferred"
    other = audit(*[simulated(4036, 4, rates, own_keys=["train_loss_ce_enc"])] * 2)
    for name in ("images an epoch", "global batch"):  # only the last of what was accumulated?
        assert texts(other, name)[0] == texts(reference, name)[0] + " or a multiple"
        assert other.findings[0][name].certainty == "likely" and name in other.unknown
    assert texts(other, "steps an epoch")[0] == "1,009"
    assert other.findings[0]["learning rate"].certainty == "likely"
    assert "if it logs as the reference does" in other.findings[0]["steps an epoch"].because


def test_accumulation_is_not_taken_for_other_data():
    # Both runs saw the same images in sub-batches of 4; of 2 and of 4 the last alone is logged.
    runs = [
        simulated(images, 4, [1e-4, 1e-4], own_keys=["train_epoch_time"], seed=images)
        for images in (4036, 2016)
    ]
    found = audit(*runs)
    assert "images an epoch" not in {d.what for d in found.differences}
    steps = difference(found, "steps an epoch")
    assert steps.doubtful and not steps.decisive and "\n? steps an epoch" in str(found)
    assert found.comparable and found.verdict == (
        "likely not comparable: they differ, if they log as the reference does, in steps an epoch"
        " (1,009 against 504)"
    )
    known = audit(*(simulated(4 * n, 4, [1e-4, 1e-4], seed=n) for n in (1009, 504)))
    assert not known.comparable and {"images an epoch", "steps an epoch"} <= {
        d.what for d in known.differences if d.decisive
    }


def rt_detrs(decoder, denoising, rate=1e-5, others=()):
    places = [
        *("", *(f"_aux_{i}" for i in range(decoder)), *(f"_dn_{i}" for i in range(denoising))),
        *others,
    ]
    losses = {f"train_loss_{n}{place}": 1.0 for place in places for n in ("vfl", "bbox", "giou")}
    return [{"train_lr": rate, "train_loss": 20.0, **losses, "epoch": 0, "n_parameters": 5}]


@pytest.mark.parametrize(
    ("line", "layers"),
    [
        (rt_detrs(6, 6), "6"),  # the sixth is the encoder's
        (rt_detrs(3, 3), "3"),
        (rt_detrs(5, 6, others=["_enc_0"]), "6"),  # RT-DETRv2 and D-FINE name it
        (rt_detrs(5, 0, others=["_enc_0"]), "6"),
        (rt_detrs(5, 6), "6"),
        (rt_detrs(6, 0), "6 or 7"),
        (rt_detrs(1, 1), "1"),
    ],
)
def test_encoders_predictions_are_no_decoder_layer(line, layers):
    assert texts(audit(line, line), "decoder layers")[0] == layers


def test_rate_of_a_first_group_that_is_the_backbones_certifies_and_forbids_nothing():
    found = audit(rt_detrs(3, 3), rt_detrs(3, 3, rate=0.0))
    text, frozen = texts(found, "learning rate")
    assert "1e-05" in text and "first group, there the backbone's" in text and frozen[0] == "0"
    assert found.comparable and not found.differences and "learning rate" in found.unknown
    epochs = [[line | {"epoch": e} for line in rt_detrs(3, 3, rate=0.0) for e in range(2)]] * 2
    assert texts(audit(*epochs), "schedule")[0] == "unknown"


def warming(steps, epochs, over=500, rate=1e-4):
    """An epoch's mean rates of a linear warm-up; they have few digits."""
    rises = rate * np.minimum(np.arange(1, steps * epochs + 1) / over, 1)
    return [float(f"{x:.6g}") for x in rises.reshape(epochs, steps).mean(axis=1)]


@pytest.mark.parametrize("own_keys", [(), ("train_other",)])
def test_warm_up_is_not_taken_for_a_constant_rate(own_keys):
    assert warming(64, 3) == [6.5e-06, 1.93e-05, 3.21e-05]
    lines = simulated(256, 4, [1e-4] * 3, own_keys=own_keys)
    lines = [x | {"train_lr": lr} for x, lr in zip(lines, warming(64, 3), strict=True)]
    found = audit(lines, lines)
    assert texts(found, "learning rate")[0] == "6.5e-06 (mean of epoch 0)"
    assert texts(found, "schedule")[0] == "warm-up to epoch 2"
    assert texts(found, "steps an epoch")[0] == "unknown"
    assert texts(found, "global batch")[0] == ("unknown" if own_keys else "1 to 256")


def test_one_epochs_mean_is_a_rate_only_where_no_warm_up_can_be():
    for own_keys, text in (((), "6.5e-06"), (["train_other"], "6.5e-06 (mean of epoch 0)")):
        lines = simulated(256, 4, [6.5e-06], own_keys=own_keys)
        assert texts(audit(lines, lines), "learning rate")[0] == text


@pytest.mark.parametrize(
    ("rates", "text"),
    [
        ([1e-5, 5e-5, 1e-4, 1e-4], "warm-up to epoch 2, constant"),
        ([1e-5, 1e-4, 1e-4, 1e-5], "warm-up to epoch 1, constant, 0.1 times from epoch 3"),
        ([1e-5, 1e-4, 9e-5, 8e-5, 7e-5, 6e-5], "warm-up to epoch 1, changes from epoch to epoch"),
        ([0.0, 1e-4], "warm-up to epoch 1"),
    ],
)
def test_schedule_begins_with_its_warm_up(rates, text):
    assert texts(audit(constant(rates), constant(rates)), "schedule")[0] == text


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ([1e-5, 1e-4], [5e-5, 1e-4], "epoch 1: 1e-05 in epoch 0, 0.0001 in 1 against"),
        (
            [1e-4, 9e-5, 8e-5, 7e-5, 6e-5],
            [1e-4, 9e-5, 8e-5, 7e-5, 1e-5],
            "to epoch: 0.0001 in epoch 0, 6e-05 in 4 against",
        ),
    ],
)
def test_schedules_that_words_do_not_tell_apart_are_told_by_their_rates(one, other, differ):
    found = audit(constant(one), constant(other))
    [schedule] = [d for d in found.differences if d.what == "schedule"]
    assert schedule.first != schedule.second
    assert differ in str(schedule)


def test_size_that_one_validation_set_lacks_forbids_the_comparison():
    every = [0.1, 0.2, 0.1, 0.02, 0.1, 0.1, 0.1, 0.1, 0.1, 0.02, 0.1, 0.1]
    none_small = [-1.0 if place in (3, 9) else x for place, x in enumerate(every)]
    a, b = (
        [{"train_loss": 3.0, "test_coco_eval_bbox": x, "epoch": 0}] for x in (none_small, every)
    )
    found = audit(a, b)
    assert not found.comparable and "validation objects (medium, large against small" in str(found)
    assert audit(a, a).comparable and audit(b, b).comparable
    zero = [b[0] | {"test_coco_eval_bbox": [0.0] * 12}]  # none found, but there are some
    assert audit(b, zero).comparable
    for unknown in (None, [0.1], [float("nan")] * 12):
        assert audit(a, [b[0] | {"test_coco_eval_bbox": unknown}]).comparable


def test_several_runs_in_one_log_are_said_and_the_last_is_audited():
    first = [{"train_loss": 19.0, "epoch": e, "n_parameters": 100} for e in range(4)]
    last = [{"train_loss": 9.0, "epoch": e, "n_parameters": 90} for e in range(2)]
    found = audit(first + last, first)
    assert texts(found, "parameters") == ("90", "100") and found.epoch == 1
    assert found.remarks == (
        "log (1): 2 runs in one log: epochs begin anew at line 5; only the last run counts, 2"
        " epochs of it",
    )
    assert "\nWhat the logs hold besides\n- log (1): 2 runs" in str(found)


def with_provenance(path, **changed):
    folder = RunFolder(path)
    folder.write_provenance(folder.read_provenance() | changed)
    return path


def test_other_code_forbids_the_comparison_and_its_files_are_named(tmp_path):
    files = {"model/attention.py": "a1", "loss/criterion.py": "b1", "model/detr.py": "c1"}
    a = with_provenance(write_run(tmp_path, "detr", 0, 0.3), code=files)
    changed = {**files, "model/attention.py": "a2", "loss/criterion.py": "b2"}
    b = with_provenance(write_run(tmp_path, "other", 0, 0.3), code=changed, git_commit="other")
    found = audit(a, b)
    assert found.verdict == (
        "not comparable, because they differ in code (loss/criterion.py, model/attention.py)"
    )
    assert "git commit" not in {d.what for d in found.differences}  # the files say more
    # A variant's own file is what is compared.
    with_provenance(b, code={**files, "variants/other.py": "d1"})
    assert audit(a, b).verdict == "comparable"
    # A run that went on with other code is not of the code that it began with.
    with_provenance(b, resumed=[{"code": {**files, "model/detr.py": "c2"}}])
    assert "code (model/detr.py)" in audit(a, b).verdict
    with_provenance(b, code=None, resumed=[])
    assert "unknown: code" in audit(a, b).verdict


def test_other_commit_is_said_where_the_code_is_unknown(tmp_path):
    a, b = (write_run(tmp_path, name, 0, 0.3) for name in ("detr", "other"))
    with_provenance(b, git_commit="0123456789abcdef")
    found = audit(a, b)
    commit = difference(found, "git commit")
    assert found.comparable and not commit.decisive and "code unknown" in commit.effect


@pytest.mark.parametrize(
    ("changed", "what", "decisive"),
    [
        ({"precision": "no"}, "precision (bf16 against no)", True),
        ({"versions": {"torch": "2.0", "python": "3.11.7"}}, "versions (torch)", False),
        ({"resumed": [{"versions": {"torch": "2.0"}}]}, "versions (torch)", False),
        (
            {"resumed": [{"precision": "bf16"}, {"precision": "no"}]},
            "precision (bf16 against bf16, then no)",
            True,
        ),
        ({"device": "NVIDIA H200"}, "device (name)", False),
        ({"seed": 7}, "seed (0 against 0, or 7)", False),
        ({"data": {"instances_val2017": "0123"}}, "data (instances_val2017)", True),
    ],
)
def test_other_provenance_is_a_difference(tmp_path, changed, what, decisive):
    a, b = (write_run(tmp_path, name, 0, 0.3) for name in ("detr", "other"))
    with_provenance(b, **changed)
    assert [(str(d), d.decisive) for d in audit(a, b).differences] == [(what, decisive)]


def test_processors_that_round_otherwise_are_a_difference_and_gpus_have_none_of_it(tmp_path):
    a, b = (
        with_provenance(write_run(tmp_path, name, 0, 0.3), threads=1, instruction_set="AVX512")
        for name in ("detr", "other")
    )
    assert not audit(a, b).differences
    assert texts(audit(a, b), "device") == ("cpu, AVX512", "cpu, AVX512")
    with_provenance(b, threads=2, instruction_set="AVX2")
    assert [str(d) for d in audit(a, b).differences] == ["device (instruction set, threads)"]
    # One that began on the same processor and went on elsewhere is not of it.
    went_on = [{"threads": 1, "instruction_set": "AVX2"}]
    with_provenance(b, threads=1, instruction_set="AVX512", resumed=went_on)
    assert [str(d) for d in audit(a, b).differences] == ["device (instruction set)"]
    assert texts(audit(a, b), "device")[1] == "cpu, AVX512, then AVX2"
    for path in (a, b):
        with_provenance(path, device="NVIDIA H200", threads=1 + (path == b), resumed=[])
    assert not audit(a, b).differences
    # A run of 0.1 told neither: nothing is known to differ.
    with_provenance(a, device="cpu")
    with_provenance(b, device="cpu", threads=None, instruction_set=None)
    assert not audit(a, b).differences


def test_other_images_to_be_tested_on_are_other_data(tmp_path):
    a, b = (write_run(tmp_path, name, 0, 0.3, test_ap=0.3) for name in ("detr", "other"))
    assert audit(a, b).comparable  # neither tells, as in runs of before it was kept
    for path, data in ((a, "0123"), (b, "4567")):
        RunFolder(path).write_test("test2017", 1, [0.3] * 12, {}, 3.0, data)
    assert [str(d) for d in audit(a, b).differences] == ["data (test2017)"]
    assert not audit(a, b).comparable


def test_data_of_no_common_split_are_not_known_to_be_equal(tmp_path):
    a, b = (write_run(tmp_path, name, 0, 0.3) for name in ("detr", "other"))
    with_provenance(b, data={"train": "0123"})
    assert "data" in audit(a, b).unknown


def test_log_without_rates_is_audited_all_the_same():
    lines = [
        {key: x for key, x in line.items() if key != "train_lr"}
        for line in simulated(4036, 4, [1e-4, 1e-4])
    ]
    later = [lines[0], lines[1] | {"train_lr": 1e-4}]
    for log in (lines, later):
        found = audit(log, log)
        assert texts(found, "learning rate")[0] == "unknown" and found.comparable
        assert texts(found, "global batch")[0] == "1 to 4"
