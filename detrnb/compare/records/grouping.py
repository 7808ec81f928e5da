"""Runs by entry: what differs in nothing but the seed belongs together."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, count

from detrnb.compare.records.reading import Record
from detrnb.runs import config_differences, trained_by, what_counts
from detrnb.settings import BASELINE, SCENES


def entries(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Runs by study entry: those whose settings differ in nothing but the seed, which may govern
    the scenes of generated data too, and whose variant's source is one, or that a plan calls one
    entry.

    The label is `Record.entry`; where entries would share it, the settings they differ in follow,
    then the plan they are of; what even these do not tell apart is numbered. A run without settings
    is an entry by itself.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(_settings_of(record), []).append(record)
    alike: dict[str, list[list[Record]]] = {}
    for group in groups.values():
        alike.setdefault(group[0].entry, []).append(group)
    labelled = [
        (" ".join([label, *_differing(group[0], [other[0] for other in same])]), group)
        for label, same in alike.items()
        for group in same
    ]
    shared = Counter(label for label, _ in labelled)
    found: dict[str, list[Record]] = {}
    for label, group in labelled:
        plan = group[0].study.get("plan")
        name = f"{label} of plan {plan[:8]}" if plan and shared[label] > 1 else label
        numbered = (f"{name} ({number})" for number in count(2))
        found[next(free for free in chain([name], numbered) if free not in found)] = group
    return found


def baseline_of(labels: Iterable[str]) -> str:
    """The entry that others are compared with where none is named: `detr`, or the first."""
    labels = list(labels)
    return BASELINE if BASELINE in labels else labels[0]


def arrange(records: Sequence[Record], baseline: str | None = None) -> list[Record]:
    """Runs by entry: the baseline's, entries of more runs before those of fewer, joined ones last.

    Args:
        baseline: label of an entry; as from `baseline_of` unless given.
    """
    groups = entries(records)
    first = baseline or (baseline_of(groups) if groups else "")
    labels = sorted(groups, key=lambda x: (x != first, -len(groups[x]), x.count("+")))
    return [record for label in labels for record in groups[label]]


def _settings_of(record: Record) -> str:
    if record.study:  # there an entry is what the plan calls so
        return json.dumps([record.study["plan"], record.study["entry"]])
    if not record.config:
        return json.dumps(record.name)
    return json.dumps(_of_entry(record), sort_keys=True)


def _of_entry(record: Record) -> dict[str, object]:
    """The settings that an entry's runs share: all but the seed, and what was drawn from it; and
    the hash of each source of their variant.
    """
    settings = what_counts(record.config, record.provenance.get("processes") or 1)
    seed = settings.pop("train.seed", None)
    if settings.get(SCENES) and settings[SCENES] == seed:
        settings[SCENES] = "seed"
    return settings | _sources_of(record)


def _sources_of(record: Record) -> dict[str, str]:
    """The hash of each source of a run's variant, or hashes where it went on with another; none of
    runs of 0.1, which kept none.
    """
    hashes: dict[str, list[str]] = {}
    for code in trained_by(record.provenance):
        for file, text in code.items() if isinstance(code, Mapping) else ():
            known = hashes.setdefault(file, [])
            if text is not None and text not in known[-1:]:
                known.append(text)
    return {
        f"source of {file.removeprefix('variants/').removesuffix('.py')}": ", then ".join(known)
        for file, known in hashes.items()
        if file.startswith("variants/") and known
    }


def _differing(record: Record, others: list[Record]) -> list[str]:
    """The settings that set a run apart from others, as `lr=0.001`."""
    values = _of_entry(record)
    keys = {key for other in others for key in config_differences(values, _of_entry(other))}
    return [f"{key.rpartition('.')[2]}={values.get(key)}" for key in sorted(keys)]
