"""Many runs under equal conditions: what a study trains, the engine that trains it, and what
a variant must hold before.
"""

from detrnb.study.checking import Checked, Outcome, check_variant
from detrnb.study.engine import run_study
from detrnb.study.entries import Entry, plan, study_entries
from detrnb.study.judgement import Judgement
from detrnb.study.judging import judge
from detrnb.study.listing import list_variants, variants_markdown

__all__ = [
    "Checked",
    "Entry",
    "Judgement",
    "Outcome",
    "check_variant",
    "judge",
    "list_variants",
    "plan",
    "run_study",
    "study_entries",
    "variants_markdown",
]
