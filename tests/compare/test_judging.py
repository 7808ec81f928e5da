"""Verdicts on studies of run folders, and the command line."""

import json

import numpy as np
import pytest
from runs_on_disk import JOURNAL, ROOT, STUDY, write_run

from detrnb.commands import main
from detrnb.compare import decisions, verdicts
from detrnb.runs import RunFolder


def write_study(folder, entries, seeds=6, **options):
    """Runs of entries, each with what its AP differs by from the baseline's."""
    noise = np.random.default_rng(3)
    paths = []
    for number, (entry, difference) in enumerate(entries.items()):
        for seed in range(seeds):
            ap = 0.3 + difference + 0.001 * noise.normal()
            setting = {"model.num_queries": 16 + number}
            paths.append(write_run(folder, entry, seed, ap, settings=setting, **options))
    return paths


def test_verdicts_are_in_words_with_their_cost(tmp_path):
    paths = write_study(tmp_path, {"detr": 0.0})
    for entry, difference, seconds, queries in (
        ("better", 0.025, 60.0, 17),
        ("same", 0.0, 78.0, 18),
        ("worse", -0.025, 30.0, 19),
    ):
        noise = np.random.default_rng(queries)
        for seed in range(6):
            ap = 0.3 + difference + 0.001 * noise.normal()
            setting = {"model.num_queries": queries}
            paths.append(write_run(tmp_path, entry, seed, ap, settings=setting, seconds=seconds))
    found = verdicts(paths)
    assert (found.baseline, found.metric, found.left_out) == ("detr", "validation AP", {})
    assert found.values.shape == (6, 4) and found.seconds["same"].tolist() == [78.0] * 6
    assert found.table["verdict"].tolist() == ["better", "equivalent", "worse"]
    better, same, worse = found.table["text"]
    assert better.startswith("better: +0.02") and better.endswith(", as fast; code unknown")
    assert same.startswith("equivalent: ")
    assert "6 pairs, within ±0.02, 1.3 times slower; " in same
    assert worse.startswith("worse: -0.0") and ", 2 times faster; " in worse


def test_the_test_split_counts_where_every_run_has_it(tmp_path):
    paths = write_study(tmp_path, {"detr": 0.0, "other": 0.0}, seeds=5, test_ap=0.2)
    found = verdicts(paths)
    assert found.metric == "AP on test2017" and (found.values == 0.2).all(axis=None)
    (paths[-1] / "test.json").unlink()
    found = verdicts(paths)
    assert found.metric == "validation AP" and (found.values > 0.25).all(axis=None)


def test_committed_runs_are_described():
    found = verdicts(sorted(STUDY.iterdir()))
    assert found.table["verdict"].tolist() == ["described", "described"]
    assert found.table.loc["encoder1", "difference"] == pytest.approx(-0.045114, abs=1e-6)
    assert found.table["parameters"].tolist() == [-594_816, -396_544]
    text = found.table.loc["encoder1", "text"]
    assert text.startswith("described: -0.045 (")
    assert "0.73 to 3.4 times the time" in text  # one run waited for the machine


def test_baseline_may_be_named_and_is_the_first_where_none_is_detr():
    runs = sorted(STUDY.iterdir())
    assert verdicts(runs, baseline="encoder1").table.index.tolist() == ["detr", "encoder0"]
    assert verdicts(runs[3:]).baseline == "encoder0"
    with pytest.raises(ValueError, match="no entry 'encoder'"):
        verdicts(runs, baseline="encoder")


def test_unfinished_runs_and_bare_logs_are_left_out_with_the_reason(tmp_path):
    paths = write_study(tmp_path, {"detr": 0.0, "other": 0.1}, seeds=2)
    short = write_run(
        tmp_path, "other", 7, 0.9, epochs=4, logged=1, settings={"model.num_queries": 17}
    )
    found = verdicts([*paths, short, JOURNAL[0]])
    assert found.left_out == {
        "other-s7": "3 epochs are missing",
        "detr_epoch0": "its seed is not known",
    }
    assert found.values.index.tolist() == [0, 1]


def test_one_entry_alone_has_no_verdict(tmp_path):
    with pytest.raises(ValueError, match="need two entries .* found detr"):
        verdicts(write_study(tmp_path, {"detr": 0.0}, seeds=2))


def test_a_seed_twice_in_an_entry_is_refused(tmp_path):
    paths = write_study(tmp_path, {"detr": 0.0, "other": 0.1}, seeds=2)
    with pytest.raises(ValueError, match=r"detr-s0 \(2\) is a second run of an entry's seed"):
        verdicts([*paths, paths[0]])


def test_command_line_audits_two_runs(capsys):
    assert main(["compare", *[str(path) for path in JOURNAL]]) == 0
    printed = capsys.readouterr().out
    assert "41,304,416" in printed and "not comparable, because they differ in" in printed
    assert max(map(len, printed.splitlines())) <= 100 and "Entries against" not in printed


def test_command_line_judges_a_study(capsys, tmp_path):
    paths = write_study(tmp_path, {"detr": 0.0, "other": 0.1})
    assert main(["compare", *[str(path) for path in paths]]) == 0
    printed = capsys.readouterr().out
    assert "Audit of detr-s0 against each other run" in printed
    assert (
        "- detr-s1, detr-s2, detr-s3, detr-s4, detr-s5: comparable as far as is known; unknown:"
        in printed
    )
    assert "Entries against detr, by validation AP of pairs of equal seed" in printed
    assert "- other: better: +0.100" in printed
    assert max(map(len, printed.splitlines())) <= 100


def test_command_line_begins_with_the_baseline_and_keeps_the_order_of_two(capsys):
    runs = [str(STUDY / f"{entry}-s0") for entry in ("encoder0", "encoder1", "detr")]
    assert main(["compare", *runs]) == 0
    assert "Audit of detr-s0 against each other run" in capsys.readouterr().out
    assert main(["compare", *runs[1:]]) == 0
    assert "Audit of encoder1-s0 and detr-s0" in capsys.readouterr().out


def test_command_line_goes_on_without_verdicts_while_a_study_runs(capsys, tmp_path):
    paths = write_study(tmp_path, {"detr": 0.0}, seeds=2)
    paths.append(
        write_run(tmp_path, "new", 0, 0.1, epochs=9, logged=1, settings={"model.num_queries": 9})
    )
    assert main(["compare", *[str(path) for path in paths]]) == 0
    assert "No verdicts: verdicts need two entries" in capsys.readouterr().out


def test_command_line_shows_one_run(capsys):
    assert main(["compare", *[str(STUDY / "detr-s0")]]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("detr-s0")


def test_command_line_says_what_it_cannot_read(capsys, tmp_path):
    assert main(["compare", *[str(tmp_path)]]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "no log at" in captured.err


def test_verdict_names_conditions_besides_the_model(tmp_path):
    paths = [
        write_run(tmp_path, entry, seed, 0.3 + seed / 100, settings={"train.weight_decay": decay})
        for entry, decay in (("detr", 1e-4), ("decayed", 1e-2))
        for seed in range(2)
    ]
    found = verdicts(paths).table.loc["decayed"]
    assert found["conditions"] == "train.weight_decay"
    assert "not by the model alone, as these differ too: train.weight_decay" in found["text"]


CODE = {"model/detr.py": "1", "loss/criterion.py": "1"}


def write_pairs(folder, seeds=6, of=(), **changed):
    """A study of `detr` and `other`, better by far, whose runs of some seeds were made otherwise.

    Args:
        of: the seeds of `other` whose provenance is changed.
    """
    paths = write_study(folder, {"detr": 0.0, "other": 0.03}, seeds)
    for path in paths:
        run = RunFolder(path)
        provenance = run.read_provenance() | {"code": CODE}
        if path.name in {f"other-s{seed}" for seed in of}:
            provenance |= changed
        run.write_provenance(provenance)
    return paths


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        ({"code": CODE | {"model/detr.py": "2"}}, "code", "code (model/detr.py; seed 3)"),
        ({"data": {"instances_val2017": "0"}}, "data", "data (instances_val2017; seed 3)"),
        ({"precision": "no"}, "precision", "precision (seed 3)"),
        ({"seed": 9}, "seed", "seed (seed 3)"),
    ],
)
def test_one_pair_that_differs_forbids_the_verdict_unless_accepted(tmp_path, changed, kind, said):
    paths = write_pairs(tmp_path, of=[3], **changed)
    row = verdicts(paths).table.loc["other"]
    assert (row["verdict"], row["forbidden"], row["conditions"]) == ("not judged", said, "")
    assert np.isnan(row["p_holm"]) and row["difference"] == pytest.approx(0.03, abs=0.002)
    assert row["text"].startswith(f"not judged (AP +0.030), as pairs differ in {said};")
    decided = decisions(verdicts(paths), 6).loc["other"]
    assert decided["decision"] == "not decided" and said in decided["reason"]

    for other in {"code", "data", "precision", "seed"} - {kind}:
        assert verdicts(paths, accept=[other]).table.loc["other", "verdict"] == "not judged"
    for accept in ((kind,), kind):
        row = verdicts(paths, accept=accept).table.loc["other"]
        assert (row["verdict"], row["forbidden"], row["accepted"]) == ("better", "", said)
        assert row["text"].endswith(f", as fast, accepted that pairs differ in {said}")
    decided = decisions(verdicts(paths, accept=[kind]), 6).loc["other"]
    assert (
        decided["decision"] == "applied"
        and f"accepted that pairs differ in {said}" in (decided["reason"])
    )


def test_every_pair_is_audited_for_conditions_too(tmp_path):
    paths = write_pairs(tmp_path, of=[1, 2, 3, 4, 5], global_batch=128, steps_per_epoch=93)
    row = verdicts(paths).table.loc["other"]
    assert row["conditions"].endswith("global batch (seeds 1, 2, 3, 4, 5)")
    assert row["verdict"] == "better" and "not by the model alone" in row["text"]
    assert decisions(verdicts(paths), 6).loc["other", "decision"] == "not decided"


def test_other_validation_objects_are_other_data(tmp_path):
    paths = write_pairs(tmp_path)
    log = paths[-1] / "log.txt"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        line["test_coco_eval_bbox"][5] = -1.0 if line["test_coco_eval_bbox"][5] != -1 else 0.5
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert verdicts(paths).table.loc["other", "forbidden"] == "validation objects (seed 5)"
    assert verdicts(paths, accept=["data"]).table.loc["other", "verdict"] == "better"


def test_commits_and_versions_are_said_and_forbid_nothing(tmp_path):
    changed = {"git_commit": "0" * 40, "code": None, "versions": {"torch": "1.0"}}
    row = verdicts(write_pairs(tmp_path, of=[0, 4], **changed)).table.loc["other"]
    assert (row["verdict"], row["forbidden"], row["conditions"]) == ("better", "", "")
    assert row["text"].endswith(
        "; code unknown, other versions (torch; seeds 0, 4), other git commit (seeds 0, 4)"
    )


def test_processors_that_round_otherwise_are_said_with_their_pairs(tmp_path):
    paths = write_pairs(tmp_path)
    for path in paths:
        run, last = RunFolder(path), path.name == "other-s4"
        told = {"instruction_set": "AVX2" if last else "AVX512"}
        run.write_provenance(run.read_provenance() | told)
    row = verdicts(paths).table.loc["other"]
    assert row["verdict"] == "better"
    assert row["text"].endswith("; other device (instruction set; seed 4)")


def test_runs_of_known_and_equal_code_need_no_word(tmp_path):
    row = verdicts(write_pairs(tmp_path)).table.loc["other"]
    assert (row["verdict"], row["said"]) == ("better", "") and row["text"].endswith(", as fast")


def test_what_cannot_be_accepted_is_refused(tmp_path):
    with pytest.raises(
        ValueError,
        match="cannot accept 'codes'; take of code, .*, seed, learning rate",
    ):
        verdicts(write_pairs(tmp_path, seeds=1), accept=["codes"])


def test_a_forbidden_entry_is_no_comparison_that_others_are_adjusted_for(tmp_path):
    paths = write_pairs(tmp_path, of=[0], precision="no")
    paths += [
        write_run(
            tmp_path, "third", seed, 0.3 + 0.01 * (seed % 2), settings={"model.num_queries": 5}
        )
        for seed in range(6)
    ]
    alone = verdicts([path for path in paths if "other" not in path.name]).table
    assert verdicts(paths).table.loc["third", "p_holm"] == alone.loc["third", "p_holm"]


def test_the_toy_study_is_judged_though_its_commits_differ():
    found = verdicts(sorted((ROOT / "data" / "study" / "toy").iterdir())).table
    assert (found["forbidden"] == "").all() and (found["conditions"] == "").all()
    assert found["said"].str.startswith("code unknown").all()
    assert found.loc["svd_split", "said"] == "code unknown, other git commit (seed 0)"


def test_ends_of_unequal_length_are_a_condition(tmp_path):
    paths = write_study(tmp_path, {"detr": 0.0})
    paths += write_study(tmp_path, {"short": 0.1}, epochs=1)
    row = verdicts(paths).table.loc["short"]
    assert row["conditions"] == "epochs" and "these differ too: epochs" in row["text"]


def test_conditions_are_accepted_by_name_for_all_or_by_entry(tmp_path):
    paths = write_study(tmp_path, {"detr": 0.0, "other": 0.1})
    paths += write_study(tmp_path, {"short": 0.1}, epochs=1)
    for path in paths:
        if path.name.startswith("other"):
            log = path / "log.txt"
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            text = "".join(json.dumps(x | {"train_lr": 2 * x["train_lr"]}) + "\n" for x in lines)
            log.write_text(text)
    found = verdicts(paths).table["conditions"]
    assert found.to_dict() == {"other": "learning rate", "short": "epochs"}
    for accept in ({"other": ["learning rate"], "short": "epochs"}, ["learning rate", "epochs"]):
        table = verdicts(paths, accept=accept).table
        assert (table["conditions"] == "").all()
        assert table["accepted"].tolist() == ["learning rate", "epochs"]
        assert "accepted that pairs differ in learning rate" in table.loc["other", "text"]


def test_runs_of_a_plan_are_paired_by_replicate_under_the_plans_labels(tmp_path):
    paths = write_study(tmp_path, {"detr": 0.0, "other": 0.1}, seeds=5)
    for path in paths:
        run = RunFolder(path)
        entry, seed = path.name.split("-s")
        settings, provenance = run.read_config(), run.read_provenance()
        settings["train"]["seed"] += 1000 * (entry == "other")
        settings["data"]["toy"]["seed"] = 200 + int(seed)
        study = {"plan": "0", "entry": {"other": "twin"}.get(entry, entry)}
        named = {"study": study | {"replicate": 200 + int(seed)}, "seed": settings["train"]["seed"]}
        run.config_path.write_text(json.dumps(settings))  # without a checksum: the log has none
        run.write_provenance(provenance | named)
    found = verdicts(paths, accept={"twin": "seed"})
    assert found.values.index.tolist() == [200, 201, 202, 203, 204]
    assert found.table.loc["twin", "verdict"] == "better"
    assert found.table.loc["twin", "accepted"] == "seed"
    assert verdicts(paths).table.loc["twin", "verdict"] == "not judged"


def test_steps_timed_in_some_replicates_price_an_entry(tmp_path):
    paths = write_study(tmp_path, {"detr": 0.0, "other": 0.1}, seeds=5)
    for path in paths:
        run = RunFolder(path)
        run.write_provenance(run.read_provenance() | {"steps_per_epoch": 10})
        if path.name.endswith(("-s0", "-s1")):
            run.write_timing(0.3 if "other" in path.name else 0.2, 40)
    found = verdicts(paths)
    assert found.table.loc["other", "time"] == pytest.approx(1.5)
    assert found.seconds["detr"].dropna().index.tolist() == [0, 1]
