"""Any data set in COCO layout, as tensors for DETR."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from detrnb.boxes import xyxy_to_cxcywh
from detrnb.datasets.transforms import Sample, clip_boxes

Transform = Callable[[Image.Image, np.ndarray, np.ndarray, np.random.Generator], Sample]
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


def fingerprint(annotations: Path) -> str:
    """The first 16 hexadecimal digits of the annotation file's SHA-256, for provenance."""
    with annotations.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


class CocoDataset(Dataset):
    """Images with boxes, in order of image id, images without boxes included.

    Crowd boxes are left out, boxes clipped to the image, boxes without area dropped. The
    annotations are held as a few flat arrays: worker processes then share their memory, which
    millions of Python objects, touched by reference counts, would not let them.

    Attributes:
        annotations: the annotation file.
        image_ids: (n,) int64, of the samples in order.
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
            ValueError: for annotations that are missing or malformed; it names file and id.
        """
        self.images = Path(images)
        self.annotations = Path(annotations)
        self.transform = transform
        self.seed = seed
        # In shared memory, so that workers which live on see the next epoch too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        content = _read(self.annotations)
        names = {category["id"]: category["name"] for category in content["categories"]}
        self.category_ids = tuple(sorted(names) if contiguous else range(max(names) + 1))
        self.class_names = tuple(names.get(i, "N/A") for i in self.category_ids)
        records = sorted(content["images"], key=lambda record: record["id"])
        self.image_ids = np.array([record["id"] for record in records], dtype=np.int64)
        self._file_names = np.array([record["file_name"].encode() for record in records])
        if len(np.unique(self.image_ids)) < len(records):
            raise ValueError(f"{self.annotations}: two images have the same id")
        labels = {category_id: self.category_ids.index(category_id) for category_id in names}
        self._set_boxes(content["annotations"], labels)

    @property
    def num_classes(self) -> int:
        """Number of labels, no-object excluded."""
        return len(self.category_ids)

    def _set_boxes(self, annotations: list[dict], labels: dict[int, int]) -> None:
        """Keep boxes (xyxy, pixels) and labels (by category id), image by image, in flat arrays."""
        places = {int(image_id): place for place, image_id in enumerate(self.image_ids)}
        rows = []
        for annotation in annotations:
            if annotation.get("iscrowd", 0):
                continue
            try:
                x, y, width, height = annotation["bbox"]
                place, label = places[annotation["image_id"]], labels[annotation["category_id"]]
                rows.append((place, label, x, y, x + width, y + height))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{self.annotations}: annotation {annotation.get('id')} is malformed "
                    f"({type(error).__name__}: {error}); expected bbox [x, y, width, height], "
                    "and an image_id and a category_id that the file lists"
                ) from None
        table = np.array(rows, dtype=np.float64).reshape(-1, 6)
        table = table[np.argsort(table[:, 0], kind="stable")]
        self._boxes = table[:, 2:].astype(np.float32)
        self._labels = table[:, 1].astype(np.int64)
        self._offsets = np.searchsorted(table[:, 0], np.arange(len(self.image_ids) + 1))

    def image_stamp(self) -> str:
        """Names, sizes and times of change of all image files, as one hash."""
        digest = hashlib.sha256()
        for name in self._file_names:
            file = os.stat(self.images / name.decode())
            digest.update(b"%s %d %d\n" % (name, file.st_size, file.st_mtime_ns))
        return digest.hexdigest()

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
            ValueError: where the image file is missing or unreadable.
        """
        image, boxes_xyxy, labels = self._stored(index)
        orig_size = image.height, image.width
        rng = np.random.default_rng([self.seed, int(self._epoch), index])
        image, boxes_xyxy, labels = self.transform(image, boxes_xyxy, labels, rng)
        corners = torch.from_numpy(boxes_xyxy / np.float32([image.width, image.height] * 2))
        target = {
            "boxes": xyxy_to_cxcywh(corners),
            "labels": torch.from_numpy(labels),
            "image_id": int(self.image_ids[index]),
            "orig_size": orig_size,
            "size": (image.height, image.width),
        }
        # Copied by NumPy: torch would spread this over threads, slower where the cores are busy.
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()), target

    def original(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """A sample as it is on disk, for pictures.

        Returns:
            The image (H, W, 3) uint8, and its `boxes` (G, 4) xyxy in pixels and `labels` (G,).
        """
        image, boxes_xyxy, labels = self._stored(index)
        return np.asarray(image), {"boxes": boxes_xyxy, "labels": labels}

    def _stored(self, index: int) -> Sample:
        """Image, boxes (xyxy, pixels) and labels before any transform."""
        image = self._open(index)
        at = slice(self._offsets[index], self._offsets[index + 1])
        boxes_xyxy, kept = clip_boxes(self._boxes[at], image.width, image.height)
        return image, boxes_xyxy, self._labels[at][kept]

    def _open(self, index: int) -> Image.Image:
        """The image in RGB, its pixels as stored (COCO's boxes disregard EXIF rotation)."""
        file = self.images / self._file_names[index].decode()
        try:
            with Image.open(file) as image:
                return image.convert("RGB")
        except FileNotFoundError:
            problem = "not found"
        except (UnidentifiedImageError, OSError) as error:
            problem = f"cannot be read ({error})"
        raise ValueError(f"image {self.image_ids[index]} of {self.annotations}: {file} {problem}")


def _read(annotations: Path) -> dict[str, list[dict]]:
    """Parse an annotation file and see that it has its three lists."""
    try:
        content = json.loads(annotations.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"annotation file {annotations} not found") from None
    except ValueError as error:
        raise ValueError(f"annotation file {annotations} is not JSON: {error}") from None
    for key in ("images", "categories", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{annotations} has no list '{key}'; expected a COCO instances file")
        if key != "annotations" and not content[key]:
            raise ValueError(f"{annotations}: its list '{key}' is empty")
    return content


def collate(batch: list[tuple[Tensor, Target]]) -> tuple[Tensor, Tensor, list[Target]]:
    """Pad images at the bottom and right to one batch.

    Args:
        batch: B samples, images (3, H, W) uint8.

    Returns:
        Images (B, 3, Hmax, Wmax) uint8, zero where padded; padding mask (B, Hmax, Wmax) bool,
        True on padding; the targets.
    """
    images, targets = zip(*batch, strict=True)
    height = max(image.shape[1] for image in images)
    width = max(image.shape[2] for image in images)
    padded = np.zeros((len(images), 3, height, width), dtype=np.uint8)
    padding_mask = np.ones((len(images), height, width), dtype=bool)
    for i, image in enumerate(images):
        padded[i, :, : image.shape[1], : image.shape[2]] = image
        padding_mask[i, : image.shape[1], : image.shape[2]] = False
    return torch.from_numpy(padded), torch.from_numpy(padding_mask), list(targets)
