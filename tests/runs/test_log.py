"""Logs of DETR and its relatives: what is read, what is refused, how it is laid out."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detrnb.plots import plot_curves
from detrnb.runs.log import COCO_METRICS, is_over, log_table, read_log

JOURNAL = Path(__file__).resolve().parents[2] / "data" / "journal"


@pytest.fixture
def log(tmp_path):
    """Writes a log and gives its path."""

    def write(content):
        path = tmp_path / "log.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def coco_line(epoch, values):
    return {"train_loss": 2.5, "test_coco_eval_bbox": values, "epoch": epoch}


def test_folder_or_file_is_read_and_blank_lines_are_skipped(log):
    path = log('{"epoch": 0}\r\n\n{"epoch": 1}\n')
    assert read_log(path.parent) == read_log(str(path)) == [{"epoch": 0}, {"epoch": 1}]


def test_one_line_is_a_log(log):
    assert read_log(log('{"train_loss": 2.5, "epoch": 7}')) == [{"train_loss": 2.5, "epoch": 7}]


def test_no_log_says_what_to_give(tmp_path):
    with pytest.raises(ValueError, match=r"no log at .*log\.txt.*give a run folder"):
        read_log(tmp_path)


@pytest.mark.parametrize("broken", ['{"epoch": 1', "[1, 2]", "\xff", "loss 2.5", '"epoch": 1, 2'])
def test_broken_line_names_file_and_line(log, broken):
    path = log(b'{"epoch": 0}\n' + broken.encode("latin1") + b'\n{"epoch": 2}\n')
    with pytest.raises(ValueError, match="line 2") as caught:
        read_log(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", ["hello", "# 1. Idea\n", b"\x89PNG\r\n\x1a\n\0\0"])
def test_file_that_is_no_log_is_refused_with_what_was_expected(log, content):
    with pytest.raises(ValueError, match=r'line 1: not JSON .* expected an object such as \{"'):
        read_log(log(content))


@pytest.mark.parametrize("torn", ['{"epoch": 1, "tr', "{", "\0\0\0", 'Mine: Epoch 1:"train_lo'])
def test_torn_last_line_is_left_out(log, torn):
    assert read_log(log('{"epoch": 0}\n' + torn)) == [{"epoch": 0}]


def test_object_without_its_closing_brace_is_torn_and_not_mended(log):
    assert read_log(log('{"epoch": 0, "train_loss": 2.5')) == []  # of 2.5418, perhaps


@pytest.mark.parametrize(
    "line",
    [
        'DeTr: Epoch 3:"train_lr": 9.99e-05, "of_class": {"one": 0.5}, "n_parameters": 7',
        'Epoch: [3] "train_lr": 9.99e-05, "of_class": {"one": 0.5}, "n_parameters": 7}',
        'epoch 3 {"train_lr": 9.99e-05, "of_class": {"one": 0.5}, "n_parameters": 7}',
        '\ufeffEpoch 3: "train_lr": 9.99e-05, "of_class": {"one": 0.5}, "n_parameters": 7, ',
    ],
)
def test_piece_pasted_without_braces_is_read_with_its_labels_epoch(log, line):
    (found,) = read_log(log(line + "\n"))
    assert found == {
        "train_lr": 9.99e-05,
        "of_class": {"one": 0.5},
        "n_parameters": 7,
        "epoch": 3,
    }


def test_epoch_in_a_line_wins_over_its_label(log):
    assert read_log(log('Mine: Epoch 0:"train_loss": 2.5, "epoch": 4\n'))[0]["epoch"] == 4


def test_the_journals_logs_read_the_same_pasted_or_whole(log):
    for name in ("detr", "adaptive_res"):
        (line,) = read_log(JOURNAL / f"{name}_epoch0.jsonl")
        pasted = "DeTr: Epoch 0:" + json.dumps(line)[1:-1]
        (again,) = read_log(log(pasted + "\n"))
        assert {**line, "epoch": 0} == again
        assert list(line)[:90] == list(again)[:90]  # key order tells of the run


def test_nan_and_infinity_are_numbers(log):
    (line,) = read_log(log('{"train_loss": NaN, "test_loss": -Infinity, "epoch": 0}\n'))
    assert math.isnan(line["train_loss"]) and line["test_loss"] == -math.inf


def test_table_expands_coco_numbers():
    values = [0.25, 0.5, 0.2, -1, 0.1, 0.3, 0.4, 0.5, 0.6, -1, 0.2, 0.7]
    table = log_table([coco_line(0, values), coco_line(1, np.array(values) / 2)])
    assert table.index.name == "epoch" and table.index.tolist() == [0, 1]
    assert table.columns.tolist() == ["train_loss", "test_coco_eval_bbox", *COCO_METRICS]
    assert table.loc[0, "AP50"] == 0.5 and table.loc[0, "ARl"] == 0.7
    assert math.isnan(table.loc[0, "APs"]) and math.isnan(table.loc[0, "ARs"])
    assert table["APs"].mean() == -0.5  # only the whole -1 means "none"


def test_table_keeps_the_last_line_of_a_repeated_epoch():
    lines = [{"epoch": 0, "train_loss": 1.0}, {"epoch": 1, "train_loss": 9.0}]
    table = log_table([*lines, {"epoch": 1, "train_loss": 2.0}])
    assert table["train_loss"].tolist() == [1.0, 2.0]


def test_table_of_a_log_resumed_further_back_ends_with_the_last_epoch():
    lines = [{"epoch": e, "train_loss": loss} for e, loss in ((2, 7.0), (0, 9.0), (1, 8.0))]
    assert log_table(lines)["train_loss"].tolist() == [9.0, 8.0, 7.0]


def test_table_of_no_lines_is_empty():
    table = log_table([])
    assert isinstance(table, pd.DataFrame) and len(table) == 0 and table.index.name == "epoch"


def test_rf_detrs_averaged_weights_have_columns_of_their_own():
    line = coco_line(0, [0.4] * 12) | {
        "ema_test_coco_eval_bbox": [0.5, *[-1] * 11],
        "ema_test_loss": 3.0,
        "now_time": "2025-01-01 12:00:00",
        "train_epoch_time": "0:01:23",
        "best_res": 0.4,
    }
    table = log_table([line])
    assert table.loc[0, "AP"] == 0.4 and table.loc[0, "ema_AP"] == 0.5
    assert math.isnan(table.loc[0, "ema_AP50"]) and table.loc[0, "train_epoch_time"] == "0:01:23"


def test_rt_detr_and_two_stage_keys_become_columns():
    line = {"train_loss_vfl_aux_0": 1.0, "train_loss_vfl_dn_0": 2.0, "train_loss_ce_enc": 3.0}
    assert log_table([line | {"epoch": 0}]).columns.tolist() == list(line)


def test_table_takes_lines_of_unequal_keys_and_a_log_without_evaluation():
    table = log_table([{"epoch": 0, "train_loss": 2.0}, coco_line(1, None)])
    assert "AP" not in table and table["train_loss"].tolist() == [2.0, 2.5]


def test_ten_thousand_epochs_are_read_and_drawn(log):
    (line,) = read_log(JOURNAL / "detr_epoch0.jsonl")
    text = json.dumps(line)[:-1]
    path = log("".join(f'{text}, "epoch": {epoch}}}\n' for epoch in range(10_000)))
    table = log_table(read_log(path))
    assert len(table) == 10_000 and table["AP50"].iloc[-1] == line["test_coco_eval_bbox"][1]
    loss = plot_curves({"detr": table}).axes[0]
    assert len(loss.lines[0].get_xdata()) == 10_000


@pytest.mark.parametrize(
    ("precisions", "train", "over"),
    [
        ([], {"epochs": 3}, False),
        ([0.1, 0.1], {"epochs": 3}, False),
        ([0.1, 0.1, 0.1], {"epochs": 3, "patience": None}, True),
        ([0.1, 0.3, 0.2], {"epochs": 9, "patience": 2}, False),
        ([0.1, 0.3, 0.3, 0.2], {"epochs": 9, "patience": 2}, True),  # equal is no better
        ([0.3, 0.2, 0.4], {"epochs": 9, "patience": 2}, False),
    ],
)
def test_training_is_over_after_its_epochs_or_for_want_of_a_better_ap(precisions, train, over):
    lines = [{"test_coco_eval_bbox": [ap], "epoch": i} for i, ap in enumerate(precisions)]
    assert is_over(lines, train) == over
    assert is_over([line for line in lines for _ in "12"], train) == over  # epochs, not lines
