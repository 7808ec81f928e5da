"""The table of the package's variants: what each changes, what it costs, where it comes from."""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from detrnb.settings import BASELINE, VARIANTS


def list_variants(costs: Mapping[str, Mapping[str, float]] | None = None) -> pd.DataFrame:
    """The package's variants in the registry's order, by name.

    Args:
        costs: by name, as `bench/variants.py` measures them, the baseline's too: `parameters`, and
            `time` and `memory` of a training step in shares of the baseline's.

    Returns:
        Columns `part`, `idea` and `source`, and with costs `parameters` (more than the baseline's),
        `time` and `memory`.

    Raises:
        ValueError: the costs lack a variant.
    """
    known = {name: v for name, v in VARIANTS.items() if v is not None and not v.is_own}
    columns = {
        "part": {
            name: ", ".join(p for p, made in v.parts.items() if made) for name, v in known.items()
        },
        "idea": {name: v.summary for name, v in known.items()},
        "source": {name: v.source for name, v in known.items()},
    }
    if costs is not None:
        lacking = [name for name in (BASELINE, *known) if name not in costs]
        if lacking:
            raise ValueError(f"no costs of {', '.join(lacking)}; measure them: bench/variants.py")
        more = {name: costs[name]["parameters"] - costs[BASELINE]["parameters"] for name in known}
        columns["parameters"] = more
        for what in ("time", "memory"):
            columns[what] = {name: costs[name][what] for name in known}
    order = ("part", "idea", "parameters", "time", "memory", "source")
    table = pd.DataFrame({key: columns[key] for key in order if key in columns}, index=[*known])
    return table.rename_axis("name")


def measured_costs(results: Path) -> dict[str, dict[str, float]]:
    """What `list_variants` asks of costs, from the file that `make bench` writes.

    Raises:
        ValueError: the claim `variants` is not in it.
    """
    claims = json.loads(results.read_text())["claims"]
    if "tables" not in claims.get("variants", {}):
        raise ValueError(f"{results} does not tell what variants cost: python bench variants")
    rows = claims["variants"]["tables"]["A step"]
    return {row["variant"]: row | {"time": row["time"]["median"]} for row in rows}


def variants_markdown(table: pd.DataFrame) -> str:
    """A table of `list_variants` in Markdown, such as README's."""
    shown = {
        "part": lambda parts: ", ".join(f"`{part}`" for part in parts.split(", ")),
        "parameters": lambda more: f"{more:+,}",
        "time": "{:.2g}".format,
        "memory": "{:.2g}".format,
    }
    rows = [("name", *table.columns), ("---",) * (1 + len(table.columns))]
    for row in table.itertuples():
        cells = [shown.get(key, str)(getattr(row, key)) for key in table.columns]
        rows.append((f"`{row.Index}`", *cells))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
