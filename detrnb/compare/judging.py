"""Does an entry of a study help? Its runs against the baseline's, seed by seed, with their cost."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple, Self

import numpy as np
import pandas as pd

from detrnb.compare.auditing import audit
from detrnb.compare.differing import Difference
from detrnb.compare.records import Record, Source, baseline_of, entries, read_records
from detrnb.compare.ruling import DELTA, Ruling
from detrnb.compare.statistics import LEVEL
from detrnb.compare.table import summary, training_seconds
from detrnb.compare.versus import against, table_of

ALIKE = 0.05  # times and memory nearer than this count as equal
VALIDATION = "validation AP"  # the metric where not every run has one that nothing was tuned on
# What must not differ within a pair, unless it is accepted by name; by what the audit calls it.
FORBIDDEN = {
    **{name: name for name in ("code", "data", "precision", "seed")},
    **dict.fromkeys(("validation images", "validation objects"), "data"),
}
# What leaves a verdict that is not of the model alone, unless it is accepted likewise.
CONDITIONS = ("learning rate", "schedule", "epochs")
# What does not forbid a verdict but is said with it.
_SAID = ("git commit", "versions", "device")


@dataclass(frozen=True)
class Verdicts:
    """A study's entries against its baseline.

    Attributes:
        baseline: the entry that the others are compared with.
        metric: what is compared, such as `AP on test2017`.
        values: it, by seed (rows) and entry (columns).
        seconds: the time that training takes, likewise, as from `table.training_seconds`.
        table: one row for each other entry: the columns of `versus.table_of`; `time` and `memory`,
            how many times the baseline's, as medians over pairs, with the range of pairs as
            `time_low`, `time_high`, ...; `parameters`: how many more; `forbidden`: which of code,
            data, precision and seed differ in a pair, so that there is no verdict, and `accepted`:
            which do and were accepted; `conditions`: what else the audits of all pairs find to
            forbid the comparison, so that a verdict is not of the model alone; `said`: what differs
            in them and forbids nothing; `text`: the verdict in words.
        left_out: runs that are not compared, with the reason.
        rulings: by entry, what `table` is made of.
        delta: the smallest difference that matters.
        level: of each test.
    """

    baseline: str
    metric: str
    values: pd.DataFrame
    seconds: pd.DataFrame
    table: pd.DataFrame
    left_out: Mapping[str, str]
    rulings: Mapping[str, Ruling] = field(default_factory=dict)
    delta: float = DELTA
    level: float = LEVEL


def verdicts(
    sources: Iterable[Source],
    baseline: str | None = None,
    *,
    accept: Collection[str] | Mapping[str, Collection[str]] = (),
    failed: Mapping[str, int] | None = None,
    delta: float = DELTA,
    level: float = LEVEL,
) -> Verdicts:
    """Compare a study's entries, one family of comparisons, over the seeds they share.

    What counts is AP at the end of training, on the split that nothing was tuned on where every run
    has it (test.json), else on the validation split. Every pair of runs is audited; one that
    differs in code, data, precision or seed leaves its entry without a verdict.

    Args:
        sources: run folders; of one entry all settings are equal but the seed.
        baseline: label of an entry; `detr` unless given, or the first where there is none.
        accept: of `code`, `data`, `precision`, `seed` and CONDITIONS, what may differ all the same,
            for all entries or by entry; verdicts repeat it.
        failed: by entry, runs that diverged, which are not among the sources.
        delta, level: as for `rule_family`.

    Raises:
        ValueError: a run cannot be read, fewer than two entries are finished, there is no such
            baseline, an entry holds a seed twice, or something else was to be accepted.
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
    metric = f"AP on {splits.pop()}" if tested else VALIDATION
    seconds = _by_seed(runs.assign(seconds=training_seconds(runs)), "seconds")
    lost = [entry for entry in failed or {} if entry not in values]  # all of its runs did
    values = values.reindex(columns=[*values, *lost])
    accepted = _accepted(accept, groups)
    found = {
        entry: _Differences.of(groups[baseline], group, accepted[entry])
        for entry, group in groups.items()
        if baseline in groups and entry != baseline
    }
    found |= {entry: _Differences("", "", "", "") for entry in values.columns.drop(groups)}
    unjudged = [entry for entry, differing in found.items() if differing.forbidden]
    rulings = against(values, baseline, failed=failed, unjudged=unjudged, delta=delta, level=level)
    table = table_of(values, rulings).join(_factors("time", seconds, baseline))
    table = table.join(_factors("memory", _by_seed(runs, "peak_memory_mb"), baseline))
    sizes = runs.groupby("entry")["n_parameters"].last()
    table["parameters"] = sizes - sizes[baseline]
    table = table.join(pd.DataFrame.from_dict(found, orient="index"))
    table["text"] = [_in_words(row, rulings[row.Index]) for row in table.itertuples()]
    return Verdicts(baseline, metric, values, seconds, table, left_out, rulings, delta, level)


def _accepted(
    accept: Collection[str] | Mapping[str, Collection[str]], labels: Iterable[str]
) -> dict[str, set[str]]:
    """What may differ, by entry."""
    by_entry = accept if isinstance(accept, Mapping) else dict.fromkeys(labels, accept)
    sets = {e: {names} if isinstance(names, str) else set(names) for e, names in by_entry.items()}
    possible = [*dict.fromkeys(FORBIDDEN.values()), *CONDITIONS]
    if unknown := sorted(set().union(*sets.values()) - set(possible)):
        raise ValueError(
            f"cannot accept {', '.join(map(repr, unknown))}; take of {', '.join(possible)}"
        )
    return {label: sets.get(label, set()) for label in labels}


def _why_not(record: Record) -> str:
    if record.replicate is None:
        return "its seed is not known"
    if record.epochs_missing:
        return f"{record.epochs_missing} epochs are missing"
    return "" if "AP" in record.log else "no AP is logged"


class _Differences(NamedTuple):
    """What the audits of an entry's pairs find besides the model; see `Verdicts.table`."""

    forbidden: str
    accepted: str
    conditions: str
    said: str

    @classmethod
    def of(cls, baseline: list[Record], entry: list[Record], accept: set[str]) -> Self:
        """Audit each run of an entry against the baseline's of its seed."""
        pairs = {b.replicate: (a, b) for a in baseline for b in entry if a.replicate == b.replicate}
        audits = {seed: audit(*pair) for seed, pair in pairs.items()}
        seen: dict[str, dict[int, Difference]] = {}
        for seed, found in audits.items():
            for difference in found.differences:
                seen.setdefault(difference.what, {})[seed] = difference
        parts: dict[str, list[str]] = {field: [] for field in cls._fields}
        if any("code" in found.unknown for found in audits.values()):
            parts["said"].append("code unknown")
        # An audit compares at an equal epoch, a verdict the ends.
        longer = [s for s, (a, b) in pairs.items() if a.log.index[-1] != b.log.index[-1]]
        if longer:
            kind = "accepted" if "epochs" in accept else "conditions"
            parts[kind].append(_where("epochs", dict.fromkeys(longer, ()), len(pairs)))
        for what, by_seed in seen.items():
            names = {seed: difference.parts for seed, difference in by_seed.items()}
            text = _where(what, names, len(pairs))
            if kind := FORBIDDEN.get(what):
                parts["accepted" if kind in accept else "forbidden"].append(text)
            elif any(difference.decisive for difference in by_seed.values()):
                parts["accepted" if what in accept else "conditions"].append(text)
            elif what in _SAID:
                parts["said"].append(f"other {text}")
        return cls(*(", ".join(part) for part in parts.values()))


def _where(what: str, by_seed: Mapping[int, Collection[str]], pairs: int) -> str:
    """What differs, in which files, splits or packages, and for which seeds unless for all."""
    names = list(dict.fromkeys(chain.from_iterable(by_seed.values())))
    notes = [", ".join(names[:4]) + f" and {len(names) - 4} more" * (len(names) > 4)]
    if len(by_seed) < pairs:
        notes.append(f"seed{'s' * (len(by_seed) > 1)} {', '.join(map(str, sorted(by_seed)))}")
    noted = "; ".join(filter(None, notes))
    return f"{what} ({noted})" if noted else what


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


def _in_words(row: object, ruling: Ruling) -> str:
    if row.forbidden:
        return (
            f"not judged (AP {row.difference:+.3f}), as pairs differ in {row.forbidden}; run one of"
            " both again, or accept it by name"
        )
    parts = [str(ruling), _time_in_words(row.time, row.time_low, row.time_high)]
    if row.memory_low > 1 + ALIKE or row.memory_high < 1 - ALIKE:
        parts.append(f"{row.memory:.2g} times the memory")
    if row.parameters and pd.notna(row.parameters):
        parts.append(f"{row.parameters:+,.0f} parameters")
    if row.conditions:
        parts.append(f"not by the model alone, as these differ too: {row.conditions}")
    if row.accepted:
        parts.append(f"accepted that pairs differ in {row.accepted}")
    return "; ".join(filter(None, (", ".join(filter(None, parts)), row.said)))


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
