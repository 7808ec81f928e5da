"""An epoch of the `toy` preset with its evaluation, beside this repository's first edition.

    python bench/toy_epoch.py

The first edition is commit 5d97125, taken out of this clone's history; where the history does not
reach so far it is left out. Each edition trains a sixteenth of the toy set in processes of its own,
in turns; time is the log's, of the fastest of five epochs after the first, training and evaluation,
features computed before. Equal results: losses and AP of all epochs agree to the tolerance of
float32's order.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from timing import OURS, Findings, Options, beside, main

ROOT = Path(__file__).resolve().parents[1]
FIRST = "5d97125"
ROUNDS = 2
SETTINGS = {
    "data.toy.num_images": [768, 32, 1],  # of 12,000 and 500
    "train.epochs": 6,
    "train.precision": "fp32",
}
TRAIN = (
    "import json, sys; from detrnb import Config, fit;"
    "fit(Config.preset('toy', overrides=json.loads(sys.argv[1])), name=sys.argv[2])"
)


def unpack(commit: str, folder: Path) -> Path:
    """A commit's package in a folder.

    Raises:
        ValueError: this clone does not have the commit.
    """
    command = ["git", "-C", str(ROOT), "archive", commit, "detrnb"]
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        raise ValueError(f"no commit {commit} here: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def trained(code: Path, home: Path, name: str) -> list[dict]:
    """The log of a run by the code of a folder, in a home of its own.

    Raises:
        RuntimeError: it failed; with its last words.
    """
    home.mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(code), "DETRNB_HOME": str(home)}
    command = [sys.executable, "-c", TRAIN, json.dumps(SETTINGS), name]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or "no words").splitlines()[-1])
    lines = (home / "runs" / name / "log.txt").read_text().splitlines()
    return [json.loads(line) for line in lines]


def check_equal(ours: list[dict], theirs: list[dict]) -> None:
    """Raises AssertionError where losses or AP differ by more than order of summing may do."""
    for mine, other in zip(ours, theirs, strict=True):
        for key in ("train_loss", "test_loss"):
            np.testing.assert_allclose(mine[key], other[key], rtol=1e-3, err_msg=key)
        found = (line["test_coco_eval_bbox"][0] for line in (mine, other))
        np.testing.assert_allclose(*found, atol=0.01, err_msg="AP")


def results(options: Options) -> Findings:
    """Seconds of an epoch of both editions."""
    found = Findings()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        first = f"first edition ({FIRST})"
        editions = {OURS: ROOT}
        with found.leaving_out(first):
            editions[first] = unpack(FIRST, root / "code")
        logs: dict[str, list] = {name: [] for name in editions}
        for turn in range(options.rounds or ROUNDS):
            for name, code in [*editions.items()]:
                if name == OURS:
                    logs[name].append(trained(code, root / "ours", f"run{turn}"))
                    continue
                with found.leaving_out(first):
                    logs[name].append(trained(code, root / "first", f"run{turn}"))
                    check_equal(logs[OURS][-1], logs[name][-1])
            editions = {name: code for name, code in editions.items() if name not in found.left_out}
    for part, keys in {
        "epoch with evaluation": ("train_time_s", "test_time_s"),
        "its training alone": ("train_time_s",),
    }.items():
        times = {
            name: np.array(
                [min(sum(line[key] for key in keys) for line in log[1:]) for log in logs[name]]
            )
            for name in editions
        }
        found.tables.setdefault("An epoch", []).extend(beside(part, times))
    return found


if __name__ == "__main__":
    main(__doc__, results)
