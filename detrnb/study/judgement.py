"""What was settled when a judgement was asked for, and what it found: text, picture, LaTeX."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure

from detrnb.compare import Record, Ruling, Verdicts, latex, methods, paired_by_epoch
from detrnb.plots import plot_forest, plot_paired_curves
from detrnb.runs import keep_copy, project_root, write_whole
from detrnb.settings import SCENES, Config


@dataclass(frozen=True)
class Plan:
    """What was settled when a judgement was first asked for, in runs/judged/.

    Attributes:
        looks: numbers of seeds at which a verdict is or was given; the last is still to be reached
            or was reached.
        rates: entry -> factor of the preset's learning rate; empty where both take the preset's.
        first: number of the first pair. Where data are generated, a pair has scenes of its own by
            its number; 0: pairs share the preset's data.
        kept: numbers of pairs whose baseline is the kept study's run.
    """

    name: str
    baseline: str
    preset: str
    looks: tuple[int, ...]
    rates: Mapping[str, float]
    first: int = 0
    kept: tuple[int, ...] = ()

    @property
    def path(self) -> Path:
        name = f"{self.preset}-{self.name}-against-{self.baseline}.json"
        return project_root() / "runs" / "judged" / name

    @property
    def seeds(self) -> int:
        return self.looks[-1]

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
        text = json.dumps(asdict(self), indent=2) + "\n"
        write_whole(self.path, lambda file: file.write(text.encode()))
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
            reached.
    """

    plan: Plan
    records: tuple[Record, ...]
    found: Verdicts | None = None

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
        name, plan = f"{self.plan.name} against {self.plan.baseline}", self.plan
        if self.ruling is None:
            there = f"{len(self.records)} of {2 * plan.seeds} runs are there"
            return f"{name}: {there}; no verdict before all are"
        row = self.found.table.iloc[0]
        if row.forbidden:
            return f"{name}: {row.text}"
        return f"{name}, by {self.found.metric}: {row.text}. " + " ".join(self._notes)

    def _repr_markdown_(self) -> str:
        return str(self)

    @property
    def _notes(self) -> list[str]:
        """Every condition that a reader must know."""
        plan = self.plan
        if plan.rates:
            rates = ", ".join(f"{entry} {factor:g}" for entry, factor in plan.rates.items())
            notes = [f"Rates were tuned for both alike (times the preset's: {rates})."]
        else:
            notes = ["Both take the preset's learning rate, which was found for DETR."]
        if len(plan.looks) > 1:
            looks = " and ".join(map(str, plan.looks))
            notes.append(f"Looked at after {looks} seeds, so each look counts half.")
        if plan.kept:
            notes.append(
                f"{len(plan.kept)} of {plan.baseline}'s runs are the kept study's, of this code,"
                " and an epoch trained here gave the same numbers."
            )
        if "test" not in self.found.metric:
            notes.append("On validation images, for want of a test split.")
        return notes

    @property
    def _scenes(self) -> str:
        """Whether pairs differ in their images, in words."""
        return ", and each seed has scenes of its own" if self.plan.first else ""

    def to_latex(self) -> str:
        """The comparison as a tabular, with booktabs' rules; captions are the author's."""
        return latex(self.found)

    def methods(self) -> str:
        """A paragraph for a paper that says what was done."""
        plan = self.plan
        config = plan.config(plan.name, 0)
        return (
            f"{plan.name} and {plan.baseline} were each trained {_times(plan.seeds)} with"
            f" detrnb's preset {plan.preset} ({config.train.epochs} epochs,"
            f" {config.train.global_batch(1)} images a step); runs of equal seed share the order of"
            f" the data and the initial weights of shared parts{self._scenes}. The number of seeds"
            f" was fixed before the first run, and AP is that after the last epoch."
            f" {methods(self.found)}"
            f" {' '.join(self._notes)}"
        )


def _times(count: int) -> str:
    """How often, in words."""
    return "once" if count == 1 else f"{count} times"
