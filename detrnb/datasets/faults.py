"""What can be wrong with a data set, and what of it an annotation file shows by itself.

An error is what would quietly spoil training or its measurement: objects that are lost or lie
elsewhere, labels that mean something else, images that both train and validate. A warning is what
is handled (in training, as in the reference, a box of no area is left out, and one that reaches out
of the image is clipped; evaluation takes the file's own boxes, as COCO's does) or only worth
knowing. `CocoDataset` refuses a file with any of the errors that
`file_faults` finds; `check` finds those and the rest.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from detrnb.datasets.annotations import SHOWN, Annotations
from detrnb.datasets.fields import NO_ID

# Kind -> what to do.
ERRORS = {
    "unusable annotation file": "Expected a COCO instances file: a JSON object with the lists"
    " images, annotations and categories.",
    "no images": "List them in the file.",
    "no categories": "List them in the file.",
    "no boxes": "Without any there is nothing to learn, and nothing to measure by.",
    "malformed image record": "Each needs a whole number as id, the same as its annotations'"
    " image_id, and a file_name.",
    "malformed category": "Each needs a whole number as id, the same as its annotations'"
    " category_id, and a name.",
    "malformed annotation": "Each needs bbox [x, y, width, height] in pixels, and whole numbers as"
    " image_id and category_id; iscrowd (0 or 1) and area (pixels) may be left out.",
    "repeated image id": "Give each image an id of its own, in its annotations too.",
    "repeated category id": "The names differ: give each category an id of its own, in its"
    " annotations too; or, if it is one, the same name.",
    "repeated file_name": "Make one record of it: what is annotated under one id is missing under"
    " the other.",
    "annotation of an unknown image": "List the image (where its record is malformed: mend"
    " that), or take the annotation out.",
    "annotation of an unknown category": "List the category (where its record is"
    " malformed: mend that), or take the annotation out.",
    "box with a negative side": "Correct it; bbox is [x, y, width, height].",
    "box outside its image": "Correct it: box and image do not belong together.",
    "boxes as shares of the image": "Multiply them by the image's width and height, and with them"
    " the boxes of their images that reach a little beyond 1: bbox is in pixels.",
    "image file under another name": "Write in file_name what is there: the path from the folder of"
    " images, with / between folders.",
    "missing image file": "Bring it, or take its record and its annotations out of the file.",
    "unreadable image file": "Bring it anew, as JPEG or PNG, or take its record and its annotations"
    " out of the file.",
    "unsuited image file": "Save it anew as RGB of 8 bits a channel, scaled and as large as a model"
    " should see it, boxes too.",
    "image of another size than its record's": "Boxes are for one of the two: bring the right image"
    " or correct the record. (A picture that EXIF turns may be recorded as stored or as turned.)",
    "image in two splits": "Take it out of one: results would not hold for images never seen.",
    "other categories than in training": "List the same ids and names in every split.",
    "other classes than the model's": "Set model.num_classes to None (as many as the data has), or"
    " take another data set.",
}
WARNINGS = {
    "box of no area": "It is left out of training; evaluation counts it, as COCO's does, as an"
    " object that nobody finds. Take it out of the file.",
    "box partly outside its image": "It is clipped in training; evaluation takes it as it is, as"
    " COCO's does. If they are many: is bbox [x, y, width, height]?",
    "area that its box cannot have": "Evaluation sorts objects into small, medium and large by it."
    " Correct it, or leave area out: it is then that of the box.",
    "repeated annotation id": "Evaluation numbers them anew.",
    "image record without a size": "Give width and height; without them the image is taken as it is"
    " stored, whatever EXIF says, and its boxes are held against it only where it is opened.",
    "image taken by a guess": "Save it anew as it was annotated: one frame, and upright, without an"
    " EXIF orientation.",
    "heading among the categories": "Roboflow lists the group of the classes as category 0: it is"
    " left out. If it is a class, annotate it.",
    "category listed again": "Id and name are the same: it is taken as one.",
    "repeated category name": "Results by class tell them apart by id.",
    "class without training examples": "It cannot be learned.",
    "more boxes in an image than queries": "Some of them cannot be found; raise model.num_queries.",
}
ROUNDING = 1.0  # pixels that a box may reach out of its image without being worth a word
STRAY = 0.05  # share of boxes that may lie in the corner pixel before they are shares of the image


@dataclass(frozen=True)
class Fault:
    """One kind of fault in one place.

    Attributes:
        where: split or file.
        kind: of `ERRORS` or `WARNINGS`.
        count: how often it is there.
        first: the first few, by id and file.
    """

    where: str
    kind: str
    count: int
    first: tuple[str, ...]

    @property
    def is_error(self) -> bool:
        """Whether training must not go on with it."""
        return self.kind in ERRORS

    @property
    def short(self) -> str:
        """Place, kind and count."""
        return f"{self.where}: {self.kind} ({self.count})"

    def __str__(self) -> str:
        more = self.count - len(self.first)
        shown = "; ".join(self.first) + (f" and {more} more" if more else "")
        return f"{self.short}: {shown}. {(ERRORS | WARNINGS)[self.kind]}"


class Faults(list[Fault]):
    """The faults found in one place so far."""

    def __init__(self, where: str) -> None:
        self.where = where

    def say(self, kind: str, first: Iterable[str], count: int = 1) -> None:
        """Add a kind of fault, if there is any of it."""
        if count:
            self.append(Fault(self.where, kind, count, tuple(first)))

    def mark(self, kind: str, marked: np.ndarray, describe: Callable[[int], str]) -> None:
        """Add a kind of fault by a mask of the records that have it."""
        at = np.flatnonzero(marked)
        self.say(kind, map(describe, at[:SHOWN].tolist()), len(at))


class Records:
    """An annotation file's records, joined: which image an annotation is of, where its box lies.

    Attributes:
        place: (m,) index of each annotation's image; -1 where the file does not list it.
        sizes: (n, 2) float64, width and height of the images, NaN where not known.
        limits: (m, 2) the same of each box's image, infinite where not known.
        corners: (m, 4) float32, the boxes as xyxy.
        seen: (m,) bool, boxes of which some area lies in the image.
        counted: (m,) bool, the boxes that are learned: seen, and no crowd.
        boxes_of: (n,) how many of them an image has.
    """

    def __init__(self, annotations: Annotations, sizes: np.ndarray | None = None) -> None:
        """Args: sizes: of the images as opened; those that the file gives unless known."""
        self.annotations = annotations
        self.sizes = annotations.image_sizes if sizes is None else sizes
        self.place = find(annotations.image_ids, annotations.of_image)
        boxes = annotations.boxes_xywh
        self.limits = np.full((len(boxes), 2), np.inf)
        listed = self.place >= 0
        self.limits[listed] = self.sizes[self.place[listed]]
        self.limits[np.isnan(self.limits)] = np.inf
        x, y, width, height = boxes.T
        self.corners = np.stack([x, y, x + width, y + height], axis=1).astype(np.float32)
        low, high = self.corners[:, :2], self.corners[:, 2:]
        self.seen = (np.minimum(high, self.limits) > np.maximum(low, 0)).all(1)
        self.counted = self.seen & ~annotations.crowd
        places = self.place[self.counted & listed]
        self.boxes_of = np.bincount(places, minlength=len(annotations.image_ids))

    def image(self, index: int) -> str:
        """An image's id and file."""
        name = self.annotations.file_names[index].decode()
        return f"image {self.annotations.image_ids[index]} ({name})"

    def box(self, index: int) -> str:
        """An annotation's id, its image and its box."""
        annotations = self.annotations
        known = annotations.ids[index] != NO_ID
        name = f"annotation {annotations.ids[index] if known else f'at place {index}'}"
        at = self.place[index]
        image = self.image(at) if at >= 0 else f"image {annotations.of_image[index]}"
        x, y, width, height = annotations.boxes_xywh[index].tolist()
        return f"{name} of {image}, [{x:g}, {y:g}, {width:g}, {height:g}]"


def find(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted id stands among `ids`, -1 where it does not."""
    if not len(ids):
        return np.full(len(wanted), -1)
    order = np.argsort(ids, kind="stable")
    found = order[np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)]
    return np.where(ids[found] == wanted, found, -1)


def repeated(values: np.ndarray) -> np.ndarray:
    """Mask (n,) of the values that stand earlier too."""
    mask = np.ones(len(values), dtype=bool)
    mask[np.unique(values, return_index=True)[1]] = False
    return mask


def file_faults(records: Records, where: str) -> Faults:
    """What an annotation file shows by itself."""
    annotations, faults = records.annotations, Faults(where)
    _lists(records, faults)
    for kind, name in (
        ("malformed image record", "images"),
        ("malformed category", "categories"),
        ("malformed annotation", "annotations"),
    ):
        faults.say(kind, annotations.malformed[name].first, annotations.malformed[name].count)
    _ids(records, faults)
    _boxes(records, faults)
    return faults


def _lists(records: Records, faults: Faults) -> None:
    annotations = records.annotations
    for name, read in (
        ("images", annotations.image_ids),
        ("categories", annotations.categories),
    ):
        if not len(read) and not annotations.malformed[name].count:
            faults.say(f"no {name}", [f"{annotations.path.name}: its list '{name}' is empty"])


def _ids(records: Records, faults: Faults) -> None:
    annotations = records.annotations
    category_ids = np.array([i for i, _ in annotations.categories], dtype=np.int64)
    names = np.array([name for _, name in annotations.categories], dtype=np.str_)

    def category(index: int) -> str:
        return f"category {category_ids[index]} ({names[index]})"

    def in_category(index: int) -> str:
        return f"{records.box(index)}, category {annotations.of_category[index]}"

    unknown = find(category_ids, annotations.of_category) < 0
    same_id = repeated(annotations.ids) & (annotations.ids != NO_ID)
    same_category = repeated(category_ids)
    faults.mark("repeated image id", repeated(annotations.image_ids), records.image)
    faults.mark("repeated category id", same_category, category)
    if annotations.heading:
        faults.say("heading among the categories", [annotations.heading])
    faults.say("category listed again", annotations.merged.first, annotations.merged.count)
    faults.mark("repeated category name", repeated(names) & ~same_category, category)
    faults.mark("repeated file_name", repeated(annotations.file_names), records.image)
    faults.mark("repeated annotation id", same_id, records.box)
    faults.mark("annotation of an unknown image", records.place < 0, records.box)
    faults.mark("annotation of an unknown category", unknown, in_category)


def _boxes(records: Records, faults: Faults) -> None:
    annotations, limits = records.annotations, records.limits
    boxes = annotations.boxes_xywh
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    negative = (boxes[:, 2:] < 0).any(1)
    outside = ~negative & ((low > limits + ROUNDING) | (high < -ROUNDING)).any(1)
    reaching = ((low < -ROUNDING) | (high > limits + ROUNDING)).any(1)
    faults.mark("box with a negative side", negative, records.box)
    faults.mark("box outside its image", outside, records.box)
    empty = ~records.seen & ~annotations.crowd & ~negative & ~outside
    faults.mark("box of no area", empty, records.box)
    faults.mark("box partly outside its image", records.seen & reaching, records.box)
    unsized = np.isnan(annotations.image_sizes).any(1)
    faults.mark("image record without a size", unsized, records.image)
    most = (boxes[:, 2:] + 2).prod(1)  # a mask has pixels that its box only touches
    unlike = records.counted & ((annotations.areas == 0) | (annotations.areas > most))
    faults.mark(
        "area that its box cannot have",
        unlike,
        lambda i: f"{records.box(i)}, area {annotations.areas[i]:g}",
    )
    shares = records.seen & (boxes <= 1).all(1)
    if shares.sum() > STRAY * records.seen.sum():
        faults.mark("boxes as shares of the image", shares, records.box)
