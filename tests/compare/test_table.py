"""Tidy tables of runs, and differences with their direction."""

import math

import pytest
from runs_on_disk import JOURNAL, STUDY, write_run

from detrnb.compare import (
    by_epoch,
    differences,
    direction,
    paired_by_epoch,
    read_record,
    summary,
    summary_by_entry,
    tidy,
    training_seconds,
)
from detrnb.runs.folder import RunFolder


@pytest.mark.parametrize(
    ("metric", "better"),
    [
        ("AP", 1),
        ("ARl", 1),
        ("loss", -1),
        ("loss_giou_unscaled", -1),
        ("class_error", -1),
        ("cardinality_error_unscaled", -1),
        ("time_s", -1),
        ("Error rate", -1),
        ("latency_ms", -1),
        ("Seconds", -1),
        ("MAE", -1),
        ("n_parameters", -1),
        ("GFLOPs", -1),
        ("AP at equal time", 1),
        ("mAP50, of equal memory", 1),
        ("mAP", 1),
        ("AP error", -1),
        ("items", 0),
        ("lr", 0),
        ("grad_norm", 0),
    ],
)
def test_direction_of_a_metric(metric, better):
    assert direction(metric) == better


def test_tidy_table_has_one_row_for_each_number():
    table = tidy([STUDY / "detr-s0", STUDY / "encoder1-s0"])
    assert list(table) == ["run", "epoch", "split", "metric", "layer", "class", "value"]
    line = read_record(STUDY / "detr-s0").lines[3]
    at = table[(table["run"] == "detr-s0") & (table["epoch"] == 3)]
    assert not at.duplicated(["split", "metric", "layer", "class"]).any()

    def value(split, metric, layer="", name=""):
        found = at.query("split == @split and metric == @metric and layer == @layer")
        return found[found["class"] == name]["value"].item()

    assert value("train", "loss") == line["train_loss"]
    assert value("val", "loss_giou", "1") == line["test_loss_giou_0"]
    assert value("val", "loss_giou", "last") == line["test_loss_giou"]
    assert (
        value("train", "cardinality_error_unscaled", "2")
        == (line["train_cardinality_error_1_unscaled"])
    )
    assert value("val", "AP50") == line["test_coco_eval_bbox"][1]
    assert value("val", "AP", name="7") == line["test_coco_eval_bbox_per_class"]["7"]
    assert math.isnan(value("val", "APl"))  # -1: no large objects


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("train_loss_vfl_aux_0", ("train", "loss_vfl", "1 or encoder")),
        ("train_loss_giou_dn_2", ("train", "loss_giou", "denoising 3")),
        ("test_loss_ce_enc", ("val", "loss_ce", "encoder")),
        ("train_loss_mask_ce_4", ("train", "loss_mask_ce", "5")),
        ("ema_test_loss_bbox", ("val, averaged weights", "loss_bbox", "last")),
        (
            "train_cardinality_error_enc_unscaled",
            ("train", "cardinality_error_unscaled", "encoder"),
        ),
    ],
)
def test_relatives_keys_have_split_metric_and_layer(key, place):
    (row,) = tidy([[{key: 2.5, "epoch": 0}]]).itertuples()
    assert (row.split, row.metric, row.layer) == place and row.value == 2.5


@pytest.mark.parametrize(
    ("others", "layers"),
    [
        (["dn_0", "dn_1"], ["1", "encoder"]),  # RT-DETR
        (["dn_0", "dn_1", "dn_2"], ["1", "2"]),
        (["enc_0"], ["1", "2"]),  # RT-DETRv2 and D-FINE name the encoder's
        ([], ["1", "2 or encoder"]),
    ],
)
def test_layer_behind_rt_detrs_decoder_is_the_encoders(others, layers):
    keys = [f"train_loss_vfl_{place}" for place in ("aux_0", "aux_1", *others)]
    table = tidy([[dict.fromkeys(keys, 2.5) | {"epoch": 0}]])
    assert table["layer"].tolist()[:2] == layers


def test_rf_detrs_classes_and_averaged_weights_are_in_the_table():
    classes = [{"class": "cat", "map@50:95": 0.4}, {"class": "all", "map@50:95": 0.3}]
    line = {
        "train_loss": 3.0,
        "test_coco_eval_bbox": [0.3] * 12,
        "ema_test_coco_eval_bbox": [0.35] * 12,
        "test_results_json": {"class_map": classes, "map": 0.5},
        "now_time": "2025-01-01 12:00:00",
        "epoch": 0,
    }
    table = tidy([[line]]).set_index(["split", "metric", "class"])["value"]
    assert table["val", "AP", "cat"] == 0.4 and ("val", "AP", "all") not in table.index
    assert table["val, averaged weights", "AP", ""] == 0.35


def test_result_on_the_test_split_is_in_the_table(tmp_path):
    table = tidy([write_run(tmp_path, "detr", 0, 0.3, test_ap=0.2)])
    found = table[table["split"] == "test2017"].set_index(["metric", "class"])["value"]
    assert found["AP", ""] == found["AP", "0"] == 0.2 and math.isnan(found["AP50", ""])


def test_differences_know_which_run_is_better():
    table = differences(*JOURNAL)
    assert table.loc["train", "loss", "", ""].to_dict() == {
        "first": 25.428831253216895,
        "second": 24.831565185072133,
        "difference": pytest.approx(-0.597266, abs=1e-6),
        "better": "second",
    }
    assert table.loc[("val", "loss", "", ""), "better"] == "first"
    assert table.loc[("val", "loss_bbox", "1", ""), "better"] == "first"
    assert table.loc[("train", "lr", "", ""), "better"] == ""
    coco = table.loc["val"].loc[["AP", "AP50", "APm", "AR100"], "better"]
    assert coco.tolist() == ["first", "first", "second", "first"]


def test_missing_numbers_are_better_in_nobody():
    lines = [{"test_coco_eval_bbox": [0.3, 0.5, 0.2, small, *[0.1] * 8]} for small in (-1, 0.1)]
    table = differences(*[[line] for line in lines])
    row = table.loc["val", "APs", "", ""]
    assert math.isnan(row["first"]) and math.isnan(row["difference"]) and row["better"] == ""


def test_differences_are_of_the_last_common_epoch(tmp_path):
    first = write_run(tmp_path, "detr", 0, 0.3, epochs=2)
    second = write_run(tmp_path, "other", 0, 0.4, epochs=3)
    assert differences(first, second).loc["val", "AP", "", ""]["difference"] == pytest.approx(0.1)


def test_runs_without_a_common_epoch_are_refused():
    with pytest.raises(ValueError, match="no epoch in common: log has 0 to 0, log has 7 to 7"):
        differences([{"train_loss": 1.0, "epoch": 0}], [{"train_loss": 1.0, "epoch": 7}])


def test_summary_has_a_row_for_each_run(tmp_path):
    tested = write_run(tmp_path, "svd_split", 3, 0.25, seconds=90.0, test_ap=0.2)
    table = summary([STUDY / "detr-s0", tested, JOURNAL[0]])
    assert table.index.tolist() == ["detr-s0", "svd_split-s3", "detr_epoch0"]
    row = table.loc["svd_split-s3"]
    assert (row["entry"], row["seed"], row["epochs"]) == ("svd_split", 3, 2)
    assert (row["AP"], row["test_AP"], row["train_time_s"]) == (0.25, 0.2, 90.0)
    assert table.loc["detr-s0", "wall_time_s"] == pytest.approx(347.8, abs=0.1)
    assert table.loc["detr_epoch0", "n_parameters"] == 41_302_368
    assert table["seed"].isna().tolist() == [False, False, True]


def test_entries_are_summed_up_over_their_seeds(tmp_path):
    runs = [write_run(tmp_path, "detr", seed, ap) for seed, ap in ((0, 0.2), (1, 0.4))]
    runs += [write_run(tmp_path, "other", 0, 0.5, settings={"model.num_queries": 9}, seconds=120.0)]
    table = summary_by_entry(runs)
    assert table["seeds"].to_dict() == {"detr": "0, 1", "other": "0"}
    assert table["validation AP"].tolist() == pytest.approx([0.3, 0.5])
    assert table.loc["detr", "its spread"] == pytest.approx(0.1414)
    assert table["minutes"].tolist() == [1.0, 2.0]
    assert "test AP" not in table  # nobody has one


def test_unfinished_runs_are_counted_and_enter_no_mean(tmp_path):
    runs = [write_run(tmp_path, "detr", seed, ap) for seed, ap in ((0, 0.2), (1, 0.4))]
    runs.append(write_run(tmp_path, "detr", 2, 0.9, logged=1))
    other = {"model.num_queries": 9}
    runs.append(write_run(tmp_path, "other", 0, 0.9, logged=1, settings=other))
    table = summary_by_entry(runs)
    assert table["unfinished"].to_dict() == {"detr": 1, "other": 1}
    assert table.loc["detr", "validation AP"] == pytest.approx(0.3)
    assert math.isnan(table.loc["other", "validation AP"])
    assert table["seeds"].tolist() == ["0, 1", ""] and table["epochs"].tolist() == [2, 1]
    assert "unfinished" not in summary_by_entry(runs[:2])
    assert summary_by_entry(runs[2:])["unfinished"].tolist() == [1, 1]


def test_the_fairest_time_that_all_runs_have_counts(tmp_path):
    paths = [write_run(tmp_path, "detr", seed, 0.3, seconds=60.0) for seed in (0, 1)]
    assert training_seconds(summary(paths)).tolist() == [60.0, 60.0]
    assert training_seconds(summary([*paths, JOURNAL[0]])).name == "wall_time_s"
    for path, step_s in zip(paths, (0.1, 0.2), strict=True):
        RunFolder(path).write_timing(step_s, steps=40)
    # Of 375 steps an epoch, two epochs.
    assert training_seconds(summary(paths)).tolist() == pytest.approx([75.0, 150.0])
    # Entries that share no seed whose step was timed are not comparable by it.
    other = {"model.num_queries": 9}
    paths += [write_run(tmp_path, "other", seed, 0.3, settings=other) for seed in (0, 1)]
    RunFolder(paths[0]).timing_path.unlink()
    RunFolder(paths[2]).write_timing(0.1, steps=40)
    assert training_seconds(summary(paths)).name == "train_time_s"
    RunFolder(paths[3]).write_timing(0.1, steps=40)
    found = training_seconds(summary(paths))
    assert found.name == "timed_s" and found.isna().tolist() == [True, False, False, False]


def test_test_result_of_an_earlier_epoch_does_not_count(tmp_path):
    path = write_run(tmp_path, "detr", 0, 0.3, epochs=3, test_ap=0.2)
    log = path / "log.txt"
    log.write_text(
        log.read_text() + log.read_text().splitlines()[-1].replace('"epoch": 2', '"epoch": 3')
    )
    assert math.isnan(summary([path])["test_AP"].item())


def test_a_column_by_epoch_and_seed():
    found = by_epoch([*sorted(STUDY.iterdir()), JOURNAL[0]], "test_loss")
    assert list(found) == ["detr", "encoder0", "encoder1"]  # a log without a seed is left out
    assert found["detr"].shape == (6, 3) and found["detr"].columns.tolist() == [0, 1, 2]
    assert found["detr"].loc[2, 1] == read_record(STUDY / "detr-s1").lines[2]["test_loss"]
    assert by_epoch([STUDY / "detr-s0"], "no such column") == {}


def test_a_second_run_of_an_entrys_seed_is_left_out_with_a_warning(tmp_path):
    runs = [write_run(tmp_path / place, "detr", 0, ap) for place, ap in (("a", 0.3), ("b", 0.4))]
    with pytest.warns(UserWarning, match=r"detr-s0 \(2\) is left out: it is a second run"):
        curves = by_epoch(runs, "AP")
    assert curves["detr"][0].iloc[-1] == pytest.approx(0.3)


def test_differences_by_epoch_are_of_runs_of_equal_seed(tmp_path):
    settings = {"model.num_queries": 17}
    paths = [
        write_run(tmp_path, "detr", 0, 0.3),
        write_run(tmp_path, "detr", 1, 0.4),
        write_run(tmp_path, "other", 1, 0.45, settings=settings),
        write_run(tmp_path, "other", 2, 0.9, settings=settings),
        write_run(tmp_path, "alone", 2, 0.9, settings={"model.num_queries": 18}),
    ]
    found = paired_by_epoch(paths, "AP")
    assert list(found) == ["other"]
    assert found["other"].columns.tolist() == [1]
    assert found["other"][1].tolist() == pytest.approx([0.05, 0.05])
    assert list(paired_by_epoch(paths, "AP", baseline="alone")) == ["other"]
    assert paired_by_epoch(paths, "AP", baseline="none") == {}
    assert paired_by_epoch([JOURNAL[0]], "AP") == {}
