"""What is kept of a run on disk: its folder, log, provenance, mirror; no torch here.

Every file of a run is written and read through this room.
"""

from detrnb.runs.folder import RunFolder, run_name
from detrnb.runs.foreign_logs import COCO, KNOWN, ForeignLog, foreign_log, read_foreign_log
from detrnb.runs.home import is_project, located, project_root, save_figure
from detrnb.runs.identity import (
    ABSENT,
    IMAGES_A_STEP,
    code_differences,
    config_differences,
    data_differences,
    parts_of,
    same_data,
    trained_by,
    what_counts,
)
from detrnb.runs.lock import RunLock
from detrnb.runs.log import (
    COCO_METRICS,
    is_over,
    last_run,
    log_table,
    read_log,
    remarks,
)
from detrnb.runs.mirror import Mirror, bring_back, bring_back_file, keep_copy
from detrnb.runs.provenance import cpu_count, is_uncommitted, this_process
from detrnb.runs.seal import of_two_runs
from detrnb.runs.source import hash_of_file, hash_of_text
from detrnb.runs.writing import (
    copy_whole,
    is_there,
    naming,
    remove_left_over,
    write_text,
    write_whole,
)

__all__ = [
    "ABSENT",
    "COCO",
    "COCO_METRICS",
    "ForeignLog",
    "IMAGES_A_STEP",
    "KNOWN",
    "Mirror",
    "RunFolder",
    "RunLock",
    "bring_back",
    "bring_back_file",
    "code_differences",
    "config_differences",
    "copy_whole",
    "cpu_count",
    "data_differences",
    "foreign_log",
    "hash_of_file",
    "hash_of_text",
    "is_over",
    "is_there",
    "is_project",
    "is_uncommitted",
    "keep_copy",
    "last_run",
    "located",
    "log_table",
    "naming",
    "of_two_runs",
    "parts_of",
    "project_root",
    "read_foreign_log",
    "read_log",
    "remarks",
    "remove_left_over",
    "run_name",
    "same_data",
    "save_figure",
    "this_process",
    "trained_by",
    "what_counts",
    "write_text",
    "write_whole",
]
