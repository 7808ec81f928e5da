"""Runs side by side: tidy tables, an audit of what they were, verdicts, decisions; no torch here.

Everything takes run folders, log files of any DETR-family code, or what `fit` gives.
"""

from detrnb.compare.auditing import Audit, audit
from detrnb.compare.certainty import Finding
from detrnb.compare.deciding import decisions
from detrnb.compare.differing import Difference
from detrnb.compare.journal import coco_plan, epoch_zero, journal_page
from detrnb.compare.judging import Verdicts, verdicts
from detrnb.compare.records import Record, arrange, entries, find_records, read_record, read_records
from detrnb.compare.reporting import audits_text, report, verdicts_markdown
from detrnb.compare.ruling import DELTA, Ruling, rule
from detrnb.compare.statistics import (
    FEWEST_SEEDS,
    LEVEL,
    against_baseline,
    detectable_difference,
    paired_test,
    power,
    seeds_needed,
)
from detrnb.compare.table import (
    by_epoch,
    differences,
    direction,
    paired_by_epoch,
    summary,
    tidy,
    training_seconds,
)

__all__ = [
    "Audit",
    "DELTA",
    "Difference",
    "FEWEST_SEEDS",
    "Finding",
    "LEVEL",
    "Record",
    "Ruling",
    "Verdicts",
    "against_baseline",
    "arrange",
    "audit",
    "audits_text",
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
    "paired_by_epoch",
    "paired_test",
    "power",
    "read_record",
    "read_records",
    "report",
    "rule",
    "seeds_needed",
    "summary",
    "tidy",
    "training_seconds",
    "verdicts",
    "verdicts_markdown",
]
