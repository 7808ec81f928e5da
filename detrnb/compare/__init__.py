"""Runs side by side: tidy tables and an audit of what they were; no torch here.

Everything takes run folders, log files of any DETR-family code, or what `fit` gives.
"""

from detrnb.compare.audit import Audit, Difference, audit
from detrnb.compare.findings import Finding
from detrnb.compare.records import Record, entries, read_record, read_records
from detrnb.compare.table import differences, direction, summary, tidy

__all__ = [
    "Audit",
    "Difference",
    "Finding",
    "Record",
    "audit",
    "differences",
    "direction",
    "entries",
    "read_record",
    "read_records",
    "summary",
    "tidy",
]
