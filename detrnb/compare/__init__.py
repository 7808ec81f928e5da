"""Runs side by side; no torch here.

Everything takes run folders, log files of any DETR-family code, or what `fit` gives.
"""

from detrnb.compare.records import Record, entries, read_record, read_records
from detrnb.compare.table import differences, direction, summary, tidy

__all__ = [
    "Record",
    "differences",
    "direction",
    "entries",
    "read_record",
    "read_records",
    "summary",
    "tidy",
]
