"""What makes two runs the same: settings that change numbers, data, code. The one definition.

`fit` asks it before it goes on with a run or opens one, a study before it keeps one, `compare`
before it takes runs for repetitions of each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from detrnb.runs.folder import plain

ABSENT = "(absent)"
# Settings that change no number: a name, who reads the images, who is told.
WITHOUT_EFFECT = ("preset_name", "data.num_workers", "train.trackers")
IMAGES_A_STEP = "train.batch_size x train.accumulate x processes"


def config_differences(
    old: Mapping[str, object], new: Mapping[str, object]
) -> dict[str, tuple[object, object]]:
    """Settings that differ, as dotted key to (old, new); ``ABSENT`` where one side lacks the key.

    Compared as JSON would keep them: a tuple equals a list of the same values.
    """
    before, after = (_flat(json.loads(json.dumps(c, default=plain))) for c in (old, new))
    pairs = {key: (before.get(key, ABSENT), after.get(key, ABSENT)) for key in {**before, **after}}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def what_counts(config: Mapping[str, object], processes: int = 1) -> dict[str, object]:
    """The settings that change numbers, as dotted key to value: equal for the same run.

    Batches of a step are normalised together, so images a step count, not how passes and processes
    share them out; that rounding differs is not another run. Where batches are of like aspect
    ratio, their size and number say which images meet.
    """
    settings = _flat(json.loads(json.dumps(config, default=plain)))
    for key in WITHOUT_EFFECT:
        settings.pop(key, None)
    if settings.get("data.group_by_aspect"):
        settings["processes"] = processes
    elif "train.batch_size" in settings:
        passes = settings.pop("train.accumulate", 1)
        settings[IMAGES_A_STEP] = settings.pop("train.batch_size") * passes * processes
    return settings


def same_data(one: str, other: str) -> bool:
    """Whether two fingerprints of a split are of the same data, as far as both tell.

    A fingerprint is the annotations', then after a `+` the images'. Runs of 0.1, and generated
    sets, whose images follow from settings that stand in their annotations, have the first alone.
    """
    return all(a == b for a, b in zip(one.split("+"), other.split("+"), strict=False))


def data_differences(
    before: Mapping[str, str], now: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    """The splits whose data are not the same, with both fingerprints."""
    pairs = {name: (before.get(name, ABSENT), now.get(name, ABSENT)) for name in {**before, **now}}
    return {name: pair for name, pair in pairs.items() if not same_data(*pair)}


def parts_of(provenance: Mapping[str, object]) -> list[Mapping[str, object]]:
    """What was kept as a run began, then of each time that it went on."""
    return [provenance, *provenance.get("resumed", [])]


def trained_by(provenance: Mapping[str, object]) -> list[Mapping[str, str] | None]:
    """The code that a run began with, then each other that it went on with.

    Returns:
        File -> hash, of each in order; None for what 0.1 trained, which kept none.
    """
    begun, *later = parts_of(provenance)
    return [begun.get("code"), *(part["code"] for part in later if "code" in part)]


def code_differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The files that differ, or that one of two codes lacks."""
    return sorted(file for file in {**one, **other} if one.get(file) != other.get(file))


def _flat(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    leaves = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            leaves |= _flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
