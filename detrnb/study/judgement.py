"""What was settled when a judgement was asked for, and what it found: text, picture, LaTeX."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from detrnb.compare import (
    FEWEST_SEEDS,
    Record,
    Ruling,
    Verdicts,
    latex,
    methods,
    paired_by_epoch,
    time_note,
)
from detrnb.plots import plot_forest, plot_paired_curves
from detrnb.runs import keep_copy, project_root, write_text
from detrnb.settings import SCENES, Config, own_sources


@dataclass(frozen=True)
class Plan:
    """What was settled when a judgement was first asked for, in runs/judged/.

    Attributes:
        looks: numbers of seeds that were settled, one after the other; the last is still to be
            reached or was reached. Fewer than FEWEST_SEEDS are described.
        rates: entry -> factor of the preset's learning rate; empty where both take the preset's.
        first: number of the first pair. Where data are generated, a pair has scenes of its own by
            its number; 0: pairs share the preset's data.
        kept: numbers of pairs whose baseline is the kept study's run.
        sources: of a user's own variants on either side, by name the hash of their source.
        earlier: versions with other sources that were settled before, on the same scenes.
    """

    name: str
    baseline: str
    preset: str
    looks: tuple[int, ...]
    rates: Mapping[str, float]
    first: int = 0
    kept: tuple[int, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    earlier: int = 0

    @property
    def path(self) -> Path:
        name = f"{self.preset}-{self.name}-against-{self.baseline}.json"
        return project_root() / "runs" / "judged" / name

    @property
    def seeds(self) -> int:
        return self.looks[-1]

    @property
    def judged(self) -> tuple[int, ...]:
        """The looks that give a verdict."""
        return tuple(look for look in self.looks if look >= FEWEST_SEEDS)

    @property
    def numbers(self) -> range:
        """Of pairs."""
        return range(self.first, self.first + self.seeds)

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """What `write` kept."""
        there = json.loads(path.read_text())
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in there.items()})

    def write(self) -> None:
        write_text(self.path, json.dumps(asdict(self), indent=2) + "\n")
        keep_copy(self.path)

    def config(self, entry: str, seed: int, rate: float | None = None) -> Config:
        """The settings of one run; `rate` in place of the entry's own factor."""
        factor = self.rates.get(entry, 1.0) if rate is None else rate
        overrides: dict[str, object] = {SCENES: seed} if self.first else {}
        if factor != 1:
            overrides["train.lr"] = Config.preset(self.preset).train.lr * factor
        return Config.preset(self.preset, variant=entry, seed=seed, overrides=overrides)


@dataclass(frozen=True)
class Judgement:
    """What is known of an idea against its baseline; a notebook shows it as text.

    Attributes:
        records: the finished runs of both.
        found: the comparison, with what each costs; None before the planned number of seeds is
            reached, or where all of one side diverged.
        diverged: runs of each that did.
    """

    plan: Plan
    records: tuple[Record, ...]
    found: Verdicts | None = None
    diverged: Mapping[str, int] = field(default_factory=dict)

    @property
    def ruling(self) -> Ruling | None:
        """The verdict; None before the planned number of seeds is reached."""
        return None if self.found is None else self.found.rulings[self.plan.name]

    @property
    def figure(self) -> Figure:
        """The difference with its interval; before a verdict, the curves of pairs so far."""
        if self.found is not None:
            return plot_forest(self.found.table, self.found.metric)
        pairs = paired_by_epoch(list(self.records), "AP", self.plan.baseline)
        return plot_paired_curves(pairs, "validation AP")

    def __str__(self) -> str:
        name = f"{self.plan.name} against {self.plan.baseline}"
        if self.ruling is None:
            return f"{name}: {self._no_verdict}"
        row = self.found.table.iloc[0]
        if row.forbidden:
            return f"{name}: {row.text}"
        return f"{name}, by {self.found.metric}: {row.text}. " + " ".join(self._notes)

    def _repr_markdown_(self) -> str:
        return str(self)

    @property
    def _no_verdict(self) -> str:
        """Why there is none."""
        total = 2 * self.plan.seeds
        there = len(self.records) + sum(self.diverged.values())
        if there < total:
            return f"{there} of {total} runs are there; no verdict before all are"
        lost = (f"{count} of {entry}'s" for entry, count in self.diverged.items())
        return f"no verdict: {' and '.join(lost)} {self.plan.seeds} runs diverged"

    def _see_verdict(self) -> None:
        """See that there is one.

        Raises:
            ValueError: there is not.
        """
        if self.found is None:
            raise ValueError(f"{self.plan.name} against {self.plan.baseline}: {self._no_verdict}")

    @property
    def _notes(self) -> list[str]:
        """Every condition that a reader must know."""
        plan = self.plan
        if plan.rates:
            rates = ", ".join(f"{entry} {factor:g}" for entry, factor in plan.rates.items())
            notes = [f"Rates were tuned for both alike (times the preset's: {rates})."]
        else:
            notes = ["Both take the preset's learning rate, which was found for DETR."]
        if described := [look for look in plan.looks if look not in plan.judged]:
            notes.append(f"Described first after {' and '.join(map(str, described))} seeds.")
        if len(plan.judged) > 1:
            looks = " and ".join(map(str, plan.judged))
            notes.append(f"Looked at after {looks} seeds, so each look counts half.")
        if plan.earlier:
            notes.append(
                f"Version {plan.earlier + 1} of the idea: earlier ones were settled, and could be"
                " looked at, on the same scenes; who changes an idea until it wins finds"
                " differences that are none."
            )
        if lost := self.diverged.get(plan.baseline):
            notes.append(
                f"Of {plan.baseline}, {lost} of {plan.seeds} runs diverged, so nothing is decided."
            )
        if plan.kept:
            notes.append(
                f"{len(plan.kept)} of {plan.baseline}'s runs are the kept study's, of this code,"
                " and an epoch trained here gave the same numbers; memory is that of their machine."
            )
        notes += filter(None, [time_note(self.records)])
        for own, source in (own_sources(plan.name) | own_sources(plan.baseline)).items():
            if source.missing:
                notes.append(
                    f"What is kept of {own} lacks {'; '.join(source.missing)}: whether that has"
                    " changed between runs cannot be told."
                )
        if "test" not in self.found.metric:
            notes.append("On validation images, for want of a test split.")
        return notes

    @property
    def _scenes(self) -> str:
        """Whether pairs differ in their images, in words."""
        return ", and each seed has scenes of its own" if self.plan.first else ""

    def to_latex(self) -> str:
        """The comparison as a tabular, with booktabs' rules; captions are the author's.

        Raises:
            ValueError: there is no verdict yet.
        """
        self._see_verdict()
        return latex(self.found)

    def methods(self) -> str:
        """A paragraph for a paper that says what was done.

        Raises:
            ValueError: there is no verdict yet.
        """
        self._see_verdict()
        plan = self.plan
        epochs = self.records[0].config["train"]["epochs"]  # which the data may have said
        fixed = ""
        if len(plan.looks) == 1:
            fixed = " The number of seeds was fixed before the first run."
        return (
            f"{plan.name} and {plan.baseline} were each trained {_times(plan.seeds)} with"
            f" detrnb's preset {plan.preset} ({epochs} epochs,"
            f" {plan.config(plan.name, 0).train.global_batch(1)} images a step); runs of equal seed"
            f" share the order of the data and the initial weights of shared parts{self._scenes}."
            f"{fixed} AP is that after the last epoch."
            f" {methods(self.found)}"
            f" {' '.join(self._notes)}"
        )


def _times(count: int) -> str:
    """How often, in words."""
    return "once" if count == 1 else f"{count} times"
