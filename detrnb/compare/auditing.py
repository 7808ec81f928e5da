"""Whether two runs may be compared at all: what differs between them, with what likely effect."""

from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from detrnb.compare import layout
from detrnb.compare.certainty import Finding
from detrnb.compare.differing import Difference, differences_of, known_of_both
from detrnb.compare.findings import findings, of_tool
from detrnb.compare.records import Record, Source, read_record
from detrnb.compare.table import differences, last_common_epoch
from detrnb.runs import COCO_METRICS

ONE_RUN = "One run each: what chance does from seed to seed is not in these numbers."


@dataclass(frozen=True)
class Audit:
    """What is known of two runs and whether they may be compared; prints as a report.

    Attributes:
        names: of the runs.
        findings: of each run, by name.
        differences: the decisive ones first.
        epoch: the last that both logged.
        remarks: what their logs hold besides, such as earlier runs.
        records: the runs.
    """

    names: tuple[str, str]
    findings: tuple[dict[str, Finding], dict[str, Finding]]
    differences: tuple[Difference, ...]
    epoch: int
    remarks: tuple[str, ...]
    records: tuple[Record, Record] = field(repr=False)

    @cached_property
    def results(self) -> pd.DataFrame:
        """Their numbers at that epoch, as from `table.differences`."""
        return differences(*self.records)

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
        names = [n for n in first if not known_of_both(first[n].value, second[n].value)]
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
    if a.tool or b.tool:
        found = tuple(f | of_tool(r) for f, r in zip(found, (a, b), strict=True))
    differing = differences_of((a, b), names, found)
    return Audit(
        names,
        found,
        tuple(differing),
        last_common_epoch(a, b),
        tuple(f"{n}: {x}" for n, r in zip(names, (a, b), strict=True) for x in r.remarks),
        (a, b),
    )
