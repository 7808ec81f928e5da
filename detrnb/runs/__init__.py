"""What is kept of a run on disk: its folder, log, provenance, mirror; no torch here.

Every file of a run is written and read through this room.
"""

from detrnb.runs.folder import RunFolder, config_differences, run_name
from detrnb.runs.home import located, project_root, save_figure
from detrnb.runs.log import (
    COCO_METRICS,
    is_over,
    last_run,
    log_table,
    parse_object,
    read_log,
    remarks,
)
from detrnb.runs.mirror import Mirror, bring_back
from detrnb.runs.provenance import cpu_count, this_process
from detrnb.runs.writing import naming, remove_left_over, write_whole

__all__ = [
    "COCO_METRICS",
    "Mirror",
    "RunFolder",
    "bring_back",
    "config_differences",
    "cpu_count",
    "is_over",
    "last_run",
    "located",
    "log_table",
    "naming",
    "parse_object",
    "project_root",
    "read_log",
    "remarks",
    "remove_left_over",
    "run_name",
    "save_figure",
    "this_process",
    "write_whole",
]
