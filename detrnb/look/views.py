"""One image through one model with all its attention kept: what pictures of attention show.

A `Subject` is a model with its name, classes and images, from a run or from official weights;
`look` runs it once and gives a `View`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from detrnb.boxes import box_iou, cell_coverage, cxcywh_to_xyxy
from detrnb.datasets import (
    CocoDataset,
    EvalTransform,
    as_tensor,
    has_split,
    open_split,
    open_upright,
)
from detrnb.look.recording import Recording, Samples, record_attention
from detrnb.model import DETR, build_criterion, build_detr, load_weights
from detrnb.runs import project_root
from detrnb.settings import BASELINE, OFFICIAL, Config
from detrnb.training import Evaluation, Run, default_device, evaluate_split

Kind = Literal["encoder self", "decoder self", "decoder cross"]


@dataclass(frozen=True)
class View:
    """What a model made of one image.

    Attributes:
        title: image and model, as pictures name them.
        image: (3, H, W) uint8, at the size at which the model saw it.
        detections: `scores` (n,), `labels` (n,), `boxes` (n, 4) xyxy in pixels of `image`, and the
            `queries` (n,) that they come from, on the CPU. DETR's are all queries in order.
        class_names: label -> name.
        recording: every attention of the forward pass.
    """

    title: str
    image: Tensor
    detections: dict[str, Tensor]
    class_names: tuple[str, ...]
    recording: Recording

    def found(self, threshold: float) -> dict[int, str]:
        """Detections with at least this score, best first, in words: {15: "seven 0.95"}."""
        scores, labels = self.detections["scores"], self.detections["labels"]
        return {
            place: f"{self.class_names[labels[place]]} {scores[place]:.2f}"
            for place in scores.argsort(descending=True).tolist()
            if scores[place] >= threshold
        }

    def queries(self, threshold: float) -> dict[int, int]:
        """Queries that found something with at least this score, best first: place of the detection
        by query.
        """
        found: dict[int, int] = {}
        for place in self.found(threshold):
            found.setdefault(int(self.detections["queries"][place]), place)
        return found

    @property
    def kinds(self) -> dict[Kind, list[str]]:
        """The recorded names by kind, first layer first."""
        kinds: dict[Kind, list[str]] = {}
        for name in self.recording.names:
            side, _, kind = name.split(".")
            kinds.setdefault(f"{side} {kind}", []).append(name)
        return kinds

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the feature map."""
        return self.recording.grid()

    def cell(self, box_xyxy: Tensor) -> tuple[int, int]:
        """Row and column of the feature map's cell under a box's centre, pixels."""
        x, y = ((box_xyxy[:2] + box_xyxy[2:]) / 2).tolist()
        (H, W), (h, w) = self.image.shape[1:], self.grid
        return min(max(int(y / H * h), 0), h - 1), min(max(int(x / W * w), 0), w - 1)

    def maps(self, name: str, part: str = "attention") -> Tensor:
        """As `Recording.maps`, on the CPU."""
        return self.recording.maps(name, part=part).cpu()

    def samples(self, name: str) -> Samples | None:
        """As `Recording.samples`, in pixels of `image`, on the CPU."""
        samples = self.recording.samples(name)
        if samples is None:
            return None
        return Samples(samples.points.cpu() * self._size, samples.weights.cpu())

    @property
    def anchors(self) -> Tensor | None:
        """What boxes are relative to in each decoder layer, pixels of `image`, on the CPU: points
        (L, Q, 2), x and y, or boxes (L, Q, 4), xyxy; None where to nothing.
        """
        anchors = self.recording.anchors()
        if anchors is None:
            return None
        anchors = cxcywh_to_xyxy(anchors) if anchors.shape[-1] == 4 else anchors
        return anchors.cpu() * self._size.repeat(anchors.shape[-1] // 2)

    @property
    def _size(self) -> Tensor:
        """Width and height."""
        return torch.tensor([self.image.shape[2], self.image.shape[1]])

    def heads(self, kind: Kind) -> dict[str, Tensor]:
        """Every head of every layer by its title, `layer 1, head 1` first.

        Returns:
            `encoder self` (H, W, H, W), `decoder self` (Q, Q), `decoder cross` (Q, H, W) each.
        """
        return {
            f"layer {layer_of(name)}, head {head}": weights
            for name in self.kinds[kind]
            for head, weights in enumerate(self.maps(name), start=1)
        }


def layer_of(name: str) -> int:
    """The layer, from 1, of a recording such as `decoder.0.cross`."""
    return int(name.split(".")[1]) + 1


def _named(places: tuple[str, ...]) -> str:
    """Places in words, such as `encoder self 1, 2`."""
    kinds: dict[str, list[str]] = {}
    for name in places:
        side, _, kind = name.split(".")
        kinds.setdefault(f"{side} {kind}", []).append(str(layer_of(name)))
    return "; ".join(f"{kind} {', '.join(layers)}" for kind, layers in kinds.items())


@dataclass(frozen=True)
class Subject:
    """A model to look into, with its name, classes and images.

    Attributes:
        name: of the run, or of the file of weights.
        model: in evaluation mode, on the default device.
        config: of the run; of official weights the preset `coco`.
        class_names: label -> name.
        dataset: the validation split; None where it is not there.
        transform: what happens to an image of the user's own.
    """

    name: str
    model: DETR
    config: Config
    class_names: tuple[str, ...]
    dataset: CocoDataset | None
    transform: EvalTransform

    @classmethod
    def from_run(cls, run: Run) -> Subject:
        """A run's model, and its validation split where that is there."""
        data = run.config.data
        dataset = open_split(data, data.val_split) if has_split(data, data.val_split) else None
        # The toy set is stored at its size; a photograph would make a feature map of thousands.
        size = data.eval_size or (data.toy.image_size if data.toy else None)
        transform = EvalTransform(size, data.max_size)
        return cls(run.path.name, run.model, run.config, run.class_names, dataset, transform)

    @classmethod
    def from_weights(cls, origin: str | Path, variant: str = BASELINE) -> Subject:
        """Official COCO weights in the `coco` preset; COCO's validation split where it is there.

        Args:
            origin: a name in `official.OFFICIAL`, or a file's path from the project's folder.
            variant: what they are loaded into; `svd_split` shows DETR's own attention in parts.

        Raises:
            ValueError: they cannot be had, or are other weights.
        """
        official = OFFICIAL.get(str(origin))
        settings = official.settings if official else {}
        config = Config.preset(
            "coco",
            variant=variant,
            overrides={f"model.{key}": value for key, value in settings.items()},
        )
        model = build_detr(config.model)
        loaded = load_weights(model, origin)
        if loaded.adapted:
            changes = "; ".join(loaded.changes)
            raise ValueError(f"the weights {origin} are not those of a COCO model: {changes}")
        data = config.data
        return cls(
            Path(origin).stem,
            model.place(default_device()).eval(),
            config,
            tuple(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]),
            open_split(data, data.val_split) if has_split(data, data.val_split) else None,
            EvalTransform(data.eval_size, data.max_size),
        )

    @torch.no_grad()
    def look(self, image: int | str | Path) -> View:
        """Run the model on one image, all attention recorded.

        A view of a COCO image holds some 200 MB of attention, one of the toy set 0.3 MB.

        Args:
            image: its place in `dataset`, or the path of an image file from the project's folder.

        Raises:
            ValueError: no such image, or not one that can be read.
        """
        title, pixels = self._stored(image) if isinstance(image, int) else self._own(Path(image))
        device = next(self.model.parameters()).device
        images = pixels[None].to(device)
        mask = torch.zeros(1, *pixels.shape[1:], dtype=torch.bool, device=device)
        with record_attention(self.model) as recording:
            outputs = self.model(self.model.normalize(images, mask), mask)
        criterion = build_criterion(self.config.model)
        (detections,) = criterion.detections(outputs, torch.tensor([pixels.shape[1:]]))
        missing = _named(recording.missing)
        return View(
            f"{title} · {self.name}" + (f"\ncannot be recorded: {missing}" if missing else ""),
            pixels,
            {name: values.cpu() for name, values in detections.items()},
            self.class_names,
            recording,
        )

    def images(self, split: str) -> CocoDataset:
        """A split of its data, such as `test2017`.

        Raises:
            ValueError: it is not there.
        """
        return open_split(self.config.data, split)

    def evaluate(self, split: str, limit: int | None = None) -> Evaluation:
        """As `evaluate_split`, images of different sizes one by one, so that none is padded.

        `keep_part` takes no padding, and without it the result is nearest to `look`'s.
        """
        config = self.config
        if self.config.data.toy is None:
            one = {"train": self.config.train.model_copy(update={"batch_size": 1})}
            config = self.config.model_copy(update=one)
        return evaluate_split(self.model, config, split, limit=limit)

    def _stored(self, index: int) -> tuple[str, Tensor]:
        if self.dataset is None:
            raise ValueError(f"{self.name} has no data set here; give the path of an image file")
        if not 0 <= index < len(self.dataset):
            raise ValueError(
                f"image {index} of a data set of {len(self.dataset)}; expected 0 to"
                f" {len(self.dataset) - 1}"
            )
        return f"image {self.dataset.image_ids[index]}", self.dataset[index][0]

    def _own(self, path: Path) -> tuple[str, Tensor]:
        try:
            image = open_upright(project_root() / path.expanduser())
            cut = self.transform(image.size)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as an image: {error}") from None
        return path.name, cut.pixels(as_tensor(image))


def object_shares(view: View, threshold: float) -> pd.DataFrame:
    """How much attention goes where a detection is, and how much would if it were spread evenly.

    For each detection, layer and head: `encoder self`, from the cells at least half in its box, to
    its box; `decoder cross`, from its query to its box; `decoder self`, from its query to the
    others that found the same object (same class, IoU at least 0.5).

    Args:
        threshold: smallest score of a detection.

    Returns:
        Columns `attention`, `layer` and `head` (from 1), `share` and `even`, 0 to 1. A detection
        without such cells or such others has no row.
    """
    places = list(view.found(threshold))
    boxes, labels = view.detections["boxes"], view.detections["labels"]
    queries, everywhere = view.detections["queries"][places], view.detections["queries"]
    coverage = cell_coverage(boxes[places], tuple(view.image.shape[1:]), view.grid)
    area, cells = coverage.mean((-2, -1)), (coverage >= 0.5).float()
    alike = box_iou(boxes[places, None], boxes[None])[0] >= 0.5
    alike &= (labels[places, None] == labels) & (queries[:, None] != everywhere)
    rows = []
    for kind, names in view.kinds.items():
        for name in names:
            maps, layer = view.maps(name), layer_of(name)
            if kind == "decoder self":
                # Of the queries, each of which may have found several things.
                same = torch.zeros(len(places), maps.shape[-1]).index_add(
                    1, everywhere, alike + 0.0
                )
                same = same.clamp(max=1)
                shares, even = (maps[:, queries] * same).sum(-1), same.mean(-1)
            elif kind == "decoder cross":
                shares, even = (maps[:, queries] * coverage).sum((-2, -1)), area
            else:
                to_box = torch.einsum("nyxhw,ghw->ngyx", maps, coverage)
                shares, even = (to_box * cells).sum((-2, -1)) / cells.sum((-2, -1)), area
            rows += [
                (kind, layer, head, share, expected)
                for head, row in enumerate(shares.tolist(), start=1)
                for share, expected in zip(row, even.tolist(), strict=True)
            ]
    table = pd.DataFrame(rows, columns=["attention", "layer", "head", "share", "even"])
    table = table.astype({"layer": int, "head": int, "share": float, "even": float})
    return table[table["share"].notna() & (table["even"] > 0)].reset_index(drop=True)
