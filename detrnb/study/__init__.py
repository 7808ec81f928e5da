"""Many runs under equal conditions: what a study trains, the engine that trains it, and what
a variant must hold before.
"""

from detrnb.study.checking import Checked, Outcome, check_variant
from detrnb.study.engine import Study
from detrnb.study.entries import second_study
from detrnb.study.here import run_here
from detrnb.study.jobs import Job
from detrnb.study.judgement import Judgement
from detrnb.study.judging import judge
from detrnb.study.listing import list_variants, measured_costs, variants_markdown
from detrnb.study.slurm import Slurm
from detrnb.study.status import simulation, state_of

__all__ = [
    "Checked",
    "Job",
    "Judgement",
    "Outcome",
    "Slurm",
    "Study",
    "check_variant",
    "judge",
    "list_variants",
    "measured_costs",
    "run_here",
    "second_study",
    "simulation",
    "state_of",
    "variants_markdown",
]
