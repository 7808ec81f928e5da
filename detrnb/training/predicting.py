"""Detections in any images: batch by batch, an image that cannot be read named and left out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps

from detrnb.bar import Bar
from detrnb.datasets import (
    ROBOFLOW,
    EvalTransform,
    PictureError,
    as_rgb,
    as_tensor,
    collate,
    open_upright,
    orientation,
    read_annotations,
)
from detrnb.model import DETR, build_criterion
from detrnb.settings import Config
from detrnb.training.device import make_accelerator
from detrnb.training.loop import detect, forward

if TYPE_CHECKING:
    import supervision

Picture = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True)
class Found:
    """What a model finds in one image.

    Attributes:
        file: the image's, None where it came as a picture.
        image_id: by which COCO's files know it.
        size: width and height.
        scores: (n,), highest first.
        labels: (n,), the model's.
        category_ids: (n,).
        boxes: (n, 4) xyxy in pixels of the image as it is seen upright.
    """

    file: Path | None
    image_id: int
    size: tuple[int, int]
    scores: np.ndarray
    labels: np.ndarray
    category_ids: np.ndarray
    boxes: np.ndarray


@dataclass(frozen=True)
class Predictions(Sequence[Found]):
    """What a model finds in images, in their order.

    Attributes:
        found: image by image, without those that were skipped.
        class_names: label -> name.
        skipped: image -> why it could not be read.
    """

    found: tuple[Found, ...]
    class_names: tuple[str, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, index: int) -> Found:
        return self.found[index]

    def __len__(self) -> int:
        return len(self.found)

    @property
    def counts(self) -> Counter[str]:
        """Class -> detections."""
        labels = (label for found in self.found for label in found.labels.tolist())
        return Counter(self.class_names[label] for label in labels)

    def to_coco(self) -> list[dict]:
        """COCO's results: one record a detection, `bbox` as x, y, width, height."""
        return [
            {"image_id": found.image_id, "category_id": kind, "bbox": xywh, "score": score}
            for found in self.found
            for kind, xywh, score in zip(
                found.category_ids.tolist(),
                np.hstack([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]]).tolist(),
                found.scores.tolist(),
                strict=True,
            )
        ]

    def to_supervision(self) -> "list[supervision.Detections]":
        """As supervision has detections, image by image.

        Raises:
            ValueError: it is not installed.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise ValueError("supervision is not installed: pip install supervision") from error
        return [
            Detections(
                xyxy=found.boxes,
                confidence=found.scores,
                class_id=found.labels,
                data={"class_name": np.array([self.class_names[i] for i in found.labels])},
            )
            for found in self.found
        ]


@dataclass(frozen=True)
class Level:
    """From which score on a detection counts.

    Attributes:
        overall: for every class without one of its own.
        of_class: class -> its own.
        about: what it is, in words.
    """

    overall: float
    of_class: Mapping[str, float]
    about: str

    def of(self, names: Sequence[str]) -> np.ndarray:
        """By label, (classes,)."""
        return np.array([self.of_class.get(name, self.overall) for name in names])


def level(threshold: float | str, kept: Mapping[str, object]) -> Level:
    """A threshold as it is asked for.

    Args:
        threshold: a score; `best` for the one of the best F1 over all classes, `class` for each
            class's own.
        kept: as from `thresholds`.

    Raises:
        ValueError: it is none of these, or nothing was found of which F1 could be best.
    """
    if not isinstance(threshold, str):
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}; expected a score from 0 to 1")
        return Level(float(threshold), {}, f"threshold {threshold:g}")
    if threshold not in ("best", "class"):
        raise ValueError(f"threshold is {threshold!r}; expected a score, 'best' or 'class'")
    overall = kept["overall"]
    if overall["threshold"] is None:
        raise ValueError(
            f"on {kept['annotations']} nothing right was found, so no threshold is best; give one,"
            " such as 0.5"
        )
    found = {name: entry["threshold"] for name, entry in kept["classes"].items()}
    own = {name: value for name, value in found.items() if value is not None}
    about = (
        f"threshold {overall['threshold']:.3f}, of the best F1 ({overall['f1']:.3f}; precision"
        f" {overall['precision']:.3f}, recall {overall['recall']:.3f}) at IoU {kept['iou']} on"
        f" {kept['annotations']}, which chose the weights too, so that elsewhere it will be lower"
    )
    if threshold == "class":
        listed = ", ".join(f"{name} {value:.3f}" for name, value in own.items())
        return Level(
            overall["threshold"], own, f"each class's own threshold ({listed}); else {about}"
        )
    return Level(overall["threshold"], {}, about)


def predict(
    model: DETR,
    config: Config,
    images: Sequence[Picture],
    classes: Mapping[int, tuple[int, str]],
    class_names: tuple[str, ...],
    limits: np.ndarray,
) -> Predictions:
    """What a model finds in images.

    Args:
        images: paths, or pictures of PIL's or as (H, W, 3) uint8; turned as EXIF says.
        classes: label -> category id and name; a label without is its own id.
        limits: by label, the least score that counts.

    Raises:
        ValueError: what is no picture, or none of the images can be read.
    """
    images = [_as_picture(image, place) for place, image in enumerate(images)]
    files = [image if isinstance(image, Path) else None for image in images]
    ids = image_ids(files)
    accelerator = make_accelerator(config.train.precision)
    criterion = build_criterion(config.model)
    category_ids = np.array([classes.get(i, (i, ""))[0] for i in range(len(class_names))])
    found, skipped = [], {}
    with Bar(len(images), "predicting") as bar:
        opened = _opened(images, files, EvalTransform(config.data.eval_size, config.data.max_size))
        sound = (entry for entry in opened if _is_sound(entry, files, skipped, bar))
        while batch := list(islice(sound, config.train.batch_size)):
            for (place, picture, _), result in zip(
                batch, _detect(model, criterion, batch, accelerator), strict=True
            ):
                labels, scores = (result[key].numpy() for key in ("labels", "scores"))
                order = np.argsort(-scores, kind="stable")
                order = order[scores[order] >= limits[labels[order]]]
                found.append(
                    Found(
                        files[place],
                        ids[place],
                        picture.size,
                        scores[order],
                        labels[order],
                        category_ids[labels[order]],
                        result["boxes"].numpy()[order],
                    )
                )
                bar.update()
    if skipped and not found:
        told = "; ".join(f"{image} {why}" for image, why in islice(skipped.items(), 3))
        raise ValueError(f"none of {len(images)} images can be read: {told}")
    return Predictions(tuple(found), class_names, skipped)


def _as_picture(image: Picture, place: int) -> Path | Image.Image:
    """A path, or a picture of PIL's.

    Raises:
        ValueError: it is neither, nor an array of one.
    """
    if isinstance(image, str | Path):
        return Path(image)
    try:
        return image if isinstance(image, Image.Image) else Image.fromarray(image)
    except (TypeError, AttributeError, ValueError):
        kind = f"{type(image).__name__} {tuple(getattr(image, 'shape', ()))}"
        raise ValueError(
            f"image {place} is {kind} of {getattr(image, 'dtype', 'no dtype')}; expected a path, a"
            " picture of PIL's, or an array (H, W, 3) of uint8"
        ) from None


def _upright(picture: Image.Image) -> Image.Image:
    """A picture of PIL's as EXIF turns it."""
    if orientation(picture) == 1:
        return picture
    turned = ImageOps.exif_transpose(picture)
    turned.format = picture.format  # by which 16 bits are read
    return turned


Opened = tuple[int, Image.Image | None, torch.Tensor | str]  # place, picture, tensor or why not


def _opened(
    images: Sequence[Path | Image.Image], files: Sequence[Path | None], transform: EvalTransform
) -> Iterator[Opened]:
    for place, (image, file) in enumerate(zip(images, files, strict=True)):
        try:
            picture = as_rgb(_upright(image)) if file is None else open_upright(file)
            pixels = transform(picture.size).pixels(as_tensor(picture))
        except (PictureError, OSError, ValueError) as error:
            yield place, None, str(error)
            continue
        yield place, picture, pixels


def _is_sound(
    entry: Opened, files: Sequence[Path | None], skipped: dict[str, str], bar: Bar
) -> bool:
    """Whether an image was opened; one that was not is noted."""
    place, picture, why = entry
    if picture is None:
        skipped[str(files[place] or f"image {place}")] = str(why)
        bar.update()
    return picture is not None


@torch.no_grad()
def _detect(
    model: DETR, criterion: torch.nn.Module, batch: Sequence[Opened], accelerator: object
) -> list[dict[str, torch.Tensor]]:
    """Detections of the images of a batch, on the CPU."""
    inputs, padding_mask, _ = collate([(tensor, {}) for _, _, tensor in batch])
    device = next(model.parameters()).device
    mask = None if padding_mask is None else padding_mask.to(device)
    with accelerator.autocast():
        outputs = forward(model, model, inputs.to(device), mask)
    return detect(criterion, outputs, [picture.size[::-1] for _, picture, _ in batch])


def image_ids(files: Sequence[Path | None]) -> list[int]:
    """Ids of images: those of the annotation file that all are listed in, else from 1 on.

    Such a file is looked for where COCO's layout and Roboflow's have it. Where it has an image as
    it is stored, not as EXIF turns it, its ids are not lent, since boxes are of upright images.
    """
    folders = {file.parent for file in files if file is not None}
    if len(folders) == 1 and None not in files:
        [folder] = folders
        split = folder.resolve().name
        for file in (
            folder / ".." / "annotations" / f"instances_{split}.json",
            folder / ROBOFLOW,
        ):
            if file.is_file():
                listed = read_annotations(file)
                about = zip(listed.image_ids.tolist(), listed.image_sizes.tolist(), strict=True)
                known = dict(zip(map(bytes.decode, listed.file_names), about, strict=True))
                if not all(image.name in known for image in files):
                    continue
                stored = [image for image in files if _is_stored(image, known[image.name][1])]
                if not stored:
                    return [known[image.name][0] for image in files]
                print(
                    f"images are numbered from 1 on, not as in {file}: it has {len(stored)} of them"
                    f" as stored, such as {stored[0].name}; boxes here are of images as EXIF turns"
                    " them"
                )
    return list(range(1, len(files) + 1))


def _is_stored(file: Path, size: Sequence[float]) -> bool:
    """Whether evaluation takes an image as it is stored although EXIF turns it.

    Args:
        size: width and height on record.
    """
    try:
        with Image.open(file) as image:
            as_turned = tuple(size) == image.size[::-1] != image.size
            return orientation(image) != 1 and not as_turned
    except Exception:  # what cannot be read is said when it is opened
        return False
