"""What a study settles before its first judged run: `plan.json`, as a model that checks itself."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from detrnb.compare.deciding import RULE as DECISIONS
from detrnb.compare.ruling import DELTA
from detrnb.compare.ruling import RULE as VERDICTS
from detrnb.compare.statistics import LEVEL
from detrnb.runs import code_differences, hash_of_file, write_text
from detrnb.settings import SCENES, Config, resolve

RULE = (
    f"{VERDICTS} Every pair is audited; code, data or precision that differs forbids a verdict."
    f" Controls are each tested by themselves at {100 * LEVEL:g} %, whatever their replicates."
    f" {DECISIONS}"
)
FAILED_RUNS = (
    "A run that diverges counts as AP 0 in trials; in judgement its entry is unstable (k of n), not"
    " decided, and stays one of its family's comparisons, as one that finds nothing. Where a"
    " baseline diverges, nothing is decided in its family. One that is stopped from outside goes on"
    " from its last epoch."
)
JUDGING = ("deciding", "judging", "ladder", "ruling", "statistics", "versus")
FIRST_REPLICATE = 200  # of those that are judged; numbers below 100 are for development


def judging_files() -> dict[str, str]:
    """The hash of each file that verdicts and decisions are made by."""
    here = Path(__file__).parent
    return {f"compare/{name}.py": hash_of_file(here / f"{name}.py") for name in JUDGING}


class _Stated(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlannedEntry(_Stated):
    """One thing that a study trains.

    `rate` is how many times the preset's learning rate it takes, `tried` the rates tried for it;
    one without trials takes that of the entry `rate_of`. `weights` is added to a replicate's number
    for the seed of weights and order, so that they differ from the others' on the same data.
    """

    label: str
    variant: str
    replicates: int = Field(ge=1)
    overrides: dict[str, object] = {}
    rate: float | None = None
    tried: tuple[float, ...] = ()
    rate_of: str | None = None
    weights: int = 0


class Family(_Stated):
    """Comparisons with one baseline that are adjusted for each other."""

    name: str
    baseline: str
    entries: tuple[str, ...]


class Pair(_Stated):
    """A comparison that is described, in no family."""

    entry: str
    baseline: str


class Control(_Stated):
    """A comparison whose outcome is known; where a decisive one fails, nothing is decided."""

    entry: str
    baseline: str
    expected: Literal["better", "worse", "neither"]
    decisive: bool = False


class Trials(_Stated):
    """How learning rates are tried; `epochs` None: as long as a judged run."""

    replicates: tuple[int, ...] = (100, 101)
    factors: tuple[float, ...] = (0.5, 1.0, 2.0)
    epochs: int | None = None


class StudyPlan(_Stated):
    """A study: what is trained, how it is judged. Frozen once `frozen` says when.

    `beside` names by joined entry the same change alone: what it adds there and here is described.
    `code` is the hash of each file that computes, `judged_by` of each that judges; `cut` says what
    was left out, and why.
    """

    name: str
    preset: str
    first: int = FIRST_REPLICATE
    delta: float = DELTA
    level: float = LEVEL
    entries: tuple[PlannedEntry, ...]
    families: tuple[Family, ...]
    controls: tuple[Control, ...] = ()
    described: tuple[Pair, ...] = ()
    beside: dict[str, str] = {}
    trials: Trials = Trials()
    rule: str = RULE
    failed_runs: str = FAILED_RUNS
    cut: tuple[str, ...] = ()
    code: dict[str, str] = {}
    judged_by: dict[str, str] = {}
    frozen: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        known = {entry.label: entry for entry in self.entries}
        if len(known) < len(self.entries):
            raise ValueError("two entries have one label")
        named = [name for family in self.families for name in (family.baseline, *family.entries)]
        for pair in (*self.controls, *self.described):
            named += [pair.entry, pair.baseline]
        named += [*self.beside, *self.beside.values()]
        named += [entry.rate_of for entry in self.entries if entry.rate_of]
        if unknown := sorted(set(named) - known.keys()):
            raise ValueError(f"no entry {', '.join(unknown)}; there are {', '.join(known)}")
        both = [e.label for e in self.entries if (e.tried or e.rate) and e.rate_of]
        if self.frozen and (open_ := [e.label for e in self.entries if self._rate(e) is None]):
            raise ValueError(f"no learning rate was chosen for {', '.join(open_)}")
        if both:
            raise ValueError(f"{', '.join(both)}: tried rates and another's")
        return self

    def entry(self, label: str) -> PlannedEntry:
        return next(entry for entry in self.entries if entry.label == label)

    def _rate(self, entry: PlannedEntry) -> float | None:
        return self.entry(entry.rate_of).rate if entry.rate_of else entry.rate

    def config(
        self, label: str, replicate: int, factor: float | None = None, epochs: int | None = None
    ) -> Config:
        """The settings of a run.

        Args:
            factor: of the preset's learning rate; the one chosen unless given.
            epochs: in place of the entry's own.

        Raises:
            ValueError: no rate was chosen yet.
        """
        entry = self.entry(label)
        factor = self._rate(entry) if factor is None else factor
        if factor is None:
            raise ValueError(f"no learning rate is chosen for {label} yet: run its trials")
        overrides = {SCENES: replicate, "train.precision": "fp32", **entry.overrides}
        if factor != 1:
            overrides["train.lr"] = Config.preset(self.preset).train.lr * factor
        if epochs is not None:
            overrides["train.epochs"] = epochs
        return Config.preset(
            self.preset, variant=entry.variant, seed=replicate + entry.weights, overrides=overrides
        )

    def runs(self) -> Iterator[tuple[str, int]]:
        """Every judged run, replicate by replicate: entry and replicate."""
        for number in range(max(entry.replicates for entry in self.entries)):
            for entry in self.entries:
                if number < entry.replicates:
                    yield entry.label, self.first + number

    @property
    def tuned(self) -> list[PlannedEntry]:
        """Entries whose learning rate is tried."""
        return [entry for entry in self.entries if entry.rate_of is None]

    @property
    def budgets(self) -> dict[str, float]:
        """Entries of a settled plan that are the first one's model, trained for another length: how
        many times as long.
        """
        first = self.entries[0]
        same = [entry.label for entry in self.entries if entry.variant == first.variant]
        epochs = {label: self.config(label, self.first).train.epochs for label in same}
        usual = epochs[first.label]
        return {label: count / usual for label, count in epochs.items() if count != usual}

    @property
    def parts(self) -> dict[str, str]:
        """By entry the part that it changes, which gives its colour; or that it joins changes, or
        is a control.
        """
        controls = {control.entry for control in self.controls if control.expected != "better"}
        found = {}
        for entry in self.entries:
            variants = resolve(entry.variant)
            made = [part for one in variants for part, target in one.parts.items() if target]
            if entry.label in controls or not variants:
                found[entry.label] = "control"
            elif len(variants) > 1:
                found[entry.label] = "joined"
            elif len(made) > 1 and "decoder" not in made:
                found[entry.label] = "several parts"
            else:
                found[entry.label] = "decoder" if "decoder" in made else made[0].replace("_", " ")
        return found

    @property
    def table(self) -> pd.DataFrame:
        """By entry of a settled plan: `family`, `replicates`, `rates tried` and `rate`, times the
        preset's.
        """
        families = {name: family.name for family in self.families for name in family.entries}
        rows = {
            entry.label: {
                "family": families.get(entry.label, ""),
                "replicates": entry.replicates,
                "rates tried": ", ".join(f"{rate:g}" for rate in entry.tried),
                "rate": f"{entry.rate:g}" if entry.rate_of is None else f"{entry.rate_of}'s",
            }
            for entry in self.entries
        }
        return pd.DataFrame.from_dict(rows, orient="index")

    @property
    def hash(self) -> str:
        """What a run's provenance carries; of what is stated, so that a field which a later edition
        adds leaves it as it is.
        """
        text = json.dumps(self._stated, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def _stated(self) -> dict[str, object]:
        return self.model_dump(mode="json", exclude_unset=True)

    def write(self, path: Path) -> None:
        write_text(path, json.dumps(self._stated, indent=1) + "\n")

    @property
    def judged_otherwise(self) -> list[str]:
        """Files that judge and are not as they were when the plan was settled."""
        return code_differences(self.judged_by, judging_files()) if self.judged_by else []

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a plan.json.

        Raises:
            ValueError: it is missing or no plan.
        """
        if not path.is_file():
            raise ValueError(f"{path} is missing: no plan is settled there")
        return cls.of(json.loads(path.read_text()), str(path))

    @classmethod
    def of(cls, stated: Mapping[str, object], source: str = "plan") -> Self:
        """A plan from what its file holds.

        Raises:
            ValueError: it is none; names the place.
        """
        try:
            return cls.model_validate(stated)
        except ValidationError as error:
            told = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or source}: {e['msg']}" for e in error.errors()
            )
            raise ValueError(f"{source} is no plan of a study: {told}") from None
