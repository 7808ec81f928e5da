"""Does an entry of a study help? Its runs against the baseline's, seed by seed, with their cost."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from detrnb.compare.auditing import audit
from detrnb.compare.records import Record, Source, baseline_of, entries, read_records
from detrnb.compare.statistics import FEWEST_SEEDS, against_baseline
from detrnb.compare.table import summary, training_seconds

ALIKE = 0.05  # times and memory nearer than this count as equal


@dataclass(frozen=True)
class Verdicts:
    """A study's entries against its baseline.

    Attributes:
        baseline: the entry that the others are compared with.
        metric: what is compared, such as `AP on test2017`.
        values: it, by seed (rows) and entry (columns).
        seconds: the time that training takes, likewise, as from `table.training_seconds`.
        table: one row for each other entry: the columns of `statistics.against_baseline`; `time`
            and `memory`, how many times the baseline's, as medians over pairs, with the range of
            pairs as `time_low`, `time_high`, ...; `parameters`: how many more; `conditions`: what
            the audit finds to forbid the comparison, so that a verdict is not of the model alone;
            `text`: the verdict in words.
        left_out: runs that are not compared, with the reason.
    """

    baseline: str
    metric: str
    values: pd.DataFrame
    seconds: pd.DataFrame
    table: pd.DataFrame
    left_out: Mapping[str, str]


def verdicts(sources: Iterable[Source], baseline: str | None = None) -> Verdicts:
    """Compare a study's entries over the seeds they share.

    What counts is AP at the end of training, on the split that nothing was tuned on where every run
    has it (test.json), else on the validation split.

    Args:
        sources: run folders; of one entry all settings are equal but the seed.
        baseline: label of an entry; `detr` unless given, or the first where there is none.

    Raises:
        ValueError: a run cannot be read, fewer than two entries are finished, there is no such
            baseline, or an entry holds a seed twice.
    """
    records = read_records(sources)
    left_out = {record.name: why for record in records if (why := _why_not(record))}
    groups = entries([record for record in records if record.name not in left_out])
    if len(groups) < 2:
        raise ValueError(
            "verdicts need two entries with a finished run of known seed each, found"
            f" {', '.join(groups) or 'none'}; left out: {left_out or 'none'}"
        )
    baseline = baseline or baseline_of(groups)
    runs = summary([record for group in groups.values() for record in group])
    twice = runs[runs.duplicated(["entry", "seed"])]
    if len(twice):
        raise ValueError(f"{twice.index[0]} is a second run of an entry's seed; leave one out")
    splits = {record.test.get("split") for record in records if record.name not in left_out}
    tested = len(splits) == 1 and runs["test_AP"].notna().all()
    values = _by_seed(runs, "test_AP" if tested else "AP")
    metric = f"AP on {splits.pop()}" if tested else "validation AP"
    seconds = _by_seed(runs.assign(seconds=training_seconds(runs)), "seconds")
    table = against_baseline(values, baseline)
    table = table.join(_factors("time", seconds, baseline))
    table = table.join(_factors("memory", _by_seed(runs, "peak_memory_mb"), baseline))
    sizes = runs.groupby("entry")["n_parameters"].last()
    table["parameters"] = sizes - sizes[baseline]
    table["conditions"] = [_conditions(groups[baseline], groups[entry]) for entry in table.index]
    table["text"] = [_in_words(row) for row in table.itertuples()]
    return Verdicts(baseline, metric, values, seconds, table, left_out)


def _why_not(record: Record) -> str:
    if record.seed is None:
        return "its seed is not known"
    if record.epochs_missing:
        return f"{record.epochs_missing} epochs are missing"
    return "" if "AP" in record.log else "no AP is logged"


def _conditions(baseline: list[Record], entry: list[Record]) -> str:
    """What forbids to compare two entries' models, seen in a pair of runs, of one seed if any."""
    pairs = [(a, b) for a in baseline for b in entry]
    pair = next((pair for pair in pairs if pair[0].seed == pair[1].seed), pairs[0])
    return ", ".join(d.what for d in audit(*pair).differences if d.decisive)


def _by_seed(runs: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column of the summary by seed and entry, entries in the runs' order."""
    wide = runs.reset_index().pivot(index="seed", columns="entry", values=column)
    return wide[list(dict.fromkeys(runs["entry"]))].astype(float)


def _factors(name: str, values: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """How many times the baseline's each entry's numbers are: median and range over pairs."""
    factors = values.div(values[baseline], axis=0)
    return pd.DataFrame(
        {name: factors.median(), f"{name}_low": factors.min(), f"{name}_high": factors.max()}
    )


def _in_words(row: object) -> str:
    size = f"{row.difference:+.3f} ({row.low:.3f} to {row.high:.3f})"
    words = {
        "better": f"AP better: {size}",
        "worse": f"AP worse: {size}",
        "no difference seen": f"no AP difference seen (would have seen {row.detectable:.2g})",
        "described": f"described, not judged ({row.seeds} of {FEWEST_SEEDS} seeds):"
        f" AP {row.difference:+.3f}",
    }
    parts = [words[row.verdict], _time_in_words(row.time, row.time_low, row.time_high)]
    if row.memory_low > 1 + ALIKE or row.memory_high < 1 - ALIKE:
        parts.append(f"{row.memory:.2g} times the memory")
    if row.parameters:
        parts.append(f"{row.parameters:+,.0f} parameters")
    if row.conditions:
        parts.append(f"not by the model alone, as these differ too: {row.conditions}")
    return ", ".join(part for part in parts if part)


def _time_in_words(median: float, low: float, high: float) -> str:
    """Slower or faster only where all pairs agree; empty where no time is known."""
    if np.isnan(median):
        return ""
    if low > 1 + ALIKE:
        return f"{median:.2g} times slower"
    if high < 1 - ALIKE:
        return f"{1 / median:.2g} times faster"
    if low >= 1 - ALIKE and high <= 1 + ALIKE:
        return "as fast"
    return f"{low:.2g} to {high:.2g} times the time"
