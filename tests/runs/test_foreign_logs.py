"""Logs of other codes become the same table, with the key and scale of AP named."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from detrnb.commands import main
from detrnb.compare import audit, read_record, summary
from detrnb.compare.findings import findings
from detrnb.runs import foreign_log, read_foreign_log


def lines(*records: dict) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


MMENGINE = lines(
    {"lr": 2e-05, "data_time": 0.1, "loss": 4.0, "loss_cls": 1.5, "loss_bbox": 2.5,
     "d0.loss_cls": 9.0, "time": 0.4, "epoch": 1, "iter": 50, "memory": 9000, "step": 50},
    {"lr": 1e-04, "data_time": 0.1, "loss": 2.0, "loss_cls": 0.5, "loss_bbox": 1.5, "time": 0.4,
     "epoch": 1, "iter": 100, "memory": 9000, "step": 100},
    {"coco/bbox_mAP": 0.1, "coco/bbox_mAP_50": 0.2, "coco/bbox_mAP_75": 0.05,
     "coco/bbox_mAP_s": -1.0, "coco/bbox_mAP_m": 0.08, "coco/bbox_mAP_l": 0.3, "step": 1},
    {"lr": 1e-04, "loss": 1.0, "epoch": 2, "iter": 50, "step": 150},
    {"coco/bbox_mAP": 0.25, "coco/bbox_mAP_50": 0.4, "coco/bbox_mAP_75": 0.2,
     "coco/bbox_mAP_s": -1.0, "coco/bbox_mAP_m": 0.2, "coco/bbox_mAP_l": 0.5, "step": 2},
)  # fmt: skip
MMDET2 = lines(
    {"env_info": "sys.platform: linux", "config": "model = ...", "seed": 0, "exp_name": "detr.py"},
    {"mode": "train", "epoch": 1, "iter": 50, "lr": 1e-04, "loss_cls": 1.0, "loss": 3.0},
    {"mode": "val", "epoch": 1, "iter": 625, "lr": 1e-04, "bbox_mAP": 0.1, "bbox_mAP_50": 0.2,
     "bbox_mAP_75": 0.1, "bbox_mAP_s": 0.0, "bbox_mAP_m": 0.1, "bbox_mAP_l": 0.2,
     "bbox_mAP_copypaste": "0.100 0.200 0.100 0.000 0.100 0.200"},
)  # fmt: skip
DETECTRON2 = lines(
    {"data_time": 0.1, "eta_seconds": 9.0, "iteration": 19, "loss_ce": 1.0, "loss_bbox": 3.0,
     "lr": 1e-04, "time": 0.3, "total_loss": 4.0},
    {"bbox/AP": 12.5, "bbox/AP-cat": 10.0, "bbox/AP-dog": 15.0, "bbox/AP50": 30.0, "bbox/AP75": 9.0,
     "bbox/APl": 20.0, "bbox/APm": 8.0, "bbox/APs": float("nan"), "data_time": 0.1, "iteration": 39,
     "lr": 1e-04, "total_loss": 2.0},
    {"bbox/AP": 25.0, "bbox/AP50": 50.0, "bbox/AP75": 19.0, "bbox/APl": 30.0, "bbox/APm": 18.0,
     "bbox/APs": 1.0, "iteration": 59, "lr": 1e-05, "total_loss": 1.0},
)  # fmt: skip
TRAINER = json.dumps({
    "best_metric": 0.3, "epoch": 2.0, "global_step": 200, "train_batch_size": 8,
    "log_history": [
        {"epoch": 0.5, "grad_norm": 3.0, "learning_rate": 5e-05, "loss": 3.0, "step": 50},
        {"epoch": 1.0, "grad_norm": 3.0, "learning_rate": 4e-05, "loss": 1.0, "step": 100},
        {"epoch": 1.0, "eval_loss": 1.5, "eval_map": 0.1, "eval_map_50": 0.2, "eval_map_75": 0.1,
         "eval_map_small": -1.0, "eval_map_medium": 0.1, "eval_map_large": 0.2, "eval_mar_1": 0.1,
         "eval_mar_10": 0.2, "eval_mar_100": 0.3, "eval_mar_small": -1.0, "eval_mar_medium": 0.2,
         "eval_mar_large": 0.4, "eval_map_cat": 0.1, "eval_runtime": 9.0, "step": 100},
        {"epoch": 2.0, "eval_loss": 1.2, "eval_map": 0.3, "eval_runtime": 9.0, "step": 200},
        {"epoch": 2.0, "step": 200, "total_flos": 1e15, "train_loss": 2.0, "train_runtime": 99.0},
    ],
})  # fmt: skip
ULTRALYTICS = """\
                  epoch,  time,      train/giou_loss,  train/cls_loss, train/l1_loss, metrics/precision(B), metrics/recall(B), metrics/mAP50(B), metrics/mAP50-95(B), val/giou_loss, val/cls_loss, val/l1_loss, lr/pg0, lr/pg1, lr/pg2
                      1,  12.5,                  1.0,             2.0,           0.5,                  0.5,               0.4,              0.3,                 0.2,           1.5,          2.5,         1.0,  0.001,  0.001,  0.01
                      2,  25.0,                  0.5,             1.0,           0.5,                  0.6,               0.5,              0.4,                 0.3,           1.0,          2.0,         1.0,  0.002,  0.002,  0.01
"""  # noqa: E501


def test_mmengines_scalars_are_read(tmp_path):
    file = tmp_path / "detr" / "20260101_101010" / "vis_data" / "scalars.json"
    file.parent.mkdir(parents=True)
    file.write_text(MMENGINE)
    record = read_record(tmp_path / "detr")
    assert record.name == "detr" and record.tool == "mmdetection"
    assert record.log.index.tolist() == [0, 1]
    assert record.log["train_loss"].tolist() == [3.0, 1.0]
    assert record.log["train_loss_cls"].iloc[0] == 1.0
    assert record.log["train_lr"].iloc[0] == pytest.approx(6e-5)
    assert record.log["AP"].tolist() == [0.1, 0.25]
    assert record.log["AP50"].tolist() == [0.2, 0.4]
    assert np.isnan(record.log["APs"]).all() and np.isnan(record.log["AR100"]).all()
    assert "'coco/bbox_mAP', from 0 to 1" in record.remarks[0]
    assert "no AR" in record.remarks[1]


def test_mmdetections_earlier_logs_are_read(tmp_path):
    (tmp_path / "20220101_101010.log.json").write_text(MMDET2)
    record = read_record(tmp_path / "20220101_101010.log.json")
    assert record.log["AP"].tolist() == [0.1] and record.log["train_loss"].tolist() == [3.0]
    assert "'bbox_mAP'" in record.remarks[0]


def test_detectron2s_metrics_are_divided_by_100_and_said_to_count_evaluations(tmp_path):
    (tmp_path / "metrics.json").write_text(DETECTRON2 + '{"iteration": 79, "total')  # cut short
    record = read_record(tmp_path)
    assert record.log["AP"].tolist() == [0.125, 0.25]
    assert record.log["AP50"].tolist() == [0.3, 0.5]
    assert np.isnan(record.log["APs"].iloc[0]) and record.log["APs"].iloc[1] == 0.01
    assert record.log["train_loss"].tolist() == [3.0, 1.0]
    assert record.log["iteration"].tolist() == [39, 59]
    assert record.log["test_coco_eval_bbox_per_class"].iloc[0] == {"cat": 0.1, "dog": 0.15}
    assert "'bbox/AP', which goes from 0 to 100: divided by 100" in record.remarks[0]
    assert "it counts steps, no epochs" in record.remarks[2]


def test_losses_of_a_validation_pass_are_no_training_losses(tmp_path):
    """mmcv's workflow of a training and a validation pass an epoch logs both alike."""
    val = {"mode": "val", "epoch": 1, "iter": 625, "lr": 1e-04, "loss_cls": 9.0, "loss": 9.5}
    head, *rest = MMDET2.splitlines(keepends=True)[1:]
    (tmp_path / "20220101_101010.log.json").write_text(head + lines(val) + "".join(rest))
    log = read_record(tmp_path / "20220101_101010.log.json").log
    assert log["train_loss"].tolist() == [3.0] and log["test_loss"].tolist() == [9.5]
    assert log["AP"].tolist() == [0.1] and log["train_loss_cls"].tolist() == [1.0]


def test_a_log_that_counts_steps_and_calls_all_one_epoch_keeps_each_evaluation(tmp_path):
    def way(rate, loss, ap):
        train = {"mode": "train", "epoch": 1, "iter": 50, "lr": rate, "loss": loss}
        return [train, {"mode": "val", "epoch": 1, "iter": 625, "lr": rate, "bbox_mAP": ap}]

    (tmp_path / "20220101_101010.log.json").write_text(lines(*way(1, 3, 0.1), *way(1, 2, 0.2)))
    record = read_record(tmp_path / "20220101_101010.log.json")
    assert record.log["AP"].tolist() == [0.1, 0.2]
    assert record.log["train_loss"].tolist() == [3.0, 2.0]
    assert "it counts steps, no epochs" in record.remarks[2]


def test_detectron2_runs_that_share_a_file_are_told_apart(tmp_path):
    """It opens metrics.json to go on in it, whether a run is resumed or begun anew."""
    first, second, third = DETECTRON2.splitlines(keepends=True)
    anew = second.replace('"total_loss": 2.0', '"total_loss": 8.0')
    for text, losses, left in (
        (DETECTRON2 + DETECTRON2, [3.0, 1.0], 3),  # begun anew
        (first + second + third + second + third, [3.0, 1.0], 2),  # resumed after the first
        (first + second + anew + third, [6.0, 1.0], 1),
    ):
        (tmp_path / "metrics.json").write_text(text)
        record = read_record(tmp_path)
        assert record.log["train_loss"].tolist() == losses
        assert record.log["AP"].tolist() == [0.125, 0.25]
        said = " ".join(record.remarks)
        assert re.search(f"iterations go back in it, .*: {left} earlier lines are left out", said)


def test_hugging_faces_trainer_state_is_read(tmp_path):
    for step in (900, 1000):
        folder = tmp_path / "out" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text(TRAINER if step == 1000 else "{}")
    record = read_record(tmp_path / "out")
    assert record.log.index.tolist() == [0, 1]
    assert record.log["train_loss"].iloc[0] == 2.0 and np.isnan(record.log["train_loss"].iloc[1])
    assert record.log["test_loss"].tolist() == [1.5, 1.2]
    assert record.log["AP"].tolist() == [0.1, 0.3]
    assert np.isnan(record.log["APs"].iloc[0]) and record.log["ARl"].iloc[0] == 0.4
    assert "'eval_map', from 0 to 1" in record.remarks[0]


def test_a_trainer_that_evaluates_within_epochs_is_counted_by_evaluations(tmp_path):
    history = [{"epoch": e, "loss": 1.0, "step": 1} for e in (0.2, 0.4)]
    history = [x for entry in history for x in (entry, {"epoch": entry["epoch"], "eval_loss": 2.0})]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    record = read_record(tmp_path)
    assert record.log.index.tolist() == [0, 1]
    assert "it counts steps" in record.remarks[2]


def test_transformers_own_writer_is_read(tmp_path):
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed; the extra hf brings it"
    )
    state = transformers.TrainerState(log_history=json.loads(TRAINER)["log_history"], epoch=2.0)
    state.save_to_json(str(tmp_path / "trainer_state.json"))
    assert read_record(tmp_path).log["AP"].tolist() == [0.1, 0.3]


def test_ultralytics_results_give_curves_and_an_ap_of_their_own(tmp_path):
    (tmp_path / "results.csv").write_text(ULTRALYTICS)
    record = read_record(tmp_path / "results.csv")
    assert record.name == tmp_path.name
    assert record.log["train_loss"].tolist() == [3.5, 2.0]
    assert record.log["test_loss"].tolist() == [5.0, 4.0]
    assert record.log["test_ultralytics_AP"].tolist() == [0.2, 0.3]
    assert record.log["train_lr"].tolist() == [0.001, 0.002]
    assert "AP" not in record.log
    assert np.isnan(summary([record])["AP"].iloc[0])


def test_the_audit_names_the_tools_and_refuses_another_evaluators_ap(tmp_path, capsys):
    places = {}
    for name, text in (
        ("metrics.json", DETECTRON2),
        ("results.csv", ULTRALYTICS),
        ("trainer_state.json", TRAINER),
    ):
        file = tmp_path / name.partition(".")[0] / name
        file.parent.mkdir()
        file.write_text(text)
        places[name] = file
    found = audit(places["metrics.json"], places["results.csv"])
    assert not found.comparable
    assert any("evaluator (COCO's against ultralytics')" in reason for reason in found.reasons)
    shown = str(found)
    assert "AP is ultralytics' 'metrics/mAP50-95(B)'" in shown.replace("\n", " ").replace(
        "    ", ""
    )
    found = audit(places["metrics.json"], places["trainer_state.json"])
    assert not any("evaluator" in reason for reason in found.reasons)
    assert any(d.what == "log" and not d.decisive for d in found.differences)
    assert main(["compare", *map(str, places.values())]) == 0
    assert "detectron2" in capsys.readouterr().out


LOGS = {
    "scalars.json": MMENGINE,
    "a.log.json": MMDET2,
    "metrics.json": DETECTRON2,
    "trainer_state.json": TRAINER,
    "results.csv": ULTRALYTICS,
}


@pytest.mark.parametrize("second", LOGS)
@pytest.mark.parametrize("first", LOGS)
def test_the_audit_of_two_tools_says_unknown_for_what_a_log_lacks(first, second, tmp_path):
    """Not NaN, as a Trainer's rate once became in the epoch that ends without one."""
    for side, name in (("x", first), ("y", second)):
        (tmp_path / side).mkdir()
        (tmp_path / side / name).write_text(LOGS[name])
    shown = str(audit(tmp_path / "x" / first, tmp_path / "y" / second))
    assert not re.search(r"\bnan\b", shown, re.IGNORECASE)


def test_decoder_layers_are_told_by_numbered_losses_only(tmp_path):
    def layers(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return findings(read_record(tmp_path / name))["decoder layers"].text

    assert layers("scalars.json", MMENGINE) == "2"  # d0.loss_cls and loss_cls
    assert layers("metrics.json", DETECTRON2) == "unknown"  # which a Faster R-CNN may have written
    numbered = DETECTRON2.replace('"loss_ce": 1.0', '"loss_ce": 1.0, "loss_ce_0": 2.0')
    assert layers("metrics.json", numbered) == "2"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("results.csv", "epoch,loss\n1,2\n"),
        ("metrics.json", '{"accuracy": 1}\n'),
        ("trainer_state.json", "{}"),
        ("scalars.json", "no json\nat all\n"),
        ("log.txt", '{"loss": 1.0}\n'),
    ],
)
def test_unknown_logs_are_refused_with_the_known_list(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(
        ValueError, match=r"known are JSON lines of DETR .*ultralytics' results\.csv"
    ):
        read_record(tmp_path / name)


def test_a_folder_that_holds_no_known_log_is_refused_with_the_known_list(tmp_path):
    (tmp_path / "history.csv").write_text("step,loss\n1,2\n")
    with pytest.raises(ValueError, match=r"no log at .*known are JSON lines of DETR"):
        read_record(tmp_path)


def test_a_detrs_log_of_another_tools_name_stays_a_detrs(tmp_path):
    file = tmp_path / "metrics.json"
    file.write_text('{"train_loss": 2.0, "test_loss": 3.0, "epoch": 0}\n')
    assert read_record(file).tool == ""
    assert foreign_log(Path("log.txt")) is None


def test_a_log_without_a_finished_evaluation_is_said_to_be_so(tmp_path):
    file = tmp_path / "scalars.json"
    file.write_text(lines({"memory": 3, "step": 1}))
    assert read_foreign_log(file).lines == []
    with pytest.raises(ValueError, match="no finished epoch yet"):
        read_record(file)
