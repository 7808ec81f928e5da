"""Runs side by side: tidy tables, an audit of what they were, verdicts, decisions; no torch here.

Everything takes run folders, log files of any DETR-family code, or what `fit` gives.
"""

from detrnb.compare.anybody import read_table
from detrnb.compare.auditing import Audit, audit
from detrnb.compare.certainty import Finding
from detrnb.compare.currency import at_equal_time, budget_curve, epochs_to_reach, foretold
from detrnb.compare.deciding import decisions
from detrnb.compare.differing import Difference
from detrnb.compare.journal import coco_plan, epoch_zero, journal_page
from detrnb.compare.judging import Verdicts, verdicts
from detrnb.compare.ladder import CONTROLS, Ladder, ladder_of, read_ladder
from detrnb.compare.leaving_out import without_each
from detrnb.compare.paper import latex, methods
from detrnb.compare.planned import (
    FIRST_REPLICATE,
    Control,
    Family,
    Pair,
    PlannedEntry,
    StudyPlan,
    Trials,
    judging_files,
)
from detrnb.compare.records import Record, arrange, entries, find_records, read_record, read_records
from detrnb.compare.reporting import (
    audits_text,
    equal_time_markdown,
    ladder_markdown,
    ladder_notes,
    refuse_planned,
    report,
    time_note,
    verdicts_markdown,
    verdicts_text,
)
from detrnb.compare.ruling import DELTA, Ruling, pairs_needed, rule, rule_family
from detrnb.compare.saving import save_ladder, save_runs
from detrnb.compare.simulating import STUDIES, aa_splits, simulated
from detrnb.compare.statistics import (
    FEWEST_SEEDS,
    LEVEL,
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
    summary_by_entry,
    tidy,
    training_seconds,
)
from detrnb.compare.versus import against, table_of

__all__ = [
    "Audit",
    "CONTROLS",
    "Control",
    "DELTA",
    "Difference",
    "FEWEST_SEEDS",
    "FIRST_REPLICATE",
    "Family",
    "Finding",
    "LEVEL",
    "Ladder",
    "Pair",
    "PlannedEntry",
    "Record",
    "Ruling",
    "STUDIES",
    "StudyPlan",
    "Trials",
    "Verdicts",
    "aa_splits",
    "against",
    "arrange",
    "at_equal_time",
    "audit",
    "audits_text",
    "budget_curve",
    "by_epoch",
    "coco_plan",
    "decisions",
    "detectable_difference",
    "differences",
    "direction",
    "entries",
    "epoch_zero",
    "epochs_to_reach",
    "equal_time_markdown",
    "find_records",
    "foretold",
    "journal_page",
    "judging_files",
    "ladder_markdown",
    "ladder_notes",
    "ladder_of",
    "latex",
    "methods",
    "paired_by_epoch",
    "paired_test",
    "pairs_needed",
    "power",
    "read_ladder",
    "read_record",
    "read_records",
    "read_table",
    "refuse_planned",
    "report",
    "rule",
    "rule_family",
    "save_ladder",
    "save_runs",
    "seeds_needed",
    "simulated",
    "summary",
    "summary_by_entry",
    "table_of",
    "tidy",
    "time_note",
    "training_seconds",
    "verdicts",
    "verdicts_markdown",
    "verdicts_text",
    "without_each",
]
