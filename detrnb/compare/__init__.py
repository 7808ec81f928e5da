"""Runs side by side: tidy tables, an audit of what they were, verdicts, decisions; no torch here.

Everything takes run folders, log files of any DETR-family code, or what `fit` gives.
"""

from detrnb.compare.audit import Audit, Difference, audit
from detrnb.compare.decisions import decisions
from detrnb.compare.findings import Finding
from detrnb.compare.journal import coco_plan, epoch_zero, journal_page
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
    training_seconds,
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
    "coco_plan",
    "decisions",
    "detectable_difference",
    "differences",
    "direction",
    "entries",
    "epoch_zero",
    "find_records",
    "journal_page",
    "judge",
    "paired_by_epoch",
    "power",
    "read_record",
    "read_records",
    "seeds_needed",
    "summary",
    "tidy",
    "training_seconds",
    "verdicts",
]
