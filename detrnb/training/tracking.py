"""A run told to trackers such as TensorBoard, as accelerate has them: settings, epochs, pictures.

`log.txt` stays what counts: a tracker that fails is said and left alone, and training goes on.
"""

import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from detrnb.datasets import CocoDataset
from detrnb.plots import draw_detections
from detrnb.runs import COCO_METRICS, RunFolder
from detrnb.settings import Config

PICTURES, AT_MOST = 4, 5  # images shown; detections in one where no threshold is best


class Trackers:
    """The trackers of a run; none in processes other than the main one."""

    def __init__(self, config: Config, folder: RunFolder, first: int, is_main: bool) -> None:
        """Open them; a run that goes on goes on in its trackers' run where they know how.

        Args:
            first: epoch to be told first; settings are told with epoch 0.

        Raises:
            ValueError: a tracker is not installed.
        """
        names = config.train.trackers
        installed = [str(getattr(name, "value", name)) for name in get_available_trackers()]
        missing = [name for name in names if name not in installed]
        if missing:
            extra = "'detrnb[trackers]'" if missing == ["tensorboard"] else " ".join(missing)
            raise ValueError(
                f"train.trackers: {', '.join(missing)} not installed: pip install {extra}"
            )
        self.open: list[GeneralTracker] = []
        for name in names if is_main else ():
            self._try(name, lambda name=name: self.open.append(_opened(name, folder, first)))
        settings = _flat(config.model_dump(mode="json"))
        if first == 0:
            for tracker in list(self.open):
                self._try(tracker, lambda t=tracker: t.store_init_configuration(settings))

    def epoch(
        self,
        line: Mapping[str, object],
        dataset: CocoDataset,
        detections: Mapping[int, Mapping],
        least: float | None,
    ) -> None:
        """Tell an epoch: its log line, and detections in the first images.

        Args:
            detections: as `Evaluation.detections` of the data set.
            least: score that a detection is shown from; None for the surest few.
        """
        if not self.open:
            return
        values, step = _values(line), line["epoch"]
        pictures = _pictures(dataset, detections, least)
        for tracker in list(self.open):
            self._try(tracker, lambda t=tracker: t.log(values, step=step))
            if hasattr(tracker, "log_images"):
                self._try(tracker, lambda t=tracker: _log_images(t, pictures, step))

    def close(self) -> None:
        """Let them finish."""
        for tracker in list(self.open):
            self._try(tracker, tracker.finish)

    def _try(self, tracker: GeneralTracker | str, act: object) -> None:
        """Do something that may fail for reasons of a tracker's own: then it is left alone."""
        try:
            act()
        except Exception as error:
            name = tracker if isinstance(tracker, str) else tracker.name
            print(f"warning: {name} is left alone from here on: {error}", flush=True)
            with suppress(ValueError):
                self.open.remove(tracker)


def _opened(name: str, folder: RunFolder, first: int) -> GeneralTracker:
    run = folder.path.name
    began = str(folder.read_provenance().get("started", ""))
    known = f"{run}-{zlib.crc32(began.encode()):08x}"  # a run trained anew is another one there
    options: dict[str, dict[str, object]] = {
        # What an interrupted run told of epochs that come again is taken back.
        "tensorboard": {"logging_dir": folder.path, "purge_step": first},
        "wandb": {"id": known, "name": run, "resume": "allow", "dir": str(folder.path)},
    }
    kind = LOGGER_TYPE_TO_CLASS[name]
    if first and name not in options:
        print(f"warning: {name} begins a new run of the same name: it is not told how to go on")
    given = options.get(name, {})
    if kind.requires_logging_directory:
        given = {"logging_dir": folder.path} | given
    tracker = kind({"tensorboard": "tensorboard", "wandb": "detrnb"}.get(name, run), **given)
    getattr(tracker, "start", lambda: None)()  # accelerate before 1.10 starts by itself
    return tracker


def _values(line: Mapping[str, object]) -> dict[str, float]:
    """An epoch's numbers: the log's, COCO's by name, AP by class."""
    values = {k: v for k, v in line.items() if isinstance(v, int | float) and k != "epoch"}
    for prefix in ("", "ema_"):
        stats = line.get(f"{prefix}test_coco_eval_bbox", ())
        named = zip(COCO_METRICS, stats, strict=False)
        values |= {f"{prefix}{name}": value for name, value in named if value != -1}
    classes = line.get("test_coco_eval_bbox_per_class", {})
    values |= {f"AP of {name}": value for name, value in classes.items() if value != -1}
    return values


def _pictures(
    dataset: CocoDataset, detections: Mapping[int, Mapping], least: float | None
) -> list[np.ndarray]:
    """The first images with their detections, each (H, W, 3)."""
    from PIL import Image

    drawn = []
    for index, image_id in enumerate(dataset.image_ids[:PICTURES].tolist()):
        pixels, _ = dataset.original(index)
        found = detections[image_id]
        scores = np.asarray(found["scores"])
        order = np.argsort(-scores, kind="stable")
        order = order[:AT_MOST] if least is None else order[scores[order] >= least]
        boxes, labels = (np.asarray(found[key])[order] for key in ("boxes", "labels"))
        picture = draw_detections(
            Image.fromarray(pixels), boxes, labels, scores[order], dataset.class_names
        )
        drawn.append(np.asarray(picture))
    return drawn


def _log_images(tracker: GeneralTracker, pictures: Sequence[np.ndarray], step: int) -> None:
    form = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
    for number, picture in enumerate(pictures):
        tracker.log_images({f"detections {number}": picture[None]}, step=step, **form)


def _flat(settings: Mapping[str, object], before: str = "") -> dict[str, object]:
    """Settings by dotted name; what is no plain value becomes text."""
    flat: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{before}{key}.")
        else:
            plain = isinstance(value, bool | int | float | str)
            flat[f"{before}{key}"] = value if plain else str(value)
    return flat
