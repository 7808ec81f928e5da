"""The splits of a config's data set."""

from pathlib import Path

from detrnb.datasets.annotations import label_classes, read_annotations
from detrnb.datasets.checking import Report, check
from detrnb.datasets.coco import CocoDataset, data_paths
from detrnb.datasets.layouts import split_of
from detrnb.datasets.toy import make_toy, toy_folder
from detrnb.datasets.transforms import EvalTransform, TrainTransform
from detrnb.runs import project_root
from detrnb.settings import Config, DataConfig, planned


def split_paths(data: DataConfig, split: str) -> tuple[Path, Path]:
    """Where a split lies; the toy set is generated first where it is missing.

    Returns:
        The folder of images, and the annotation file.

    Raises:
        ValueError: one of them is missing.
    """
    root = project_root()
    if split in data.splits:
        images, annotations = (root / place for place in data.splits[split])
        for expected, exists in ((images, images.is_dir()), (annotations, annotations.is_file())):
            if not exists:
                raise ValueError(f"{expected} not found, which data.splits has for {split!r}")
        return images, annotations
    if data.toy is None:
        return split_of(root / data.path, split)
    return data_paths(make_toy(root / toy_folder(data), data.toy), split)


def has_split(data: DataConfig, split: str) -> bool:
    """Whether a split's images and annotations are there, or can be generated."""
    try:
        split_paths(data, split)
    except ValueError:
        return False
    return True


def open_split(data: DataConfig, split: str, *, train: bool = False, seed: int = 0) -> CocoDataset:
    """One split of a config's data set, generated first where it is the toy set.

    Args:
        split: such as `val2017`.
        train: whether images are augmented as in training.
        seed: of the augmentation.

    Raises:
        ValueError: folder or annotations are missing or malformed.
    """
    if train and data.train_sizes is not None:
        transform = TrainTransform(
            data.train_sizes, data.max_size, (384, 600) if data.crop else None, data.flip
        )
    else:
        size = None if train else data.eval_size
        transform = EvalTransform(size, data.max_size)
    images, annotations = split_paths(data, split)
    return CocoDataset(images, annotations, transform, seed=seed, contiguous=data.contiguous_labels)


def with_classes(config: Config) -> Config:
    """The config with the number of classes that its training annotations have.

    One that states `model.num_classes` comes back as it is, and no file is read.

    Raises:
        ValueError: the annotations are missing or malformed.
    """
    if config.model.num_classes is not None:
        return config
    _, annotations = split_paths(config.data, config.data.train_split)
    categories = read_annotations(annotations).categories
    if not categories:
        raise ValueError(f"{annotations}: its list 'categories' is empty; list the classes there")
    classes = label_classes(categories, config.data.contiguous_labels)
    model = config.model.model_copy(update={"num_classes": max(classes) + 1})
    return config.model_copy(update={"model": model})


def resolved(config: Config, num_processes: int) -> Config:
    """The config with all that it leaves to the data: classes, and how long to train.

    Args:
        num_processes: that train together.

    Raises:
        ValueError: the annotations are missing or malformed.
    """
    config = with_classes(config)
    train = config.train
    if None not in (train.epochs, train.lr_drop, train.warmup):
        return config
    _, annotations = split_paths(config.data, config.data.train_split)
    num_images = len(read_annotations(annotations).image_ids)
    return planned(config, num_images, train.global_batch(num_processes))


def check_splits(config: Config) -> Report:
    """What is wrong with what a config trains on and validates with; images are not opened.

    Raises:
        ValueError: folder or annotations are missing.
    """
    data = config.data
    return check(
        {split: split_paths(data, split) for split in (data.train_split, data.val_split)},
        num_queries=config.model.num_queries,
        num_classes=config.model.num_classes,
        contiguous=data.contiguous_labels,
    )
