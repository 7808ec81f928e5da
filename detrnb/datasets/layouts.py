"""What a folder of data is, by what lies in it."""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from detrnb.datasets.annotations import ROBOFLOW
from detrnb.datasets.coco import coco_splits, data_paths
from detrnb.datasets.foreign import images_in
from detrnb.datasets.voc import is_voc
from detrnb.datasets.yolo import is_yolo

_LOOKED_AT = 20  # files of a kind


def split_of(root: Path, split: str) -> tuple[Path, Path]:
    """Where a data set keeps a split: in COCO layout, or as Roboflow exports it.

    Returns:
        The folder of images, and the annotation file.

    Raises:
        ValueError: it is not there; says what is.
    """
    if not _is_coco(root) and (there := _of_roboflow(root)):
        if split not in there:
            raise ValueError(
                f"{root} is a COCO folder of Roboflow's, with the splits {', '.join(there)} and no"
                f" {split!r}; set data.train_split and data.val_split to two of them"
            )
        return there[split]
    try:
        return data_paths(root, split)
    except ValueError as error:
        known = None if _is_coco(root) else foreign_layout(root)
        remedy = f"{root} {known}. " if known else ""
        raise ValueError(f"{remedy}{error}") from None


def splits_of(root: Path) -> dict[str, tuple[Path, Path]]:
    """All annotated splits of a data set, training first.

    Returns:
        Name -> folder of images, which may be missing, and annotation file.

    Raises:
        ValueError: there are none; says what the folder looks like.
    """
    if not _is_coco(root) and (there := _of_roboflow(root)):
        return there
    if not _is_coco(root) and (known := foreign_layout(root)):
        raise ValueError(f"{root} {known}")
    return coco_splits(root)


def _is_coco(root: Path) -> bool:
    return any((root / "annotations").glob("instances_*.json"))


def _of_roboflow(root: Path) -> dict[str, tuple[Path, Path]]:
    files = {file.parent.name: (file.parent, file) for file in root.glob(f"*/{ROBOFLOW}")}
    return {name: files[name] for name in sorted(files, key=lambda name: (name != "train", name))}


def foreign_layout(root: Path) -> str | None:
    """What a path that is not in COCO layout looks like, in words that follow its name."""
    if root.is_file():
        return _of_file(root)
    if not root.is_dir():
        return None
    return next((words for fits, words in _KINDS if fits(root)), None)


def _of_file(file: Path) -> str | None:
    if file.suffix in (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z"):
        return "is an archive: unpack it"
    if file.suffix == ".json":
        return "is a file: give the folder of images before it, or the folder of the whole data set"
    return "is a file; give the data set's folder"


def _has(pattern: str, *marks: str) -> Callable[[Path], bool]:
    """Whether a folder holds files of a pattern, one of the first with all of some words in it."""

    def test(root: Path) -> bool:
        for file in islice(root.rglob(pattern), _LOOKED_AT):
            with file.open(errors="replace") as opened:
                text = opened.read(100_000) if marks else ""
            if all(mark in text for mark in marks):
                return True
        return False

    return test


def _is_coco_elsewhere(root: Path) -> bool:
    for file in islice(root.rglob("*.json"), _LOOKED_AT):
        try:
            content = json.loads(file.read_bytes())
        except ValueError:
            continue
        if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
            return True
    return False


_IMPORT = "`detrnb data import` with it and a new folder makes COCO layout of it"
_AGAIN = "export it anew as COCO, from the tool that wrote it"
_HUGGING_FACE = "looks like a data set of Hugging Face's: write it out in COCO layout"
# What is looked for, in this order, and words for it.
_KINDS: tuple[tuple[Callable[[Path], bool], str], ...] = (
    (is_yolo, f"looks like YOLO's: {_IMPORT}"),
    (is_voc, f"looks like Pascal VOC's: {_IMPORT}"),
    (
        lambda root: (root / ROBOFLOW).is_file(),
        "is one split of a COCO folder of Roboflow's: give the folder that it is in",
    ),
    (_has("*.xml", "<annotations"), f"looks like CVAT's XML: {_AGAIN}"),
    (_has("*.json", '"shapes"'), f"looks like LabelMe's: {_AGAIN}"),
    (_has("*.json", '"coordinates"', '"image'), f"looks like CreateML's: {_AGAIN}"),
    (_has("*.json", '"regions"', '"shape_attributes"'), f"looks like VIA's: {_AGAIN}"),
    (
        _is_coco_elsewhere,
        "holds a COCO file in another place: give the folder of images and that file, as two paths"
        " (in training: data.splits)",
    ),
    (_has("*.csv"), f"looks like a table of boxes (CSV), which has no one form: {_AGAIN}"),
    (_has("*.tfrecord*"), f"looks like TensorFlow's records: {_AGAIN}"),
    (_has("*.parquet"), _HUGGING_FACE),
    (_has("*.arrow"), _HUGGING_FACE),
    (_has("*.txt", " "), f"looks like text files of boxes (KITTI's, DOTA's?): {_AGAIN}"),
    (
        lambda root: next(images_in(root), None) is not None,
        "holds images without boxes, such as classification has: annotate them, in COCO's format",
    ),
)
