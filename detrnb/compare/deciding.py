"""What follows from a study's verdicts: one rule for every entry, so that none is argued for."""

import pandas as pd

from detrnb.compare.judging import ALIKE, Verdicts
from detrnb.compare.statistics import FEWEST_SEEDS


def decisions(found: Verdicts, seeds: int, control: str | None = None) -> pd.DataFrame:
    """Decide on every entry of a study but its control.

    An entry is

    - `not decided` while it has fewer pairs of runs than planned (who looks after each seed and
      stops when it suits finds differences that are none), while it is not judged or its runs
      differ from the baseline's in more than the model, and while the control has not been found
      worse;
    - `applied` where AP is better, `not applied` where it is worse;
    - where no difference is seen, `not applied`, since the simpler model stays; but `optional`
      where it is cheaper: less time or less memory in every pair, and neither more.

    Args:
        seeds: pairs of runs planned for each entry; fewer than FEWEST_SEEDS never decide.
        control: an entry that is known to be worse, so that a study that does not find it so could
            not have found anything. None, or not in the study: the reason says so.

    Returns:
        By entry, `decision` and its `reason`.
    """
    doubt = _doubt(found.table, control)
    rows = {
        row.Index: _decide(row, max(seeds, FEWEST_SEEDS), doubt)
        for row in found.table.itertuples()
        if row.Index != control
    }
    if control not in found.table.index:
        unchecked = "; no control among these runs shows that they could find a difference"
        rows = {
            entry: (decision, reason + unchecked * (decision != "not decided"))
            for entry, (decision, reason) in rows.items()
        }
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
    if row.seeds < seeds:
        return "not decided", f"{row.seeds} of {seeds} seeds"
    if row.verdict == "not judged":
        return "not decided", row.text
    if row.conditions:
        return "not decided", f"the runs differ in more than the model: {row.conditions}"
    if doubt:
        return "not decided", doubt
    if row.verdict == "better":
        return "applied", row.text
    if row.verdict == "worse":
        return "not applied", row.text
    left_open = f"{row.text}; the interval leaves {row.low:+.3f} to {row.high:+.3f} AP open"
    if _cheaper(row):
        return "optional", f"{left_open}: cheaper, for who can bear the lower end"
    return "not applied", f"{left_open}, and without a gain that shows the simpler model stays"


def _cheaper(row: object) -> bool:
    """In time or memory, in every pair of runs, and dearer in neither's median."""
    saves = row.time_high < 1 - ALIKE or row.memory_high < 1 - ALIKE
    return saves and not (row.time > 1 + ALIKE or row.memory > 1 + ALIKE)
