"""From a Config to a trained run: `fit` prepares, loops, and has `runs` write what comes of it."""

from detrnb.training.device import (
    default_device,
    device_name,
    from_main,
    make_accelerator,
    peak_memory_mb,
    peak_memory_of,
    processes,
    seconds_of,
)
from detrnb.training.global_batch import TrainingDiverged
from detrnb.training.loop import Evaluation, evaluate, train_one_epoch
from detrnb.training.metrics import (
    ERROR_KINDS,
    CocoMetrics,
    box_spread,
    error_kinds,
    evaluate_coco,
    load_ground_truth,
)
from detrnb.training.opening import TEST_SPLIT, Run, evaluate_split, keep_test, load_run
from detrnb.training.origin import code_of, other_code, other_settings
from detrnb.training.predicting import Found, Predictions, level
from detrnb.training.prepare import build_optimizer
from detrnb.training.probing import first_epoch, make_data, seconds_per_step
from detrnb.training.progress import duration
from detrnb.training.replaying import replay
from detrnb.training.run import fit, folder_of
from detrnb.training.sources import see_placed

__all__ = [
    "CocoMetrics",
    "ERROR_KINDS",
    "Evaluation",
    "Found",
    "Predictions",
    "Run",
    "TEST_SPLIT",
    "TrainingDiverged",
    "box_spread",
    "build_optimizer",
    "code_of",
    "default_device",
    "device_name",
    "duration",
    "error_kinds",
    "evaluate",
    "evaluate_coco",
    "evaluate_split",
    "first_epoch",
    "fit",
    "folder_of",
    "from_main",
    "keep_test",
    "level",
    "load_ground_truth",
    "load_run",
    "make_accelerator",
    "make_data",
    "other_code",
    "other_settings",
    "peak_memory_mb",
    "peak_memory_of",
    "processes",
    "replay",
    "seconds_of",
    "seconds_per_step",
    "see_placed",
    "train_one_epoch",
]
