"""`check_variant`: what a variant must hold, as a table."""

import html
import traceback
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from detrnb.settings import is_library, name_of, resolve
from detrnb.study.bench import Bench
from detrnb.study.checks import Fault, Named, Skipped
from detrnb.study.passes import OF_PASSES
from detrnb.study.uses import OF_USES

CHECKS = (*OF_PASSES, *OF_USES)


@dataclass(frozen=True)
class Outcome:
    """What became of one check."""

    check: str
    outcome: Literal["ok", "fails", "skipped"]
    seen: str
    remedy: str = ""


@dataclass(frozen=True)
class Checked:
    """What `check_variant` found; a table in a notebook, text elsewhere."""

    variant: str
    outcomes: tuple[Outcome, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing fails."""
        return all(outcome.outcome != "fails" for outcome in self.outcomes)

    @property
    def table(self) -> pd.DataFrame:
        """A row for each check: outcome, what was seen, what to do."""
        return pd.DataFrame([vars(outcome) for outcome in self.outcomes]).set_index("check")

    @property
    def summary(self) -> str:
        """How many checks fail."""
        failed = sum(outcome.outcome == "fails" for outcome in self.outcomes)
        found = f"{failed} of {len(self.outcomes)} checks fail" if failed else "nothing fails"
        return f"{self.variant}: {found}"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.summary)}</p>{self.table.to_html()}"

    def __str__(self) -> str:
        lines = [self.summary]
        for outcome in self.outcomes:
            lines.append(f"{outcome.outcome:8}{outcome.check:15}{outcome.seen}")
            if outcome.outcome == "fails":
                lines.append(f"{'':23}-> {outcome.remedy}")
        return "\n".join(lines)


def check_variant(variant: str | type) -> Checked:
    """See whether a variant holds what it must, in seconds.

    Args:
        variant: a name, or several joined by `+`, or a class of a registered one.

    Raises:
        ValueError: no such variant.
    """
    name = variant if isinstance(variant, str) else name_of(variant)
    resolve(name)
    try:
        bench = Bench(name)
    except ValueError as error:
        return Checked(name, (Outcome("builds", "fails", str(error), CHECKS[0].remedy),))
    outcomes = [outcome_of(CHECKS[0], bench)]
    if outcomes[0].outcome == "ok":  # else there is nothing to look at
        outcomes += [outcome_of(check, bench) for check in CHECKS[1:]]
    return Checked(name, tuple(outcomes))


def outcome_of(check: Named, bench: Bench) -> Outcome:
    """Run one check; whatever a variant's own code raises is what was seen."""
    try:
        return Outcome(check.name, "ok", check.run(bench))
    except Skipped as reason:
        return Outcome(check.name, "skipped", _first_line(reason))
    except Fault as fault:
        return Outcome(check.name, "fails", str(fault), check.remedy)
    except Exception as error:
        seen = f"{type(error).__name__}: {_first_line(error)}{_place_of(error)}"
        return Outcome(check.name, "fails", seen, check.remedy)


def _place_of(error: Exception) -> str:
    """Where in somebody's own code an error came up, in words; empty where it is in none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not is_library(frame.filename):
            return f" (in {frame.name}, line {frame.lineno}: {frame.line})"
    return ""


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
