"""Logs of DETR and its relatives: what is read, what is refused, how it is laid out."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detrnb.plots import plot_curves
from detrnb.runs.log import COCO_METRICS, is_over, last_run, log_table, read_log, remarks

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


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbf{"epoch": 0}\r\n{"epoch": 1}\r\n',
        '{"epoch": 0}\r\n{"epoch": 1}\r\n'.encode("utf-16"),  # byte order mark, as by PowerShell
        b'{"epoch": 0}\n\0\0\0\0\n{"epoch": 1}\n',
        b'{"epoch": 0}\n\0\0\0\0{"epoch": 1}\n',
        b'{"epoch": 0}\0\0\n{"epoch": 1}\0\0',
        b' {"epoch": 0} \n\t\n{"epoch": 1}',
    ],
    ids=["utf8 mark and crlf", "utf16", "nul line", "nul before", "nul after", "blanks"],
)
def test_bytes_around_the_lines_do_not_matter(log, content):
    assert read_log(log(content)) == [{"epoch": 0}, {"epoch": 1}]


def test_key_with_two_values_is_refused_wherever_it_stands(log):
    twice = '{"epoch": 1, "train_loss": 2.5, "of": {"a": 1, "a": 2}}'
    for content in (f'{{"epoch": 0}}\n{twice}\n', f'{{"epoch": 0}}\n{twice}'):
        with pytest.raises(ValueError, match="line 2: 'a' stands there twice, as 1 and as 2"):
            read_log(log(content))  # without a line end too: it is whole, not torn
    same = '{"train_loss": NaN, "epoch": 0, "train_loss": NaN}'
    assert read_log(log(same))[0].keys() == {"train_loss", "epoch"}


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


def of(*epochs):
    """Lines of these epochs, told apart by their losses: 0, 1, ..."""
    return [{"epoch": e, "train_loss": float(i)} for i, e in enumerate(epochs)]


@pytest.mark.parametrize(
    ("epochs", "left"),  # by their losses, which are places in the file
    [
        ((0, 1, 2), [0, 1, 2]),
        ((0, 1, 2, 0, 1), [3, 4]),  # another run in the same folder, shorter than the first
        ((0, 1, 2, 0, 1, 2, 3, 0), [7]),
        ((2, 0, 1), [1, 2]),
        ((0, 1, 2, 3, 2), [0, 1, 4]),  # resumed further back, and cut off there
        ((0, 1, 2, 3, 1, 2, 3, 4), [0, 4, 5, 6, 7]),
        ((0, 0, 1, 1), [1, 3]),  # each process writes
        ((5, 6, 5), [2]),
        ((0, 3, 9), [0, 1, 2]),
        ((), []),
    ],
)
def test_the_run_that_a_log_ends_with_counts_alone(epochs, left):
    assert [line["train_loss"] for line in last_run(of(*epochs))] == left
    assert log_table(of(*epochs)).get("train_loss", pd.Series()).tolist() == left


def test_lines_without_an_epoch_follow_the_ones_before():
    assert log_table([{"a": 1.0}, {"a": 2.0}]).index.tolist() == [0, 1]
    assert log_table([{"a": 1.0, "epoch": 4}, {"a": 2.0}]).index.tolist() == [4, 5]


@pytest.mark.parametrize("epoch", ["1", 1.5, None])
def test_epoch_that_is_no_number_is_refused(epoch):
    with pytest.raises(ValueError, match=f"the epoch {epoch!r}; expected a whole number"):
        log_table([{"epoch": epoch}])
    assert log_table([{"epoch": 1.0}]).index.tolist() == [1]


def test_what_a_log_holds_besides_its_last_run_is_said():
    assert remarks(of(0, 1, 2)) == []
    (said,) = remarks(of(0, 1, 2, 0, 1, 0, 1))
    assert said.startswith("3 runs in one log: epochs begin anew at lines 4, 6; only the last run")
    (said,) = remarks(of(0, 1, 2, 1, 2, 3))
    assert "from line 4 on, epochs are logged again (first 1 to 2)" in said
    anew, resumed = remarks(of(0, 1, 0, 1, 1))
    assert "line 3" in anew and "from line 5 on" in resumed
    assert "and 293 more" in remarks(of(*np.repeat(np.arange(299), 2)))[1]


def test_a_number_of_parameters_that_changes_within_a_run_is_said():
    sizes = ({"n_parameters": 100}, {"n_parameters": 100}, {"n_params": 90}, {})
    assert remarks(sizes) == [
        "the number of parameters changes from 100 to 90 at epoch 2: lines of two runs, or other"
        " parameters are trained from there on"
    ]


def test_n_params_are_parameters():
    assert log_table([{"epoch": 0, "n_params": 5}])["n_parameters"].tolist() == [5]
    both = log_table([{"epoch": 0, "n_params": 5, "n_parameters": 4}])
    assert both["n_parameters"].tolist() == [4]


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


@pytest.mark.parametrize(
    ("epochs", "precisions", "over"),
    [
        ([0, 0, 1], [0.3, 0.3, 0.2], False),  # epoch 0 logged twice: one epoch without a gain
        ([0, 1, 1, 2], [0.3, 0.2, 0.2, 0.2], True),
        ([0, 1, 2, 1], [0.1, 0.1, 0.4, 0.2], False),  # the best was trained away again
        ([0, 2], [0.3, 0.2], True),
    ],
)
def test_patience_counts_epochs_not_lines(epochs, precisions, over):
    lines = [
        {"test_coco_eval_bbox": [ap], "epoch": epoch}
        for epoch, ap in zip(epochs, precisions, strict=True)
    ]
    assert is_over(lines, {"epochs": 9, "patience": 2}) == over


def test_epochs_are_done_by_the_last_run_of_a_log():
    lines = [{"epoch": epoch, "test_coco_eval_bbox": [0.1]} for epoch in (0, 1, 2, 0)]
    assert not is_over(lines, {"epochs": 3})
