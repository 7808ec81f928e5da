"""Runs as records, in one form whatever left them, and the entries that they are of."""

from detrnb.compare.records.grouping import arrange, baseline_of, entries
from detrnb.compare.records.reading import (
    Record,
    Source,
    find_records,
    read_record,
    read_records,
)

__all__ = [
    "Record",
    "Source",
    "arrange",
    "baseline_of",
    "entries",
    "find_records",
    "read_record",
    "read_records",
]
