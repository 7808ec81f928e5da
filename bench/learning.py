"""The learning check: does every published change learn, before anything is judged by it?

    python bench/learning.py           # trains what is missing, an hour or two, and goes on
    python bench/learning.py --table   # only tells what is there

Each published variant and DETR train on the toy set with seed 0, six epochs, at the preset's
learning rate and at twice that. One seed decides nothing: a published change that comes out far
below DETR is a fault until shown otherwise. Config, log and provenance of each run are kept in
data/learning/; notebook 00 draws them.
"""

import argparse
import shutil

import pandas as pd

from detrnb import Config, fit
from detrnb.runs import RunFolder, is_over, log_table, project_root
from detrnb.settings import BASELINE

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


def config_of(variant: str, factor: int) -> Config:
    """What one run trains."""
    rate = Config.preset(PRESET).train.lr * factor
    overrides = {} if factor == 1 else {"train.lr": rate}
    return Config.preset(PRESET, variant=variant, overrides=overrides)


def kept_of(variant: str, factor: int) -> RunFolder:
    """Where what one run logged is kept."""
    return RunFolder(project_root() / "data" / "learning" / f"{variant}-lr{factor}")


def is_kept(variant: str, factor: int) -> bool:
    """Whether a run is there, whole."""
    kept = kept_of(variant, factor)
    settings = config_of(variant, factor).train.model_dump()
    return kept.log_path.exists() and is_over(kept.read_log(), settings)


def train_and_keep(variant: str, factor: int) -> None:
    """Train one run; its log is copied last and marks it as kept."""
    kept, run = kept_of(variant, factor), RunFolder(fit(config_of(variant, factor)).path)
    kept.path.mkdir(parents=True, exist_ok=True)
    for path in (run.config_path, run.provenance_path, run.log_path):
        shutil.copy(path, kept.path)


def table() -> pd.DataFrame:
    """Validation AP by epoch, a row for each run that is there."""
    rows = {
        (variant, factor): log_table(kept_of(variant, factor).read_log())["AP"]
        for variant in (BASELINE, *PUBLISHED)
        for factor in FACTORS
        if is_kept(variant, factor)
    }
    found = pd.DataFrame(rows).T.rename_axis(index=["variant", "times the preset's rate"])
    return found.rename(columns=lambda epoch: f"epoch {epoch + 1}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", action="store_true", help="train nothing")
    if not parser.parse_args().table:
        for factor in FACTORS:
            for variant in (BASELINE, *PUBLISHED):
                if not is_kept(variant, factor):
                    print(f"{variant} at {factor} times the preset's rate", flush=True)
                    train_and_keep(variant, factor)
    print(table().round(3).to_string())
