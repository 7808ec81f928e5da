"""Many runs under equal conditions: what a study trains, and the engine that trains it."""

from detrnb.study.engine import run_study
from detrnb.study.entries import Entry, plan, study_entries
from detrnb.study.judging import Judgement, judge

__all__ = [
    "Entry",
    "Judgement",
    "judge",
    "plan",
    "run_study",
    "study_entries",
]
