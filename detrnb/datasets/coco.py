"""Any data set in COCO layout, as tensors for DETR."""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from detrnb.boxes import xyxy_to_cxcywh
from detrnb.datasets.annotations import (
    class_names,
    known_size,
    label_classes,
    read_annotations,
)
from detrnb.datasets.faults import ERRORS, Records, file_faults, find
from detrnb.datasets.misplaced import found_elsewhere
from detrnb.datasets.pictures import Picture, PictureError, open_picture
from detrnb.datasets.transforms import Cut, Size, clip_boxes

Transform = Callable[[Size, np.random.Generator], Cut]
Target = dict[str, Tensor | int | tuple[int, int]]


def data_paths(root: Path, split: str) -> tuple[Path, Path]:
    """Where a data set in COCO layout keeps a split.

    Args:
        root: the data set's folder.
        split: for instance "train2017".

    Returns:
        The folder of images, and the annotation file.

    Raises:
        ValueError: where one of them is missing; it lists what is there.
    """
    images, annotations = root / split, root / "annotations" / f"instances_{split}.json"
    for expected, exists in ((images, images.is_dir()), (annotations, annotations.is_file())):
        if not exists:
            nearest = next(p for p in (expected.parent, root, *root.parents) if p.is_dir())
            found = sorted(p.name for p in nearest.iterdir() if not p.name.startswith("."))
            shown = ", ".join(found[:12]) + (", ..." if len(found) > 12 else "")
            raise ValueError(
                f"{expected} not found; {nearest} holds {shown or 'nothing'}. Expected COCO "
                f"layout: <root>/{split}/ and <root>/annotations/instances_{split}.json"
            )
    return images, annotations


def coco_splits(root: Path) -> dict[str, tuple[Path, Path]]:
    """All annotated splits of a data set in COCO layout, training first.

    Returns:
        Name -> folder of images, which may be missing, and annotation file.

    Raises:
        ValueError: there are none.
    """
    files = (root / "annotations").glob("instances_*.json")
    splits = {file.stem.removeprefix("instances_"): file for file in files}
    if not splits:
        data_paths(root, "train2017")  # says what is missing
    order = sorted(splits, key=lambda split: (not split.startswith("train"), split))
    return {split: (root / split, splits[split]) for split in order}


def sound_records(annotations: Path) -> Records:
    """The records of an annotation file without errors.

    Raises:
        ValueError: it is missing, malformed or has another error of `file_faults`; names file and
            ids.
    """
    records = Records(read_annotations(annotations))
    errors = [fault for fault in file_faults(records, str(annotations)) if fault.is_error]
    if errors:
        raise ValueError("\n".join(map(str, errors)))
    return records


class SampleError(ValueError):
    """A sample that cannot be had: one sentence with image, problem and remedy.

    A loader's worker hands an error over as the text of its whole traceback, from which the same
    class is made anew in the process that asked; only the sentence is kept.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text.rpartition(f"{type(self).__name__}: ")[2].strip())


class CocoDataset(Dataset):
    """Images with boxes, in order of image id, images without boxes included.

    Crowd boxes are left out, boxes clipped to the image, boxes without area dropped; the ground
    truth, for evaluation, has them all as the file has them. The annotations are held as a few flat
    arrays: worker processes then share their memory, which millions of Python objects, touched by
    reference counts, would not let them.

    Attributes:
        annotations: the annotation file.
        ground_truth: all that was read of it.
        image_ids: (n,) int64, of the samples in order.
        image_sizes: (n, 2) float64, width and height by the file; NaN where it does not tell.
        classes: label -> category id and name, of the labels that have a category.
        category_ids: label -> category id.
        class_names: label -> name; "N/A" for a label without category.
        num_classes: number of labels, no-object excluded.
    """

    def __init__(
        self,
        images: Path,
        annotations: Path,
        transform: Transform,
        *,
        seed: int = 0,
        contiguous: bool = True,
    ) -> None:
        """Read the annotations.

        Args:
            images: folder of the images.
            annotations: COCO instances file.
            transform: `TrainTransform`, `EvalTransform`, or alike.
            seed: of the augmentation.
            contiguous: labels 0..K-1 in order of category id; otherwise a label is the category
                id itself, as the official weights have it.

        Raises:
            ValueError: for annotations that are missing, malformed or have another error of
                `faults.file_faults`; it names file and ids.
        """
        self.images = Path(images)
        self.annotations = Path(annotations)
        self.transform = transform
        self.seed = seed
        self.contiguous = contiguous
        # In shared memory, so that workers which live on see the next epoch too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._guessed = False  # whether a guess was said; once a process is enough
        records = sound_records(self.annotations)
        self.ground_truth = content = records.annotations
        self.classes = label_classes(content.categories, contiguous)
        self.class_names = class_names(self.classes, max(self.classes) + 1)
        self.category_ids = tuple(
            self.classes.get(label, (label, ""))[0] for label in range(self.num_classes)
        )
        order = np.argsort(content.image_ids)
        self.image_ids = content.image_ids[order]
        self.image_sizes = content.image_sizes[order]
        self._file_names = content.file_names[order]
        self._set_boxes(records)

    @property
    def num_classes(self) -> int:
        """Number of labels, no-object excluded."""
        return len(self.class_names)

    def _set_boxes(self, records: Records) -> None:
        """Keep boxes (xyxy, pixels) and labels (by category id), image by image, in flat arrays."""
        content = records.annotations
        place = find(self.image_ids, content.of_image)
        rows = np.flatnonzero(records.counted)
        rows = rows[np.argsort(place[rows], kind="stable")]
        self._boxes = records.corners[rows]
        labels = np.array(sorted(self.classes), dtype=np.int64)
        category_ids = np.array([self.classes[label][0] for label in labels.tolist()])
        self._labels = labels[np.searchsorted(category_ids, content.of_category[rows])]
        self._offsets = np.searchsorted(place[rows], np.arange(len(self.image_ids) + 1))

    def to_category_ids(self, labels: Tensor) -> Tensor:
        """Category ids of a model's labels, which without `contiguous` may go beyond those here."""
        return torch.tensor(self.category_ids)[labels] if self.contiguous else labels

    def image_stamps(self) -> tuple[str, str]:
        """What tells all image files from others, unopened, in the samples' order.

        Returns:
            A hash of their names and sizes, and one of names, sizes and times of change, which a
            copy of the same files has anew.
        """
        sizes, times = hashlib.sha256(), hashlib.sha256()
        for name in self._file_names:
            file = os.stat(self.images / name.decode())
            sizes.update(b"%s %d\n" % (name, file.st_size))
            times.update(b"%s %d %d\n" % (name, file.st_size, file.st_mtime_ns))
        return sizes.hexdigest()[:16], times.hexdigest()[:16]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, on which the augmentation depends; workers see it too."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """Read and transform one sample; its augmentation depends on (seed, epoch, index) alone.

        Returns:
            The image (3, H, W) uint8, and its target: `boxes` (G, 4) float32 cxcywh, normalised
            to the transformed image; `labels` (G,) int64; `image_id`; `orig_size` and `size`,
            each (height, width), before and after the transform.

        Raises:
            SampleError: the image file is missing, unreadable, or not the one that is annotated;
                or the transform cannot be applied to it.
        """
        picture = self._open(index)
        boxes_xyxy, labels = self._boxes_of(index, *picture.size)
        rng = np.random.default_rng([self.seed, int(self._epoch), index])
        try:
            cut = self.transform(picture.size, rng)
        except ValueError as error:
            raise SampleError(f"{self._name(index)} {error}") from error
        with self._named(index):
            image = picture.pixels(cut.reduction)
        sizes = picture.size[::-1], cut.size[::-1]
        return cut.pixels(image), self._target(index, *cut.boxes(boxes_xyxy, labels), *sizes)

    def target(self, index: int, size: tuple[int, int]) -> Target:
        """A sample's target, without its image, which is not opened.

        Args:
            size: the image's height and width, which no transform changes.

        Raises:
            SampleError: a box is outside an image of that size.
        """
        height, width = size
        return self._target(index, *self._boxes_of(index, width, height), size, size)

    def _target(
        self,
        index: int,
        boxes_xyxy: np.ndarray,
        labels: np.ndarray,
        orig_size: tuple[int, int],
        size: tuple[int, int],
    ) -> Target:
        height, width = size
        corners = torch.from_numpy(boxes_xyxy / np.float32([width, height] * 2))
        return {
            "boxes": xyxy_to_cxcywh(corners),
            "labels": torch.from_numpy(labels),
            "image_id": int(self.image_ids[index]),
            "orig_size": orig_size,
            "size": size,
        }

    def original(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """A sample as it is on disk, for pictures.

        Returns:
            The image (H, W, 3) uint8, and its `boxes` (G, 4) xyxy in pixels and `labels` (G,).
        """
        picture = self._open(index)
        boxes_xyxy, labels = self._boxes_of(index, *picture.size)
        with self._named(index):
            image = picture.pixels(1)
        return image.permute(1, 2, 0).numpy(), {"boxes": boxes_xyxy, "labels": labels}

    def _boxes_of(self, index: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (xyxy, pixels) and labels of an image of that size."""
        at = slice(self._offsets[index], self._offsets[index + 1])
        boxes_xyxy, kept = clip_boxes(self._boxes[at], width, height)
        if not kept.all():  # only where the record has no size
            x, y, *_ = self._boxes[at][~kept][0].tolist()
            raise SampleError(
                f"{self._name(index)} is {width}×{height}, and its box at x {x:g}, y {y:g} is"
                f" outside it. {ERRORS['box outside its image']}"
            )
        return boxes_xyxy, self._labels[at]

    def _open(self, index: int) -> Picture:
        def say(guess: str) -> None:
            if not self._guessed:
                self._guessed = True
                warnings.warn(
                    f"{self._name(index)} {guess}; perhaps others are too: `detrnb data` with"
                    " --images lists them",
                    stacklevel=2,
                )

        with self._named(index):
            return open_picture(self._file(index), known_size(self.image_sizes[index]), say)

    @contextmanager
    def _named(self, index: int) -> Iterator[None]:
        """Inside, a picture that cannot be had becomes an error that names image and remedy."""
        try:
            yield
        except PictureError as error:
            kind, problem = error.kind, str(error)
            elsewhere = self._elsewhere(index) if kind == "missing image file" else None
            if elsewhere is not None:
                kind, problem = "image file under another name", f"is there as {elsewhere}"
            raise SampleError(f"{self._name(index)} {problem}. {ERRORS[kind]}") from error

    def _elsewhere(self, index: int) -> str | None:
        """Where in the folder a missing image's file is, if under another name."""
        name, *others = (n.decode() for n in np.roll(self._file_names, -index))
        return found_elsewhere(self.images, [name], set(others)).get(name)

    def _file(self, index: int) -> Path:
        return self.images / self._file_names[index].decode()

    def _name(self, index: int) -> str:
        """A sample in words: id, annotations, file."""
        return f"image {self.image_ids[index]} of {self.annotations}: {self._file(index)}"
