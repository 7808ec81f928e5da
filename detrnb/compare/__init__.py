"""Runs side by side: tidy tables, an audit of what they were, verdicts over seeds; no torch here.

Everything takes run folders, log files of any DETR-family code, or what `fit` gives.
"""

from detrnb.compare.audit import Audit, Difference, audit
from detrnb.compare.findings import Finding
from detrnb.compare.records import Record, entries, read_record, read_records
from detrnb.compare.statistics import detectable_difference, judge, power, seeds_needed
from detrnb.compare.table import differences, direction, summary, tidy
from detrnb.compare.verdicts import Verdicts, verdicts

__all__ = [
    "Audit",
    "Difference",
    "Finding",
    "Record",
    "Verdicts",
    "audit",
    "detectable_difference",
    "differences",
    "direction",
    "entries",
    "judge",
    "power",
    "read_record",
    "read_records",
    "seeds_needed",
    "summary",
    "tidy",
    "verdicts",
]
