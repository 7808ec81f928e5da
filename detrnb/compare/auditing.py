"""Whether two runs may be compared at all: what differs between them, with what likely effect."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from detrnb.compare import layout
from detrnb.compare.certainty import Finding
from detrnb.compare.findings import findings
from detrnb.compare.inference import logs_as_reference
from detrnb.compare.records import Source, read_record
from detrnb.compare.table import differences, last_common_epoch
from detrnb.runs import COCO_METRICS, config_differences

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
    "device": (False, "times and memory cannot be compared"),
    "precision": (
        True,
        "other rounding, so other chance, and other time and memory: what differs besides cannot"
        " be told from it",
    ),
    "versions": (False, "other rounding, or other computing"),
    "code": (True, "what is computed may differ, in these files"),
    "git commit": (False, "code unknown: what is computed may differ, look at the commits between"),
}
ONE_RUN = "One run each: what chance does from seed to seed is not in these numbers."
# Settings that findings speak of, or that do not change what is computed.
_COVERED = {
    *("preset_name", "train.seed", "train.batch_size", "train.lr", "train.precision"),
    *("train.schedule", "train.lr_drop", "train.warmup", "train.epochs", "train.cache_features"),
    *("data.path", "data.num_workers", "data.train_sizes", "data.eval_size", "data.max_size"),
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


@dataclass(frozen=True)
class Audit:
    """What is known of two runs and whether they may be compared; prints as a report.

    Attributes:
        names: of the runs.
        findings: of each run, by name.
        differences: the decisive ones first.
        epoch: the last that both logged.
        results: `table.differences` of the runs, at that epoch.
        remarks: what their logs hold besides, such as earlier runs.
    """

    names: tuple[str, str]
    findings: tuple[dict[str, Finding], dict[str, Finding]]
    differences: tuple[Difference, ...]
    epoch: int
    results: pd.DataFrame
    remarks: tuple[str, ...] = ()

    @property
    def reasons(self) -> list[str]:
        """What forbids the comparison."""
        return [str(d) for d in self.differences if d.decisive]

    @property
    def doubts(self) -> list[str]:
        """What likely forbids it."""
        return [str(d) for d in self.differences if d.doubtful]

    @property
    def comparable(self) -> bool:
        """Whether nothing that is known for certain forbids the comparison."""
        return not self.reasons

    @property
    def unknown(self) -> list[str]:
        """What is not known of both, and so could differ unseen."""
        first, second = self.findings
        names = [n for n in first if not _known_of_both(first[n].value, second[n].value)]
        if "data" not in names:  # its fingerprint covers them
            names = [n for n in names if not n.startswith("validation")]
        return [n for n in names if n != "git commit"]  # stands in for code

    @property
    def verdict(self) -> str:
        """`comparable`, with what is not known, or `not comparable, because ...`, or likely so."""
        if not self.comparable:
            return f"not comparable, because they differ in {', '.join(self.reasons)}"
        if self.doubts:
            return (
                "likely not comparable: they differ, if they log as the reference does, in"
                f" {', '.join(self.doubts)}"
            )
        if self.unknown:
            return f"comparable as far as is known; unknown: {', '.join(self.unknown)}"
        return "comparable"

    @property
    def table(self) -> pd.DataFrame:
        """Findings side by side: a row each, with text and certainty for both runs."""
        first, second = self.findings
        rows = {
            name: (x.text, x.certainty, y.text, y.certainty)
            for name, x, y in zip(first, first.values(), second.values(), strict=True)
        }
        columns = pd.MultiIndex.from_product([self.names, ["finding", "certainty"]])
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns)

    def __str__(self) -> str:
        first, second = self.findings
        rows, reasons = [("", *self.names, "how it is known")], []
        for name, x, y in zip(first, first.values(), second.values(), strict=True):
            if "unknown" == x.text == y.text:
                continue
            known = dict.fromkeys((x.certainty, y.certainty))
            rows.append((name, x.text, y.text, ", ".join(known)))
            reasons += [
                layout.item("-", f"{name}, {run}: {side.because}")
                for run, side in zip(self.names, (x, y), strict=True)
                if side.because
            ]
        differing = [
            layout.item("!" if d.decisive else "?" if d.doubtful else "-", f"{d}: {d.effect}")
            for d in self.differences
        ]
        parts = {
            f"Audit of {self.names[0]} and {self.names[1]}": [layout.columns(rows)],
            "What the logs hold besides": [layout.item("-", remark) for remark in self.remarks],
            "What inferences rest on": reasons,
            "What differs, and what it likely does (! forbids the comparison, ? likely does)": (
                differing
            ),
            f"Results at epoch {self.epoch}": self._results(),
            "Verdict": [layout.paragraph(f"{self.verdict}. {ONE_RUN}")],
        }
        return "\n\n".join("\n".join([head, *lines]) for head, lines in parts.items() if lines)

    def _results(self) -> list[str]:
        """The main numbers, which run each favours, and whether they agree."""
        whole = self.results.xs(("", ""), level=("layer", "class"))
        whole = whole.dropna(subset=["first", "second"])
        run = dict(zip(("first", "second", ""), (*self.names, "neither"), strict=True))
        main = [("train", "loss"), *(("val", name) for name in ("loss", "AP", "AP50", "AR100"))]
        shown = {" ".join(key): whole.loc[key] for key in main if key in whole.index}
        rows = [
            (name, f"{row['first']:.4g}", f"{row['second']:.4g}", run[row["better"]])
            for name, row in shown.items()
        ]
        lines = [layout.columns([("", *self.names, "better"), *rows])] if rows else []
        coco = whole[[split == "val" and name in COCO_METRICS for split, name in whole.index]]
        if len(coco):
            ahead = [_ahead(run[side], coco, side) for side in ("first", "second")]
            lines.append(f"of {len(coco)} COCO numbers better: {', '.join(ahead)}")
        trained = shown["train loss"]["better"] if "train loss" in shown else ""
        against = [
            name
            for name in ("val loss", "val AP")
            if name in shown and shown[name]["better"] not in (trained, "")
        ]
        if trained and against:
            named = " and ".join(against)
            lines.append(f"the training loss points one way, {named} the other")
        return lines


def _ahead(name: str, coco: pd.DataFrame, side: str) -> str:
    """How many COCO numbers a run is ahead in; which, where they are few."""
    found = coco.index[coco["better"] == side].get_level_values("metric")
    return f"{name} {len(found)}" + (f" ({', '.join(found)})" if 0 < len(found) <= 3 else "")


def audit(first: Source, second: Source) -> Audit:
    """Find out what two runs were and whether they may be compared.

    Settings and provenance of run folders are taken at their word and checked against the log. Of
    a bare log everything is inferred from its numbers (`inference`), so that two logs from anywhere
    can be audited; what rests on how the reference logs is only likely where the keys are others.

    Args:
        first, second: run folders, log files, or lines of logs.

    Raises:
        ValueError: one cannot be read, or they share no epoch.
    """
    a, b = read_record(first), read_record(second)
    names = (a.name, b.name) if a.name != b.name else (f"{a.name} (1)", f"{b.name} (2)")
    found = findings(a), findings(b)
    known = all(logs_as_reference(record.run[0]) for record in (a, b))
    differing = [
        _difference(name, names, found, known)
        for name in found[0]
        if _differ(name, *(side[name].value for side in found))
    ]
    if all(side["code"].value is not None for side in found):  # then commits say nothing more
        differing = [d for d in differing if d.what != "git commit"]
    differing += _other_settings(a.config, b.config)
    return Audit(
        names,
        found,
        tuple(sorted(differing, key=lambda d: (not d.decisive, not d.doubtful))),
        last_common_epoch(a, b),
        differences(a, b),
        tuple(f"{n}: {x}" for n, r in zip(names, (a, b), strict=True) for x in r.remarks),
    )


def _known_of_both(x: object, y: object) -> bool:
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
        return bool(_other_parts(x, y))
    return x != y


def _other_parts(x: Mapping[str, object], y: Mapping[str, object]) -> list[str]:
    """Files, splits or packages that differ; one that only one run has is no difference.

    So a variant's own file is none: that it is there is what is compared.
    """
    return sorted(name for name in x.keys() & y.keys() if x[name] != y[name])


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
    parts = _other_parts(x.value, y.value) if isinstance(x.value, Mapping) else ()
    return Difference(
        *(name, x.text, y.text, effect),
        decisive=decisive and sure,
        doubtful=decisive and not sure,
        parts=tuple(parts),
    )


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
        for key, pair in config_differences(first, second).items()
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
