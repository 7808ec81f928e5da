"""Runs as they are read for comparison, and study entries."""

import json
import shutil

import pytest
from runs_on_disk import JOURNAL, STUDY, write_run

from detrnb.commands import main
from detrnb.compare import arrange, entries, find_records, read_record, read_records
from detrnb.runs import RunFolder
from detrnb.runs.log import read_log
from detrnb.settings import Config


def test_run_folder_is_read_whole():
    record = read_record(STUDY / "encoder0-s2")
    assert (record.name, record.entry, record.seed) == ("encoder0-s2", "encoder0", 2)
    assert record.provenance["steps_per_epoch"] == 375 and record.test == {}
    assert len(record.log) == 6 and record.epochs_missing == 0


def test_log_file_lines_and_opened_runs_are_read_too():
    assert read_record(str(JOURNAL[0])).name == "detr_epoch0"
    assert read_record(STUDY / "detr-s0" / "log.txt").name == "detr-s0"
    assert read_record(read_log(JOURNAL[0])).log["n_parameters"].tolist() == [41_302_368]
    record = read_record(STUDY / "detr-s0")
    assert read_record(record) is record

    class Run:
        path = STUDY / "detr-s1"

    assert read_record(Run()).seed == 1


def test_runs_are_arranged_baseline_first_then_by_how_many_there_are(tmp_path):
    paths = [
        write_run(tmp_path, entry, seed, 0.3, settings={"model.num_queries": queries})
        for queries, (entry, seeds) in enumerate((("a", 1), ("b+c", 2), ("detr", 1), ("c", 2)), 9)
        for seed in range(seeds)
    ]
    names = [record.name for record in arrange(read_records(paths))]
    assert names == ["detr-s0", "c-s0", "c-s1", "b+c-s0", "b+c-s1", "a-s0"]
    assert arrange(read_records(paths), baseline="a")[0].name == "a-s0"
    assert arrange(read_records(JOURNAL[::-1]))[0].name == "adaptive_res_epoch0"
    assert arrange([]) == []


def test_paths_and_wildcards_find_runs_from_a_root_each_once(tmp_path):
    for entry in ("b", "a"):
        write_run(tmp_path / "runs", entry, 0, 0.3)
    (tmp_path / "runs" / "smoke_figures").mkdir()
    (tmp_path / "runs" / "01.ipynb").write_text("{\n}\n")
    records, left_out = find_records(["runs/b-s0", "runs/*", str(JOURNAL[0])], tmp_path)
    assert [record.name for record in records] == ["b-s0", "a-s0", "detr_epoch0"]
    assert set(left_out) == {"runs/01.ipynb", "runs/smoke_figures"}
    assert left_out["runs/01.ipynb"].startswith("runs/01.ipynb, line 1: not JSON")
    assert find_records("runs/a*/log.txt", tmp_path)[0][0].name == "a-s0"


def test_wildcards_may_find_nothing_but_a_named_path_must_be_there(tmp_path):
    assert find_records("*", tmp_path) == ([], {})
    with pytest.raises(ValueError, match="no log at .*typo"):
        find_records(["typo"], tmp_path)


def test_the_command_leaves_out_folders_without_a_log_where_two_others_are_there(tmp_path, capsys):
    runs = [str(write_run(tmp_path, "detr", seed, 0.3)) for seed in (0, 1)]
    for name in ("workbook", "compare"):  # which a shell finds in runs/*/ too
        (tmp_path / name).mkdir()
    others = [f"{tmp_path}/workbook/", f"{tmp_path}/compare/"]
    assert main(["compare", others[0], *runs, others[1]]) == 0
    shown = capsys.readouterr()
    assert "Audit of detr-s0 and detr-s1" in shown.out and "workbook" not in shown.out
    assert shown.err.splitlines() == [f"left out: {other}: no log there" for other in others]
    assert main(["compare", runs[0], others[0]]) == 1  # nothing is left to compare it with
    assert f"no log at {tmp_path}/workbook" in capsys.readouterr().err
    assert main(["compare", *runs, f"{tmp_path}/typo"]) == 1
    assert f"no log at {tmp_path}/typo" in capsys.readouterr().err
    (tmp_path / "workbook" / "log.txt").write_text("damaged")
    assert main(["compare", *runs, others[0]]) == 1
    assert "line 1: not JSON" in capsys.readouterr().err


def test_log_without_settings_has_no_seed_and_misses_nothing():
    record = read_record(JOURNAL[0])
    assert record.seed is None and record.config == {} and record.epochs_missing == 0


def test_run_that_is_not_finished_tells_what_is_missing(tmp_path):
    assert read_record(write_run(tmp_path, "detr", 0, 0.3, epochs=5, logged=2)).epochs_missing == 3


def test_run_that_ends_early_says_so(tmp_path):
    path = write_run(tmp_path, "detr", 0, 0.3, epochs=5, logged=2)
    assert read_record(path).remarks == ["3 of its 5 epochs are missing"]
    with (path / "log.txt").open("a") as log:
        log.write('{"train_loss": 1.')  # a third line, cut short
    assert read_record(path).remarks == ["3 of its 5 epochs are missing"]
    assert read_record(write_run(tmp_path, "whole", 0, 0.3)).remarks == []


def test_run_without_an_epoch_is_refused(tmp_path):
    path = write_run(tmp_path, "detr", 0, 0.3, logged=0)
    path.joinpath("log.txt").write_text("")
    with pytest.raises(ValueError, match="detr-s0 has no finished epoch yet"):
        read_record(path)


def test_lines_of_no_detr_are_refused():
    with pytest.raises(ValueError, match="no DETR's log: expected keys such as.*found loss, step"):
        read_record([{"loss": 2.5, "step": 7}])


def test_folder_of_other_code_needs_a_log_only(tmp_path):
    shutil.copy(JOURNAL[1], tmp_path / "log.txt")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Other"]}))
    record = read_record(tmp_path)
    assert record.config == {} and record.log["AP"].iloc[0] > 0


def test_runs_of_one_name_are_numbered():
    names = [record.name for record in read_records([JOURNAL[0]] * 3)]
    assert names == ["detr_epoch0", "detr_epoch0 (2)", "detr_epoch0 (3)"]


def test_logs_of_one_name_are_called_by_what_tells_their_paths_apart(tmp_path):
    places = ("a/run/log.txt", "b/run/log.txt", "detr/mine.jsonl")
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True)
        shutil.copy(JOURNAL[0], tmp_path / place)
    records, _ = find_records(places, tmp_path)
    names = ["a/run/log.txt", "b/run/log.txt", "mine"]
    assert [record.name for record in records] == names
    paths = [tmp_path / place for place in places]
    assert [record.name for record in read_records(paths)] == names
    # One given again is numbered, whatever it is called.
    again = [record.name for record in read_records([*paths[:2], paths[0]])]
    assert again == ["a/run/log.txt", "b/run/log.txt", "a/run/log.txt (2)"]


def test_a_file_that_is_no_log_is_refused_with_what_is_known(tmp_path):
    (tmp_path / "log.txt").write_text("epoch 1 loss 3.2\nepoch 2 loss 3.1\n")
    with pytest.raises(ValueError, match="line 1: not JSON.*known are JSON lines of DETR"):
        read_record(tmp_path / "log.txt")


def test_nothing_to_compare_is_refused():
    with pytest.raises(ValueError, match="give run folders or log files"):
        read_records([])


def test_entries_hold_runs_that_differ_in_the_seed_only():
    groups = entries(read_records(sorted(STUDY.iterdir())))
    assert list(groups) == ["detr", "encoder0", "encoder1"]
    assert [record.seed for record in groups["encoder1"]] == [0, 1, 2]


def test_scenes_that_the_seed_governs_make_no_other_entry(tmp_path):
    def written(name, seed, scenes):
        config = Config.preset("smoke", seed=seed, overrides={"data.toy.seed": scenes})
        folder = RunFolder(tmp_path / name).create(config.model_dump(mode="json"))
        folder.append_log(read_log(STUDY / "detr-s0" / "log.txt")[0])
        return folder.path

    runs = [written("a", 200, 200), written("b", 201, 201), written("c", 202, 7)]
    assert [len(group) for group in entries(read_records(runs)).values()] == [2, 1]
    fixed = [written("d", 0, 0), written("e", 1, 0)]  # the first set is for every seed
    assert len(entries(read_records(fixed))) == 1


def test_runs_before_and_after_a_setting_was_added_are_of_one_entry(tmp_path):
    for seed in (0, 1):
        shutil.copytree(STUDY / f"detr-s{seed}", tmp_path / f"detr-s{seed}")
    settings = json.loads((tmp_path / "detr-s0" / "config.json").read_text())
    del settings["train"]["precision"]
    (tmp_path / "detr-s0" / "config.json").write_text(json.dumps(settings))
    assert [len(group) for group in entries(read_records(tmp_path.iterdir())).values()] == [2]


def test_entries_of_one_name_are_told_apart_by_their_settings(tmp_path):
    paths = [
        write_run(tmp_path / folder, "toy-detr", seed, 0.3, settings={"train.lr": rate})
        for folder, rate in (("a", 1e-4), ("b", 1e-3))
        for seed in (0, 1)
    ]
    groups = entries(read_records(paths))
    assert {label: len(group) for label, group in groups.items()} == {
        "detr lr=0.0001": 2,
        "detr lr=0.001": 2,
    }


def provenance_of(path, **changed):
    folder = RunFolder(path)
    folder.write_provenance(folder.read_provenance() | changed)
    return path


def of_plan(path, plan):
    study = {"plan": plan, "entry": "detr", "replicate": 200}
    return provenance_of(path, study=study)


def test_entries_that_plans_and_settings_do_not_tell_apart_are_never_lost(tmp_path):
    plans = ["031c447b" + "0" * 56, "aa" * 32, "aa" * 31 + "bb"]
    runs = [write_run(tmp_path / "own", "detr", 0, 0.3)]
    runs += [of_plan(write_run(tmp_path / plan, "detr", 0, 0.3), plan) for plan in plans]
    alone = entries(read_records(runs[1:2]))
    assert list(alone) == ["detr"]  # a study's own labels are its plan's
    assert list(entries(read_records(runs))) == [
        "detr",
        "detr of plan 031c447b",
        "detr of plan aaaaaaaa",
        "detr of plan aaaaaaaa (2)",
    ]


def test_runs_of_another_source_of_their_variant_are_another_entry(tmp_path):
    code = {"model/detr.py": "f", "variants/mine.py": "1a2b3c"}
    changed = code | {"variants/mine.py": "4d5e6f"}
    paths = [write_run(tmp_path, "mine", seed, 0.3) for seed in range(6)]
    provenance_of(paths[0], code=code)
    provenance_of(paths[1], code=code | {"model/detr.py": "0"})  # which an audit tells
    provenance_of(paths[2], code=changed)
    provenance_of(paths[3], code=code, resumed=[{"epoch": 1, "code": changed}])
    groups = entries(read_records(paths))
    assert {label: [run.seed for run in group] for label, group in groups.items()} == {
        "mine source of mine=1a2b3c": [0, 1],
        "mine source of mine=4d5e6f": [2],
        "mine source of mine=1a2b3c, then 4d5e6f": [3],
        "mine source of mine=None": [4, 5],
    }
    assert list(entries(read_records(paths[4:]))) == ["mine"]  # 0.1 kept none
    provenance_of(paths[4], code={"variants/mine.py": None})  # nor was a shell's source
    assert list(entries(read_records(paths[4:]))) == ["mine"]


def test_logs_without_settings_are_entries_by_themselves():
    assert list(entries(read_records(JOURNAL))) == ["detr_epoch0", "adaptive_res_epoch0"]


def test_log_of_the_current_folder_is_named_after_it(tmp_path, monkeypatch):
    folder = tmp_path / "my-run"
    folder.mkdir()
    shutil.copy(JOURNAL[1], folder / "log.txt")
    monkeypatch.chdir(folder)
    for path in ("log.txt", "./log.txt", "../my-run/log.txt", ".", "../my-run", folder):
        assert read_record(path).name == "my-run"
    (folder / "sub").mkdir()
    assert read_record("sub/../log.txt").name == "my-run"


def test_log_of_several_runs_is_read_as_its_last(tmp_path):
    line = read_log(JOURNAL[0])[0]
    runs = [line | {"epoch": epoch, "n_parameters": size} for size in (9, 7) for epoch in (0, 1)]
    record = read_record([*runs, line | {"epoch": 0, "n_parameters": 5}])
    assert [x["n_parameters"] for x in record.run] == [5] == record.log["n_parameters"].tolist()
    assert record.remarks[0].startswith("3 runs in one log")
