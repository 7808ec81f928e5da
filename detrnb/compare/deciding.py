"""What follows from a study's verdicts: one rule for every entry, so that none is argued for."""

from collections.abc import Mapping

import pandas as pd

from detrnb.compare.judging import ALIKE, Verdicts
from detrnb.compare.statistics import FEWEST_SEEDS

RULE = (
    "Better is applied; better by less than it matters, and equivalent, are optional where an entry"
    f" saves more than {100 * ALIKE:g} % of time or memory in every pair that was measured, and in"
    " the median costs in neither more than that, else not applied; worse is not applied. Where the"
    " study cannot tell, an entry is unstable or described, has fewer replicates than planned, or"
    " differs in more than the model and what the plan states, and where a decisive control fails,"
    " nothing is decided."
)


def decisions(
    found: Verdicts,
    seeds: int | Mapping[str, int],
    control: str | None = None,
    *,
    doubt: str | None = None,
) -> pd.DataFrame:
    """Decide on every entry of a study but its control.

    An entry is

    - `not decided` while it has fewer pairs of runs than planned (who looks after each seed and
      stops when it suits finds differences that are none), while it is not judged, cannot be told
      or is unstable, while its runs differ from the baseline's in more than the model, and while
      the control has not been found worse;
    - `applied` where AP is better;
    - `optional` where AP is better by less than it matters, or equivalent, and it is cheaper: less
      time or less memory in every pair, and neither more;
    - `not applied` where AP is worse, or one of these two without being cheaper, since the simpler
      model stays.

    Args:
        seeds: pairs of runs planned, for each entry or by entry; fewer than FEWEST_SEEDS never
            decide.
        control: an entry that is known to be worse, so that a study that does not find it so could
            not have found anything. None, or not in the study: the reason says so.
        doubt: of a study whose controls were looked at elsewhere, why they leave everything
            undecided, empty where they do not; then `control` is not asked.

    Returns:
        By entry, `decision` and its `reason`.
    """
    checked, stated = doubt is not None or control in found.table.index, doubt
    doubt = _doubt(found.table, control) if doubt is None else doubt
    rows = {}
    for row in found.table.itertuples():
        if row.Index == control:
            continue
        needed = seeds if isinstance(seeds, int) else seeds[row.Index]
        # What was stated holds for any number: a baseline that diverged takes pairs with it.
        needed = 0 if stated else max(needed, FEWEST_SEEDS)
        decision, reason = _decide(row, needed, doubt)
        if decision != "not decided" and not checked:
            reason += "; no control among these runs shows that they could find a difference"
        rows[row.Index] = decision, reason
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["decision", "reason"])
    return table.rename_axis("entry")


def _doubt(table: pd.DataFrame, control: str | None) -> str:
    """Why the control leaves everything undecided; empty where it does not."""
    if control not in table.index:
        return ""
    row = table.loc[control]
    if row["verdict"] == "worse":
        return ""
    if row["verdict"] == "not judged":
        return f"the control {control} is {row['text']}"
    if row["verdict"] == "described":
        return f"the control {control} has {row['seeds']} of {FEWEST_SEEDS} seeds"
    return f"{control}, known to be worse, was not found so: these runs cannot tell"


def _decide(row: object, seeds: int, doubt: str) -> tuple[str, str]:
    if row.verdict in ("not judged", "unstable"):
        return "not decided", row.text
    if row.seeds < seeds:
        return "not decided", f"{row.seeds} of {seeds} seeds"
    if row.conditions:
        return "not decided", f"the runs differ in more than the model: {row.conditions}"
    if doubt:
        return "not decided", doubt
    if row.verdict == "cannot tell":
        return "not decided", row.text
    if row.verdict == "better" and not row.within:
        return "applied", row.text
    if row.verdict == "worse":
        return "not applied", row.text
    if _cheaper(row):
        return "optional", f"{row.text}: cheaper"
    return "not applied", f"{row.text}: not cheaper, so the simpler model stays"


def _cheaper(row: object) -> bool:
    """In time or memory, in every pair of runs, and dearer in neither's median."""
    saves = row.time_high < 1 - ALIKE or row.memory_high < 1 - ALIKE
    return saves and not (row.time > 1 + ALIKE or row.memory > 1 + ALIKE)
