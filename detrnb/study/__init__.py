"""Many runs under equal conditions: what a study trains, and the engine that trains it."""

from detrnb.study.engine import run_study
from detrnb.study.entries import Entry, plan, study_entries

__all__ = [
    "Entry",
    "plan",
    "run_study",
    "study_entries",
]
