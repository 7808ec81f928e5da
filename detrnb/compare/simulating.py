"""How often each verdict would come: made-up studies of a plan's own numbers, through the rule."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from detrnb.compare.planned import StudyPlan
from detrnb.compare.ruling import DELTA, rule_family
from detrnb.compare.statistics import LEVEL

STUDIES = 2000
VERDICTS = (
    *("better", "better, by less than it matters", "equivalent", "cannot tell"),
    *("worse, by less than it matters", "worse", "described"),
)


def simulated(
    plan: StudyPlan, spread: float | Mapping[str, float], studies: int = STUDIES, seed: int = 0
) -> pd.DataFrame:
    """Judge made-up studies whose true differences are known.

    An entry's paired differences are normal around the true one, which all entries of a family
    share; two entries' correlate by one half, since they share the baseline's runs.

    Args:
        spread: standard deviation of paired differences, as measured; or by entry.
        studies: of each true difference: 0, delta / 2, delta, 2 delta.

    Returns:
        By family and true difference, the share of entries with each verdict; `false`: of studies
        in which an entry without a difference is better or worse, or, where the true one is delta
        or more, the share of entries that are equivalent or differ by less than it matters.
    """
    rng = np.random.default_rng(seed)
    rows = {}
    for family in plan.families:
        counts = {
            entry: min(plan.entry(entry).replicates, plan.entry(family.baseline).replicates)
            for entry in family.entries
        }
        spreads = {e: spread[e] if isinstance(spread, Mapping) else spread for e in counts}
        for true in (0.0, plan.delta / 2, plan.delta, 2 * plan.delta):
            found = pd.DataFrame([_study(rng, counts, spreads, true, plan) for _ in range(studies)])
            shares = {v: float((found == v).to_numpy().mean()) for v in VERDICTS}
            wrong = np.nan
            if true == 0:
                sides = found.apply(lambda one: one.str.startswith(("better", "worse")))
                wrong = float(sides.any(axis=1).mean())
            elif true >= plan.delta:
                wrong = sum(shares[v] for v in VERDICTS if "equivalent" in v or "less" in v)
            rows[family.name, true] = {**shares, "false": wrong}
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.rename_axis(["family", "true difference"])


def _study(
    rng: np.random.Generator,
    counts: Mapping[str, int],
    spreads: Mapping[str, float],
    true: float,
    plan: StudyPlan,
) -> dict[str, str]:
    """The verdicts of one family of one study."""
    baseline = rng.normal(size=max(counts.values()))
    differences = {
        entry: true + spreads[entry] * (rng.normal(size=n) - baseline[:n]) / np.sqrt(2)
        for entry, n in counts.items()
    }
    rulings = rule_family(differences, delta=plan.delta, level=plan.level)
    return {entry: ruling.words for entry, ruling in rulings.items()}


def aa_splits(
    values: Sequence[float],
    splits: int = STUDIES,
    seed: int = 0,
    *,
    delta: float = DELTA,
    level: float = LEVEL,
) -> pd.Series:
    """The baseline against itself: its runs put into pairs at random, and judged.

    Runs of two replicates share no scene, so these differences spread further than a study's; a
    rule that keeps its promise still finds better or worse in about `level` of the splits, over
    many baselines; of one, splits share their runs, and their share may lie a few points off.

    Args:
        values: of the baseline, one a replicate; an odd one is left out of each split.

    Returns:
        The share of splits with each verdict.
    """
    rng = np.random.default_rng(seed)
    half = len(values) // 2
    found = []
    for _ in range(splits):
        mixed = rng.permutation(np.asarray(values, dtype=float))
        differences = mixed[:half] - mixed[half : 2 * half]
        found.append(rule_family({"": differences}, delta=delta, level=level)[""].words)
    return pd.Series(found).value_counts(normalize=True).reindex(VERDICTS, fill_value=0.0)
