"""Data sets in COCO layout: made, read, checked, transformed, put into batches."""

from detrnb.datasets.annotations import (
    ROBOFLOW,
    Annotations,
    Classes,
    category_difference,
    class_names,
    fingerprint,
    read_annotations,
)
from detrnb.datasets.batches import EvalBatches, TrainBatches
from detrnb.datasets.checking import Report, check
from detrnb.datasets.coco import CocoDataset, sound_records
from detrnb.datasets.collating import Batch, collate
from detrnb.datasets.foreign import images_in
from detrnb.datasets.importing import Imported, import_data
from detrnb.datasets.loader import FeatureDataset, compute_features, make_loader
from detrnb.datasets.pictures import PictureError, as_rgb, as_tensor, open_upright, orientation
from detrnb.datasets.splits import (
    check_splits,
    has_split,
    open_split,
    resolved,
    split_paths,
    with_classes,
)
from detrnb.datasets.toy import SETTINGS_FILE as TOY_SETTINGS
from detrnb.datasets.toy import photographs_of
from detrnb.datasets.toy_drawing import PHOTOGRAPHS, read_photographs
from detrnb.datasets.toy_yolo import make_toy_yolo
from detrnb.datasets.transforms import EvalTransform, TrainTransform, resize_shape

__all__ = [
    "PHOTOGRAPHS",
    "Annotations",
    "Batch",
    "Classes",
    "CocoDataset",
    "EvalBatches",
    "EvalTransform",
    "FeatureDataset",
    "Imported",
    "PictureError",
    "ROBOFLOW",
    "Report",
    "TOY_SETTINGS",
    "TrainBatches",
    "TrainTransform",
    "as_rgb",
    "as_tensor",
    "category_difference",
    "check",
    "check_splits",
    "class_names",
    "collate",
    "compute_features",
    "fingerprint",
    "has_split",
    "images_in",
    "import_data",
    "make_loader",
    "make_toy_yolo",
    "open_split",
    "open_upright",
    "orientation",
    "photographs_of",
    "read_annotations",
    "read_photographs",
    "resize_shape",
    "resolved",
    "sound_records",
    "split_paths",
    "with_classes",
]
