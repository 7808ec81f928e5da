"""Data sets in COCO layout: made (`toy`), read (`coco`), transformed (`transforms`), checked."""

from detrnb.datasets.checking import Report, check

__all__ = ["Report", "check"]
