"""The splits of a config's data set."""

from detrnb.config import DataConfig
from detrnb.datasets.coco import CocoDataset, data_paths
from detrnb.datasets.toy import make_toy
from detrnb.datasets.transforms import EvalTransform, TrainTransform
from detrnb.runs import project_root


def open_split(data: DataConfig, split: str, *, train: bool = False, seed: int = 0) -> CocoDataset:
    """One split of a config's data set, generated first where it is the toy set.

    Args:
        split: such as `val2017`.
        train: whether images are augmented as in training.
        seed: of the augmentation.

    Raises:
        ValueError: folder or annotations are missing or malformed.
    """
    root = project_root() / data.path
    if data.toy is not None:
        make_toy(root, data.toy)
    if train and data.train_sizes is not None:
        transform = TrainTransform(
            data.train_sizes, data.max_size, (384, 600) if data.crop else None, data.flip
        )
    else:
        size = None if train else data.eval_size
        transform = EvalTransform(size, data.max_size)
    images, annotations = data_paths(root, split)
    return CocoDataset(images, annotations, transform, seed=seed, contiguous=data.contiguous_labels)
