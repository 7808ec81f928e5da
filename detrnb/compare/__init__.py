"""Runs side by side: tidy tables, an audit of what they were, verdicts over seeds; no torch here.

Everything takes run folders, log files of any DETR-family code, or what `fit` gives.
"""

from detrnb.compare.audit import Audit, Difference, audit
from detrnb.compare.findings import Finding
from detrnb.compare.records import (
    Record,
    arrange,
    entries,
    find_records,
    read_record,
    read_records,
)
from detrnb.compare.statistics import detectable_difference, judge, power, seeds_needed
from detrnb.compare.table import (
    by_epoch,
    differences,
    direction,
    paired_by_epoch,
    summary,
    tidy,
)
from detrnb.compare.verdicts import Verdicts, verdicts

__all__ = [
    "Audit",
    "Difference",
    "Finding",
    "Record",
    "Verdicts",
    "arrange",
    "audit",
    "by_epoch",
    "detectable_difference",
    "differences",
    "direction",
    "entries",
    "find_records",
    "judge",
    "paired_by_epoch",
    "power",
    "read_record",
    "read_records",
    "seeds_needed",
    "summary",
    "tidy",
    "verdicts",
]
