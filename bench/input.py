"""What reading and augmenting training's images takes: the reference's input and ours, one core.

    python bench/input.py [--reference CLONE] [--data FOLDER]

Preset `coco`: JPEGs with boxes through the whole augmentation into batches of two, in this process
by one thread. Ours gives uint8, which the model normalises where it runs; the last row has the
model do that here too, as the reference does in its input. Images are 640×480, as sharp and nearly
as large in bytes as COCO's (quality 95, colours not thinned out), cut from the photographs that
scikit-image and scikit-learn bring; `--data` names others, in COCO layout.

Both get the same draws, and their boxes are held against each other first; then how far our pixels
are from the reference's, in levels of 255, of images that are only resized and of those that are
cropped, which the reference resizes twice and we once. Contestants take turns round by round, each
as a stream of batches, as a worker is.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from tables import Row, spread
from timing import NO_REFERENCE, Findings, Options, in_turns, main
from torch import Tensor

from detrnb.datasets import PHOTOGRAPHS, CocoDataset, TrainTransform, collate, read_photographs
from detrnb.model import build_detr
from detrnb.settings import Config

BATCH = 2  # of the preset `coco`
IMAGES, BOXES = 34, 7  # generated; COCO has 7.3 boxes an image
EPOCHS_COMPARED = 2
SECONDS = 40.0  # after which no further round begins
MEAN, STD = ([[[v]] for v in row] for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
SLIVER = 1.5  # pixels of the image: what one side of the comparison may have cut off, not the other

Sample = tuple[Tensor, dict]


def generate(root: Path) -> None:
    """Write photographs of 640×480 as JPEG, and boxes, in COCO layout."""
    rng = np.random.default_rng(0)
    names = [name for of_split in PHOTOGRAPHS.values() for name in of_split]
    photographs = [image for _, image in read_photographs(names)]
    content = {"images": [], "annotations": []}
    content["categories"] = [{"id": i, "name": f"class {i}"} for i in range(1, 81)]
    (root / "annotations").mkdir()
    (root / "train2017").mkdir()
    for i in range(IMAGES):
        photograph = photographs[i % len(photographs)]
        side = min(photograph.width / 4, photograph.height / 3)
        x, y = (photograph.width - 4 * side) * rng.random(), (photograph.height - 3 * side) / 2
        image = photograph.resize((640, 480), Image.BICUBIC, (x, y, x + 4 * side, y + 3 * side))
        name = f"{i + 1:012d}.jpg"
        image.save(root / "train2017" / name, quality=95, subsampling=0)
        content["images"].append({"id": i + 1, "file_name": name, "width": 640, "height": 480})
        for _ in range(BOXES):
            x, y = rng.uniform(0, (560, 400)).round(2).tolist()
            w, h = (rng.uniform(0.1, 1, 2) * (640 - x, 480 - y)).round(2).tolist()
            box = {"id": len(content["annotations"]) + 1, "image_id": i + 1, "bbox": [x, y, w, h]}
            box |= {"category_id": int(rng.integers(1, 81)), "area": w * h, "iscrowd": 0}
            content["annotations"].append(box)
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))


class Draws:
    """Our random numbers, asked for as the reference asks for its own."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.flipped = rng, False

    def random(self) -> float:
        """First whether to mirror; then whether to crop, which the reference does from 0.5 up."""
        if self.flipped:
            return 1 - self.rng.random()
        self.flipped = True
        return self.rng.random()

    def choice(self, values: list[int]) -> int:
        """One of several."""
        return int(self.rng.choice(values))

    def randint(self, low: int, high: int) -> int:
        """One of a range, both ends included."""
        return int(self.rng.integers(low, high, endpoint=True))

    def place(self, image: Image.Image, size: list[int]) -> tuple[int, int, int, int]:
        """Where a crop of a height and width lies: top, left, height, width."""
        height, width = size
        left = self.randint(0, image.width - width)
        return self.randint(0, image.height - height), left, height, width


@contextmanager
def reference_input(clone: Path, root: Path) -> Iterator[tuple[Callable, Callable]]:
    """The reference's input: (index, epoch) -> sample, with our draws; and samples -> batch."""
    sys.path.insert(0, str(clone))
    try:
        from datasets import transforms
        from datasets.coco import CocoDetection, make_coco_transforms
        from util.misc import collate_fn
    finally:
        sys.path.remove(str(clone))
    with redirect_stdout(StringIO()):
        dataset = CocoDetection(
            root / "train2017",
            root / "annotations" / "instances_train2017.json",
            make_coco_transforms("train"),
            return_masks=False,
        )
    before = transforms.random, transforms.T

    def sample(index: int, epoch: int) -> Sample:
        draws = Draws(np.random.default_rng([0, epoch, index]))
        transforms.random = draws
        transforms.T = SimpleNamespace(RandomCrop=SimpleNamespace(get_params=draws.place))
        return dataset[index]

    try:
        yield sample, collate_fn
    finally:
        transforms.random, transforms.T = before


def check_boxes(theirs: dict, ours: dict) -> float:
    """The largest difference of boxes for the same draws, as a share of the image's side.

    Raises:
        ValueError: they are not the same boxes; those of which one side has but a sliver aside.
    """
    if tuple(theirs["size"].tolist()) != ours["size"]:
        raise ValueError(f"sizes differ: {theirs['size'].tolist()}, ours {ours['size']}")
    # A cropped image is enlarged by at most as much as this.
    sliver = SLIVER * max(ours["size"]) / min(ours["orig_size"]) / min(ours["size"])
    rows = [
        torch.cat([target["labels"][:, None], target["boxes"]], dim=1) for target in (theirs, ours)
    ]
    largest, (left, right) = 0.0, (list(part) for part in rows)
    while left or right:
        if left and right and left[0][0] == right[0][0]:
            apart = (left[0] - right[0]).abs().max().item()
            if apart <= sliver:
                largest = max(largest, apart)
                del left[0], right[0]
                continue
        if left and left[0][3:].min() <= sliver:
            del left[0]
        elif right and right[0][3:].min() <= sliver:
            del right[0]
        else:
            raise ValueError(f"boxes differ: {theirs['boxes']}, ours {ours['boxes']}")
    return largest


def levels(theirs: Tensor, ours: Tensor) -> tuple[float, float]:
    """Mean and largest difference of a normalised image from one in uint8, in levels of 255."""
    pixels = (theirs * torch.tensor(STD) + torch.tensor(MEAN)) * 255
    apart = (pixels.round() - ours.float()).abs()
    return apart.mean().item(), apart.max().item()


def compare(sample: Callable, dataset: CocoDataset, indices: list[int]) -> list[Row]:
    """How far boxes and pixels are apart for the same draws."""
    boxes, pixels = 0.0, {"resized": [], "cropped": []}
    for epoch in range(EPOCHS_COMPARED):
        dataset.set_epoch(epoch)
        for index in indices:
            (image, target), (ours, our_target) = sample(index, epoch), dataset[index]
            boxes = max(boxes, check_boxes(target, our_target))
            whole = TrainTransform(crop=None)(
                our_target["orig_size"][::-1], np.random.default_rng()
            )
            cut = dataset.transform(
                our_target["orig_size"][::-1], np.random.default_rng([0, epoch, index])
            )
            kind = "resized" if cut.region == whole.region else "cropped"
            pixels[kind].append(levels(image, ours))
    rows: list[Row] = []
    for kind, found in pixels.items():
        if found:
            mean, most = zip(*found, strict=True)
            rows.append(
                {"images": kind, "number": len(found), "levels apart, mean": statistics.mean(mean)}
            )
            rows[-1]["levels apart, most"] = max(most)
    return [row | {"boxes apart, share of a side, most": boxes} for row in rows]


def results(options: Options) -> Findings:
    """Milliseconds an image, and how far images are from the reference's; by one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            if options.data is None:
                generate(Path(temporary))
            return _results(options, options.data or Path(temporary))
    finally:
        torch.set_num_threads(threads)


def _results(options: Options, root: Path) -> Findings:
    found = Findings()
    images, annotations = root / "train2017", root / "annotations" / "instances_train2017.json"
    dataset = CocoDataset(images, annotations, TrainTransform(), contiguous=False)
    indices = list(range(len(dataset) // BATCH * BATCH))
    model = build_detr(Config.preset("coco").model)

    def ours(epoch: int, batch: list[int]) -> tuple:
        dataset.set_epoch(epoch)
        return collate([dataset[index] for index in batch])

    makers: dict[str, Callable] = {
        "ours": ours,
        "ours, normalised": lambda *batch: model.normalize(*ours(*batch)[:2]),
    }
    batches = [
        (epoch, indices[i : i + BATCH]) for epoch in range(2) for i in range(0, len(indices), BATCH)
    ]
    with ExitStack() as stack:
        with found.leaving_out("reference"):
            if options.reference is None:
                raise ValueError(NO_REFERENCE)
            sample, join = stack.enter_context(reference_input(options.reference, root))
            found.tables["Images apart for the same draws"] = compare(sample, dataset, indices)
            makers["reference"] = lambda epoch, batch: join([sample(i, epoch) for i in batch])

        def stream(make: Callable) -> None:
            for batch in batches:
                make(*batch)

        sides = {name: partial(stream, make) for name, make in makers.items()}
        times = in_turns(sides, options, SECONDS)
    count = 2 * len(indices)
    found.tables["Batches"] = [
        {
            "input": name,
            "ms an image": spread(1e3 * taken / count),
            "times the reference's images a second": (
                spread(times["reference"] / taken) if "reference" in times else None
            ),
        }
        for name, taken in times.items()
    ]
    return found


if __name__ == "__main__":
    main(__doc__, results)
