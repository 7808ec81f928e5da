"""A table of numbers by seed and entry, each entry ruled on against one of them."""

from collections.abc import Collection, Mapping

import pandas as pd

from detrnb.compare.ruling import DELTA, Ruling, rule_family
from detrnb.compare.statistics import LEVEL
from detrnb.settings import nearest


def against(
    values: pd.DataFrame,
    baseline: str,
    *,
    failed: Mapping[str, int] | None = None,
    unjudged: Collection[str] = (),
    delta: float = DELTA,
    level: float = LEVEL,
) -> dict[str, Ruling]:
    """Rule on every other entry of a table, as one family.

    Args:
        values: one row a seed, one column an entry; NaN where a run is missing. More is better.
        baseline: a column.
        failed, unjudged, delta, level: as for `rule_family`.

    Raises:
        ValueError: no such baseline.
    """
    if baseline not in values:
        known = ", ".join(map(str, values.columns))
        hint = nearest(baseline, values.columns)
        raise ValueError(f"no entry {baseline!r} to compare with; there are {known}{hint}")
    others = values.drop(columns=baseline)
    differences = {
        entry: (others[entry] - values[baseline]).dropna().to_numpy() for entry in others
    }
    return rule_family(
        differences, failed=failed or {}, unjudged=unjudged, delta=delta, level=level
    )


def table_of(values: pd.DataFrame, rulings: Mapping[str, Ruling]) -> pd.DataFrame:
    """What was ruled, one row an entry.

    Returns:
        `seeds`: pairs; `mean`, `spread`: of the entry over all its seeds; `difference`: of pairs,
        with `difference_spread` and its 95 % interval `low`, `high`, each by itself; `p`, `p_holm`,
        `p_within`, `within`, `needed`, `failed`, `verdict`, `words` as `Ruling` has them.
    """
    rows = {
        entry: {
            **{"seeds": x.pairs, "mean": values[entry].mean(), "spread": values[entry].std()},
            **{"difference": x.mean, "difference_spread": x.spread, "low": x.low, "high": x.high},
            **{"p": x.p, "p_holm": x.p_holm, "p_within": x.p_within, "within": x.within},
            **{"needed": x.needed, "failed": x.failed, "verdict": x.verdict},
            "words": x.words,
        }
        for entry, x in rulings.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("entry")
    return table.astype({"needed": "Int64"}) if len(table) else table
