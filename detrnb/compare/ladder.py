"""A planned study as a whole: each family's verdicts, controls, decisions, what is described."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from detrnb.compare.deciding import decisions
from detrnb.compare.judging import VALIDATION, Verdicts, verdicts
from detrnb.compare.planned import PlannedEntry, StudyPlan
from detrnb.compare.records import Record, Source, read_records
from detrnb.compare.statistics import paired_test
from detrnb.runs import RunFolder

RATE = "learning rate"  # each entry has its own, found by the same trials
LENGTHS = ("epochs", "schedule")
CONTROLS = "controls"  # stands in the place of a family's name


@dataclass(frozen=True)
class Ladder:
    """What a study found, by its plan.

    Attributes:
        families: by name, the verdicts on its entries.
        controls: by entry: `baseline`, `expected`, `found`, `holds`, `decisive`, and the difference
            with its interval; each tested by itself.
        doubt: why the controls leave everything undecided; empty where they do not.
        doubts: by family, that, or that its baseline is unstable.
        decided: by entry, `decision` and `reason`.
        described: by comparison: `pairs`, `difference`, `low`, `high`; judged in no family.
        exploratory: runs that the plan does not hold, by name; in none of this.
        whole: all entries against the first, for what belongs to no family: values, times, audits.
            Its p values are adjusted for everything at once, and no verdict of the study's.
        runs: the finished runs that it is made of.
    """

    plan: StudyPlan
    families: Mapping[str, Verdicts]
    controls: pd.DataFrame
    doubt: str
    doubts: Mapping[str, str]
    decided: pd.DataFrame
    described: pd.DataFrame
    exploratory: tuple[str, ...]
    whole: Verdicts
    runs: tuple[Record, ...]

    @property
    def values(self) -> pd.DataFrame:
        """AP by replicate and entry."""
        return self.whole.values

    @property
    def table(self) -> pd.DataFrame:
        """The families' tables one below the other, with `family`, `decision` and `reason`."""
        tables = [found.table.assign(family=name) for name, found in self.families.items()]
        return pd.concat(tables).join(self.decided)

    @property
    def rungs(self) -> pd.DataFrame:
        """The table for `plot_forest`: the families, then controls that are in none of them.

        A family's name says with what it is compared, where that is not the study's baseline.
        """
        others = [entry for entry in self.controls.index if entry not in self.table.index]
        controls = self.whole.table.loc[others].assign(
            family=CONTROLS,
            words=self.controls.loc[others, "found"],
            p_holm=self.controls.loc[others, "p"],
        )
        against = {
            name: f"{name}, from {found.baseline}"
            for name, found in self.families.items()
            if found.baseline != self.whole.baseline
        }
        judged = self.table.assign(family=self.table["family"].replace(against))
        return pd.concat([judged, controls])

    @property
    def remarks(self) -> list[str]:
        """What stands above the table: controls that failed, what was cut, what is exploratory."""
        failed = self.controls[~self.controls["holds"]]
        said = [
            f"The control {row.Index} should be {row.expected} and is {row.found}."
            for row in failed.itertuples()
        ]
        said += [
            f"Nothing is decided of {name}: {why}."
            for name, why in self.doubts.items()
            if why != self.doubt
        ]
        said += [f"Cut: {what}" for what in self.plan.cut]
        if files := self.plan.judged_otherwise:
            said.append(f"Not as it was when the plan was settled: {', '.join(files)}.")
        if self.exploratory:
            said.append(f"Exploratory, not in the plan: {', '.join(self.exploratory)}.")
        return said


def ladder_of(
    plan: StudyPlan, sources: Iterable[Source], failed: Collection[tuple[str, int]] = ()
) -> Ladder:
    """Judge a planned study, once all of its runs are there.

    Args:
        sources: its runs. Those that do not carry the plan's hash, or whose entry and replicate it
            does not hold, are exploratory.
        failed: entry and replicate of each run that diverged.

    Raises:
        ValueError: runs are missing, one cannot be read, or has no result of its last epoch on the
            split that nothing was tuned on.
    """
    sources = list(sources)
    records = read_records(sources) if sources else []
    planned, labels = set(plan.runs()), [entry.label for entry in plan.entries]
    ours = [record for record in records if _is_planned(record, plan, planned)]
    ours.sort(key=lambda record: (labels.index(record.entry), record.replicate))
    missing = planned - {(r.entry, r.replicate) for r in ours} - set(failed)
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(planned)} planned runs are missing; there is no verdict before"
            " all are there, for who looks early and stops when it suits finds differences that are"
            " none: `detrnb study --status` says which"
        )
    lost = pd.Series([entry for entry, _ in failed], dtype=object).value_counts().to_dict()
    accept = {entry.label: _accepted(entry) for entry in plan.entries}
    families = {
        family.name: verdicts(
            [r for r in ours if r.entry in (family.baseline, *family.entries)],
            family.baseline,
            accept=accept,
            failed={entry: lost[entry] for entry in family.entries if entry in lost},
            delta=plan.delta,
            level=plan.level,
        )
        for family in plan.families
    }
    # Once more without families, for what belongs to none.
    whole = verdicts(ours, plan.entries[0].label, accept=accept, failed=lost, delta=plan.delta)
    if whole.metric == VALIDATION:
        raise ValueError(
            "a run's test.json is of another epoch than its last, or of another split than others';"
            " a planned study compares AP on images that nothing was tuned on"
        )
    controls = _controls(plan, whole, lost)
    doubt = "; ".join(
        f"the control {row.Index} should be {row.expected} and is {row.found}"
        for row in controls.itertuples()
        if row.decisive and not row.holds
    )
    replicates = {entry.label: entry.replicates for entry in plan.entries}
    doubts = {
        name: doubt or _unstable(plan, found.baseline, lost) for name, found in families.items()
    }
    decided = [decisions(families[name], replicates, doubt=why) for name, why in doubts.items()]
    return Ladder(
        *(plan, families, controls, doubt, doubts, pd.concat(decided), _described(plan, whole)),
        tuple(r.name for r in records if not _is_planned(r, plan, planned)),
        whole,
        tuple(ours),
    )


def read_ladder(folder: Path) -> Ladder:
    """Judge the study that a folder keeps: `plan.json` and `judged/`.

    Raises:
        ValueError: as for `ladder_of`; no plan is settled there.
    """
    plan = StudyPlan.read(folder / "plan.json")
    runs = [RunFolder(path) for path in sorted((folder / "judged").glob("*/"))]
    diverged = [run.read_provenance().get("study", {}) for run in runs if run.failed_path.exists()]
    finished = [run.path for run in runs if run.test_path.exists()]
    failed = [(s["entry"], s["replicate"]) for s in diverged if s.get("plan") == plan.hash]
    return ladder_of(plan, finished, failed)


def _is_planned(record: Record, plan: StudyPlan, planned: Collection[tuple[str, int]]) -> bool:
    of_plan = record.study.get("plan") == plan.hash
    return of_plan and (record.entry, record.replicate) in planned


def _accepted(entry: PlannedEntry) -> set[str]:
    """In what an entry's runs may differ from others' besides the model, as the plan has it."""
    lengths = LENGTHS if "train.epochs" in entry.overrides else ()
    return {RATE, *lengths, *(["seed"] if entry.weights else [])}


def _controls(plan: StudyPlan, whole: Verdicts, failed: Mapping[str, int]) -> pd.DataFrame:
    """Each control tested by itself, whatever its number of replicates."""
    rows = {}
    for control in plan.controls:
        found = (whole.values[control.entry] - whole.values[control.baseline]).dropna()
        size = _size(found.to_numpy())
        outcome = "neither"
        if size["p"] < plan.level:
            outcome = "better" if size["difference"] > 0 else "worse"
        differs = whole.table["forbidden"].get(control.entry)
        if control.baseline == whole.baseline and differs:
            outcome = f"not judged, as pairs differ in {differs}"
        if failed.get(control.entry):
            outcome = "unstable"
        rows[control.entry] = {
            **{"baseline": control.baseline, "expected": control.expected, "found": outcome},
            **{"holds": outcome == control.expected, "decisive": control.decisive, **size},
        }
    columns = ["baseline", "expected", "found", "holds", "decisive"]
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table if rows else pd.DataFrame(columns=columns)


def _unstable(plan: StudyPlan, baseline: str, failed: Mapping[str, int]) -> str:
    """Why nothing is decided in a baseline's family; empty where it never diverged."""
    if not failed.get(baseline):
        return ""
    return f"{baseline} is unstable ({failed[baseline]} of {plan.entry(baseline).replicates})"


def _described(plan: StudyPlan, whole: Verdicts) -> pd.DataFrame:
    """Comparisons in no family, and what a joined change adds beyond what it adds alone.

    An entry whose runs differ from the baseline's in what forbids a verdict is not described.
    """
    values = whole.values.copy()
    values[whole.table.index[whole.table["forbidden"] != ""]] = np.nan
    rows = {
        f"{pair.entry} - {pair.baseline}": _size(
            (values[pair.entry] - values[pair.baseline]).dropna().to_numpy()
        )
        for pair in plan.described
    }
    family = {entry: f.baseline for f in plan.families for entry in f.entries}
    for joined, alone in plan.beside.items():
        added = values[joined] - values[family[joined]] - (values[alone] - values[family[alone]])
        name = f"({joined} - {family[joined]}) - ({alone} - {family[alone]})"
        rows[name] = _size(added.dropna().to_numpy())
    return pd.DataFrame.from_dict(rows, orient="index")


def _size(differences: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Mean and 95 % interval of paired differences, NaN where there are too few."""
    n = len(differences)
    mean = float(np.mean(differences)) if n else np.nan
    size = {"pairs": n, "difference": mean, "low": np.nan, "high": np.nan, "p": np.nan}
    if n > 1:
        test = paired_test(np.asarray(differences, dtype=float))
        size |= {"low": float(test.low), "high": float(test.high), "p": float(test.p)}
    return size
