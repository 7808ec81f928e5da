"""In what two runs differ, what that likely does to a comparison, and whether it forbids one."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from detrnb.compare.certainty import Finding
from detrnb.compare.inference import logs_as_reference
from detrnb.compare.records import Record
from detrnb.runs import IMAGES_A_STEP, config_differences, same_data, what_counts

# What a difference likely does, and whether it forbids the comparison.
_EFFECTS: dict[str, tuple[bool, str]] = {
    "learning rate": (
        True,
        "changes how far an epoch gets, most of all the first; alone it can move AP, either way",
    ),
    "schedule": (True, "at an equal epoch one rate has fallen further, and AP rises when it falls"),
    "images an epoch": (True, "other data, or another share of it"),
    "steps an epoch": (
        True,
        "{ratio} times as many optimiser steps in {more}: it has trained longer at an equal epoch,"
        " and its training loss is a mean over a longer way down",
    ),
    "global batch": (True, "other noise in the gradients, and another learning rate that suits it"),
    "processes": (
        False,
        "several: the reference normalises the class loss in each by itself and fills up the last"
        " evaluation batches with duplicates, which shifts losses a little and AP hardly",
    ),
    "validation images": (True, "AP and losses of other images cannot be subtracted"),
    "validation objects": (
        True,
        "one validation set has objects of a size that the other lacks: AP and losses of other"
        " images cannot be subtracted",
    ),
    "parameters": (False, "{excess} more in {more}: {weight}"),
    "decoder layers": (
        False,
        "the summed losses have another number of terms: compare AP, or layer by layer",
    ),
    "data": (True, "other annotations: neither losses nor AP can be subtracted"),
    "image size": (True, "AP rises with the size, of small objects above all"),
    "seed": (False, "other initial weights and data order: part of any difference is chance"),
    "device": (False, "other rounding; times and memory cannot be compared"),
    "precision": (
        True,
        "other rounding, so other chance, and other time and memory: what differs besides cannot"
        " be told from it",
    ),
    "versions": (False, "other rounding, or other computing"),
    "code": (True, "what is computed may differ, in these files"),
    "log": (False, "losses are what each code sums up and calls so: compare AP"),
    "evaluator": (True, "AP is measured in another way, and cannot be subtracted"),
    "git commit": (False, "code unknown: what is computed may differ, look at the commits between"),
}
# Settings that findings speak of.
_COVERED = {
    *("train.seed", "train.batch_size", "train.accumulate", IMAGES_A_STEP, "train.lr"),
    *("train.precision", "train.schedule", "train.lr_drop", "train.warmup", "train.epochs"),
    *("train.cache_features", "data.path", "data.train_sizes", "data.eval_size", "data.max_size"),
}


@dataclass(frozen=True)
class Difference:
    """Something in which two runs differ.

    Attributes:
        what: its name.
        first, second: of each run.
        effect: what it likely does to a comparison.
        decisive: whether it forbids the comparison.
        doubtful: whether it would, were it not inferred from a log whose writer is not known.
        parts: the files, splits or packages that differ, where it is made of such.
    """

    what: str
    first: str
    second: str
    effect: str
    decisive: bool
    doubtful: bool = False
    parts: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.parts:
            return f"{self.what} ({', '.join(self.parts)})"
        return f"{self.what} ({self.first} against {self.second})"


def differences_of(
    records: tuple[Record, Record],
    names: tuple[str, str],
    found: tuple[dict[str, Finding], dict[str, Finding]],
) -> list[Difference]:
    """Everything known in which two runs differ, what forbids the comparison first.

    Args:
        names: of the runs, as in texts.
        found: what is known of each.
    """
    known = all(logs_as_reference(record.run[0]) for record in records)
    differing = [
        _difference(name, names, found, known)
        for name in found[0]
        if _differ(name, *(side[name].value for side in found))
    ]
    if all(side["code"].value is not None for side in found):  # then commits say nothing more
        differing = [d for d in differing if d.what != "git commit"]
    differing += _other_settings(*(record.config for record in records))
    return sorted(differing, key=lambda d: (not d.decisive, not d.doubtful))


def known_of_both(x: object, y: object) -> bool:
    """Whether values of a finding can be compared."""
    if isinstance(x, Mapping) and isinstance(y, Mapping):
        return bool(x.keys() & y.keys())
    return x is not None and y is not None


def _differ(name: str, x: object, y: object) -> bool:
    """Whether values of a finding differ; what is not known of both does not."""
    if x is None or y is None:
        return False
    if name == "learning rate":
        return not np.isclose(x, y, rtol=1e-6)
    if name == "schedule":  # over the epochs that both logged, whatever the rate
        ratios = (x / y).dropna()
        return not np.allclose(ratios, ratios.mean(), rtol=1e-6)
    if name == "validation images":
        return not set(x) & set(y)
    if isinstance(x, Mapping):
        return bool(_other_parts(name, x, y))
    return x != y


def _other_parts(what: str, x: Mapping[str, object], y: Mapping[str, object]) -> list[str]:
    """Files, splits or packages that differ; one that only one run has is no difference.

    So a variant's own file is none: that it is there is what is compared.
    """
    same = same_data if what == "data" else operator.eq
    return sorted(name for name in x.keys() & y.keys() if not same(x[name], y[name]))


def _difference(
    name: str,
    names: tuple[str, str],
    found: tuple[dict[str, Finding], dict[str, Finding]],
    known: bool,
) -> Difference:
    """What differs in a finding.

    Args:
        known: whether both logs are written as the reference's, so that what is likely counts.
    """
    x, y = (side[name] for side in found)
    decisive, effect = _EFFECTS[name]
    sure = known or "likely" not in (x.certainty, y.certainty)
    if name == "images an epoch" and (shared := _sets_that_fit(*found)):
        decisive = False
        effect = f"what whole batches leave over: both fit one set of {shared}"
    if isinstance(x.value, int) and isinstance(y.value, int):
        low, high = sorted((x.value, y.value))
        share = (high - low) / max(low, 1)
        effect = effect.format(
            more=names[y.value > x.value],
            ratio=f"{high / max(low, 1):.3g}",
            excess=f"{high - low:,} ({share:.3%})",
            weight="part of a gain may be size" if share > 0.01 else "too few to matter as size",
        )
    parts = _other_parts(name, x.value, y.value) if isinstance(x.value, Mapping) else ()
    texts = [x.text, y.text]
    if name == "schedule" and x.text == y.text:  # then only the rates tell
        texts = _rates_apart(x, y)
    return Difference(
        *(name, *texts, effect),
        decisive=decisive and sure,
        doubtful=decisive and not sure,
        parts=tuple(parts),
    )


def _rates_apart(first: Finding, second: Finding) -> list[str]:
    """Both schedules with their rates in two epochs between which they go furthest apart."""
    ratios = (first.value / second.value).dropna()
    start = ratios.index[0]
    far = (ratios / ratios[start] - 1).abs().idxmax()
    return [
        f"{side.text}: {side.value[start]:.3g} in epoch {start}, {side.value[far]:.3g} in {far}"
        for side in (first, second)
    ]


def _sets_that_fit(first: dict[str, Finding], second: dict[str, Finding]) -> str:
    """Sizes of a data set that would give both their images an epoch; empty where none does.

    An epoch drops what does not fill a batch, so the set has up to a batch less one more.
    """
    sides = []
    for side in (first, second):
        images = side["images an epoch"].value
        batch = side["global batch"].value or images & -images  # at most: the power of two in it
        sides.append((images, images + batch - 1))
    low, high = max(low for low, _ in sides), min(high for _, high in sides)
    return f"{low:,} to {high:,} images" if low <= high else ""


def _other_settings(first: Mapping[str, object], second: Mapping[str, object]) -> list[Difference]:
    """Recorded settings that differ and that no finding speaks of."""
    if not (first and second):
        return []
    pairs = {
        key: pair
        for key, pair in config_differences(what_counts(first), what_counts(second)).items()
        if key not in _COVERED and not key.startswith("data.toy")
    }
    of_model = sum(key.startswith("model.") for key in pairs)
    compared = "what is compared"
    if of_model > 1:
        compared += f", along with {of_model - 1} more: which of them matters cannot be told"
    return [
        Difference(
            key,
            str(x),
            str(y),
            compared if key.startswith("model.") else "a condition besides the model",
            not key.startswith("model."),
        )
        for key, (x, y) in pairs.items()
    ]
