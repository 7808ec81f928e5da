"""A run folder on disk: its name, settings, log and provenance; no torch here.

``runs/<name>/`` holds config.json, log.txt (one JSON line an epoch, the reference's keys first),
provenance.json, last.pt, best.pt, thresholds.json (which scores of best.pt's to take for
detections) and figures/; while it is trained, lock.json; of a variant with
parameters of its own also history.npz, these parameters before training and after each epoch, and
of one that is not the package's its source in variants/; once it was evaluated on a split that
nothing was tuned on, test.json; of a run that diverged failed.json, which says so, and
nonfinite.pt, the step that failed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from detrnb.runs.lock import RunLock
from detrnb.runs.log import COCO_METRICS, is_torn, parse_object, read_log
from detrnb.runs.seal import KEY, identity, is_sealed, opened, sealed
from detrnb.runs.writing import (
    append_whole,
    copy_whole,
    is_there,
    remove_left_over,
    write_text,
    write_whole,
)


def run_name(preset: str, variant: str, seed: int, settings: Mapping[str, object]) -> str:
    """Name a run so that equal settings give equal names, such as ``toy-detr-s0-1a2b3c4d``.

    Args:
        settings: What the hash covers; the order of keys does not matter.

    Raises:
        ValueError: A preset or variant that cannot be part of a folder's name.
    """
    for part in (preset, variant):
        if not re.fullmatch(r"\w[\w.+-]*", part):
            raise ValueError(f"{part!r} cannot be part of a run's name; use letters, digits, ._+-")
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), default=plain)
    return f"{preset}-{variant}-s{seed}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"


def plain(value: object) -> object:
    """What json cannot write by itself: numpy and torch values, paths."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot write a {type(value).__name__} as JSON: {value!r}")


class RunFolder:
    """The files of one run. Making the object touches no file; ``create`` does."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.json"
        self.log_path = self.path / "log.txt"
        self.provenance_path = self.path / "provenance.json"
        self.last = self.path / "last.pt"
        self.best = self.path / "best.pt"
        self.nonfinite = self.path / "nonfinite.pt"
        self.history_path = self.path / "history.npz"
        self.test_path = self.path / "test.json"
        self.thresholds_path = self.path / "thresholds.json"
        # Says how fast its config trains, measured beside others'.
        self.timing_path = self.path / "timing.json"
        self.failed_path = self.path / "failed.json"
        self.figures = self.path / "figures"
        self.variants = self.path / "variants"
        self.lock = RunLock(self.path)

    def create(self, config: Mapping[str, object]) -> RunFolder:
        """Make the folder and write config.json, replacing one that is there."""
        self.figures.mkdir(parents=True, exist_ok=True)
        self._write_json(self.config_path, config)
        return self

    @property
    def identity(self) -> int | None:
        """What tells this run's files from another's; None where it has nothing that does."""
        return identity(self.path)

    def write_last(self, save: Callable[[BinaryIO], object]) -> None:
        """Write last.pt, the checkpoint to go on from.

        Args:
            save: puts the checkpoint into an open file; this room knows no torch.
        """
        write_whole(self.last, save)

    def write_nonfinite(self, save: Callable[[BinaryIO], object]) -> None:
        """Write nonfinite.pt, what a step that failed began with; arguments as `write_last`."""
        write_whole(self.nonfinite, save)

    def keep_last_as_best(self) -> None:
        """Make best.pt a copy of last.pt."""
        copy_whole(self.last, self.best)

    def write_variants(self, sources: Mapping[str, str]) -> None:
        """Keep the source of variants that are not the package's, by name. It is never run."""
        for name, text in sources.items():
            self.variants.mkdir(exist_ok=True)
            write_text(self.variants / f"{name}.py", text)

    def read_variants(self) -> dict[str, str]:
        """What ``write_variants`` kept, as text."""
        return {file.stem: file.read_text() for file in sorted(self.variants.glob("*.py"))}

    def read_config(self) -> dict:
        """The settings of the run; a ValueError names a file that is missing or not JSON."""
        found, where = _read_json(self.config_path), str(self.config_path)
        return opened(found, where, 0 if is_sealed(found, where) else None)

    def write_provenance(self, provenance: Mapping[str, object]) -> None:
        self._write_json(self.provenance_path, provenance)

    def read_provenance(self) -> dict:
        """What is known of how the run was made; empty before the first write."""
        return self._read_if_there(self.provenance_path)

    def write_test(
        self,
        split: str,
        epoch: int,
        stats: Sequence[float],
        per_class: Mapping[str, float],
        seconds: float,
        data: str | None = None,
    ) -> None:
        """Keep what the weights of the last epoch reach on a split that nothing was tuned on.

        Args:
            split: such as ``test2017``.
            epoch: the last one trained, from 0.
            stats: the 12 numbers named by `runs.COCO_METRICS`.
            per_class: class name -> AP.
            seconds: that the evaluation took.
            data: the fingerprint of the split's annotations.

        Raises:
            ValueError: other than 12 numbers.
        """
        if len(stats) != len(COCO_METRICS):
            raise ValueError(f"stats are {len(stats)} numbers; expected COCO's {len(COCO_METRICS)}")
        self._write_json(
            self.test_path,
            {
                "split": split,
                "epoch": epoch,
                "coco_eval_bbox": stats,
                "coco_eval_bbox_per_class": per_class,
                "seconds": seconds,
                **({} if data is None else {"data": data}),
            },
        )

    def read_test(self) -> dict:
        """What ``write_test`` kept; empty before."""
        return self._read_if_there(self.test_path)

    def write_failed(self, why: str) -> None:
        """Keep that the run diverged; `fit` removes it where the run is tried again."""
        self._write_json(self.failed_path, {"why": why})

    def write_thresholds(self, thresholds: Mapping[str, object]) -> None:
        """Keep which scores of the best epoch's weights to take for detections."""
        self._write_json(self.thresholds_path, thresholds)

    def read_thresholds(self) -> dict:
        """What ``write_thresholds`` kept; empty before."""
        return self._read_if_there(self.thresholds_path)

    def write_timing(self, step_s: float, steps: int) -> None:
        """Keep how long a training step of the run's config takes, measured apart from the run.

        Args:
            step_s: median seconds of a step.
            steps: that were timed.
        """
        self._write_json(self.timing_path, {"step_s": step_s, "steps": steps})

    def read_timing(self) -> dict:
        """What ``write_timing`` kept; empty before."""
        return self._read_if_there(self.timing_path)

    def append_history(self, epochs: int, parameters: Mapping[str, np.ndarray]) -> None:
        """Keep small parameters as they are after so many epochs; what was kept later is dropped.

        Epochs that nothing was kept of, since the file was deleted, become NaN.

        Args:
            epochs: trained so far; 0 keeps what training starts from.
            parameters: by name, of equal shapes each time.
        """
        before = self.read_history()
        history = {}
        for name, value in parameters.items():
            rows = np.full((epochs + 1, *value.shape), np.nan, dtype=value.dtype)
            known = before.get(name, rows[:0])[:epochs]
            rows[: len(known)], rows[epochs] = known, value
            history[name] = rows
        of_run = {} if self.identity is None else {KEY: np.int64(self.identity)}
        write_whole(self.history_path, lambda file: np.savez(file, **history, **of_run))

    def read_history(self) -> dict[str, np.ndarray]:
        """The parameters kept, each (epochs + 1, ...), before training first; none for DETR.

        Raises:
            ValueError: the file is damaged, or another run's.
        """
        if not is_there(self.history_path):
            return {}
        try:
            with np.load(self.history_path) as history:
                kept = dict(history)
        except Exception:  # on spoiled bytes the reader fails in many ways
            raise self._no_history("is damaged") from None
        of_run, run = kept.pop(KEY, None), self.identity
        if run is not None and of_run != run:
            raise self._no_history("is of another run, or damaged")
        return kept

    def _no_history(self, what: str) -> ValueError:
        return ValueError(
            f"{self.history_path} {what}; bring it back from a copy, or delete it: training"
            " goes on, and the parameters of the epochs before are then unknown"
        )

    def append_log(self, line: Mapping[str, object]) -> None:
        """Add one epoch, keys in the order given, wholly or not at all.

        NaN and infinities are written as ``NaN`` and ``Infinity``, as in the reference's logs.
        """
        line = sealed(json.loads(json.dumps(line, default=plain)), self.identity)
        data = (json.dumps(line) + "\n").encode()
        self.repair_log()
        append_whole(self.log_path, data)

    def read_log(self) -> list[dict]:
        """The run's epochs so far; none before the first is finished."""
        return read_log(self.log_path) if is_there(self.log_path) else []

    def log_checksum(self, epochs: int) -> int:
        """Of the log's first lines; a checkpoint keeps it, so that both are of one run."""
        data = self.log_path.read_bytes() if self.log_path.exists() else b""
        return zlib.crc32(b"".join(data.splitlines(keepends=True)[:epochs]))

    def repair_log(self) -> int:
        """Cut a line torn by a crash off the log's end, so that appending goes on cleanly.

        Returns:
            Number of bytes cut off, 0 for a sound log.
        """
        data = self.log_path.read_bytes() if self.log_path.exists() else b""
        tail = data[data.rfind(b"\n") + 1 :]
        if not tail:
            return 0
        cut = len(tail) if is_torn(tail) else 0
        # Without a cut it is a whole line that lacks only its end.
        sound = data[: len(data) - cut] if cut else data + b"\n"
        write_whole(self.log_path, lambda file: file.write(sound))
        return cut

    def clean_up(self) -> None:
        """Remove what a killed process left: a torn line of the log, files half written."""
        remove_left_over(self.path)
        self.repair_log()

    def _write_json(self, path: Path, value: Mapping[str, object]) -> None:
        plainly = json.loads(json.dumps(value, default=plain))
        run = None if path == self.config_path else self.identity
        write_text(path, json.dumps(sealed(plainly, run), indent=2) + "\n")

    def _read_if_there(self, path: Path) -> dict:
        return opened(_read_json(path), str(path), self.identity) if is_there(path) else {}


def _read_json(path: Path) -> dict:
    if is_there(path) and not path.is_file():
        raise ValueError(
            f"{path} is a folder, or a link that leads to no file; expected a JSON file"
        )
    if not path.is_file():
        raise ValueError(f"{path} is missing: is {path.parent} a run folder?")
    return parse_object(path.read_bytes(), str(path))
