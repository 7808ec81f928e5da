"""Whether verdicts of a planned study hang on one replicate. Exploratory: nothing is decided so."""

import pandas as pd

from detrnb.compare.ladder import Ladder
from detrnb.compare.versus import against


def without_each(ladder: Ladder) -> pd.DataFrame:
    """Rule on each family again, without each replicate in turn.

    Returns:
        By entry whose verdict would be another, what diverged left out: `verdict`, as it is;
        `otherwise`, the verdicts that it would have, each with the replicates without which.
    """
    rows = {}
    for found in ladder.families.values():
        failed = {entry: ruling.failed for entry, ruling in found.rulings.items() if ruling.failed}
        unjudged = [entry for entry, r in found.rulings.items() if r.verdict == "not judged"]
        others: dict[str, dict[str, list[str]]] = {}
        for replicate in found.values.index:
            rulings = against(
                found.values.drop(index=replicate),
                found.baseline,
                failed=failed,
                unjudged=unjudged,
                delta=ladder.plan.delta,
                level=ladder.plan.level,
            )
            for entry, ruling in rulings.items():
                if not ruling.failed and ruling.words != found.rulings[entry].words:
                    without = others.setdefault(entry, {})
                    without.setdefault(ruling.words, []).append(str(replicate))
        rows |= {
            entry: {
                "verdict": found.rulings[entry].words,
                "otherwise": "; ".join(f"{v} without {', '.join(n)}" for v, n in verdicts.items()),
            }
            for entry, verdicts in others.items()
        }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["verdict", "otherwise"])
    return table.rename_axis("entry")
