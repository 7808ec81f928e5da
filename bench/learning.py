"""The learning check: does every published change learn, before anything is judged by it?

    python bench/learning.py           # trains what is missing, an hour or two, and goes on
    python bench/learning.py --jobs 2  # two at a time
    python bench/learning.py --table   # only tells what is there

Each published variant and DETR train on the toy set with seed 0, six epochs, at the preset's
learning rate and at twice that. One seed decides nothing: a published change that comes out far
below DETR is a fault until shown otherwise. Config, log and provenance of each run are kept in
data/learning/; notebook 00 draws them.
"""

import argparse

import pandas as pd

from detrnb import Config
from detrnb.runs import RunFolder, log_table, project_root
from detrnb.settings import BASELINE
from detrnb.study import Job, run_here

PUBLISHED = (
    "conditional",
    "reference_points",
    "dab",
    "focal",
    "rope",
    "group",
    "dn_dab",
    "deformable",
)
FACTORS = (1, 2)  # of the preset's learning rate
PRESET = "toy"


def job_of(variant: str, factor: int) -> Job:
    """One run: it trains in runs/learning/, and is kept in data/learning/."""
    rate = Config.preset(PRESET).train.lr * factor
    overrides = {} if factor == 1 else {"train.lr": rate}
    config = Config.preset(PRESET, variant=variant, overrides=overrides)
    name = f"{variant}-lr{factor}"
    kept = RunFolder(project_root() / "data" / "learning" / name)
    return Job(name, config, project_root() / "runs" / "learning", kept, tested=False)


def table() -> pd.DataFrame:
    """Validation AP by epoch, a row for each run that is there."""
    rows = {
        (variant, factor): log_table(job.kept.read_log())["AP"]
        for variant in (BASELINE, *PUBLISHED)
        for factor in FACTORS
        if (job := job_of(variant, factor)).is_kept
    }
    found = pd.DataFrame(rows).T.rename_axis(index=["variant", "times the preset's rate"])
    return found.rename(columns=lambda epoch: f"epoch {epoch + 1}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--jobs", type=int, default=1, help="at a time")
    options = parser.parse_args()
    jobs = [job_of(v, factor) for factor in FACTORS for v in (BASELINE, *PUBLISHED)]
    left = [] if options.table else [job for job in jobs if not job.is_kept]
    failed = run_here(left, options.jobs, lambda job: job.keep({}))
    print(table().round(3).to_string())
    if failed:
        raise SystemExit(f"ended otherwise: {', '.join(failed)}")
