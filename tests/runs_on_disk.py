"""Small run folders for the tests of compare and its plots."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from detrnb.compare import StudyPlan
from detrnb.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
STUDY = ROOT / "data" / "study" / "encoder_depth"
JOURNAL = [ROOT / "data" / "journal" / f"{name}_epoch0.jsonl" for name in ("detr", "adaptive_res")]


def write_run(
    parent: Path,
    entry: str,
    seed: int,
    ap: float,
    *,
    epochs: int = 2,
    logged: int | None = None,
    settings: dict | None = None,
    seconds: float = 60.0,
    test_ap: float | None = None,
) -> Path:
    """A run folder `<entry>-s<seed>`, as `fit` leaves it but for what nobody reads.

    Args:
        ap: of the last epoch on the validation split.
        logged: epochs in the log, all unless given.
        settings: dotted keys to values, over a committed run's.
        seconds: that training took.
        test_ap: on test2017, where it was evaluated there.
    """
    source = RunFolder(STUDY / "detr-s0")
    config, provenance = source.read_config(), source.read_provenance()
    stated = {"train.seed": seed, "train.epochs": epochs, "model.variant": "detr"}
    for dotted, value in {**stated, **(settings or {})}.items():
        section, key = dotted.split(".")
        config[section][key] = value
    folder = RunFolder(parent / f"{entry}-s{seed}").create(config)
    # As of before there were checksums: tests change these files.
    folder.config_path.write_text(json.dumps(config))
    folder.write_provenance({**provenance, "seed": seed})
    line = json.loads((source.path / "log.txt").read_text().splitlines()[-1])
    for epoch in range(epochs if logged is None else logged):
        stats = [ap, *line["test_coco_eval_bbox"][1:]]
        changed = {"epoch": epoch, "test_coco_eval_bbox": stats, "train_time_s": seconds / epochs}
        folder.append_log({**line, **changed})
    if test_ap is not None:
        folder.write_test("test2017", epochs - 1, [test_ap, *[-1.0] * 11], {"0": test_ap}, 3.0)
    return folder.path


def write_study(
    folder: Path,
    plan: StudyPlan,
    true: Mapping[str, float],
    leave_out: Collection[tuple[str, int]] = (),
) -> Path:
    """A settled plan with its made-up runs, kept in `folder/judged`.

    Args:
        true: by entry, by how much its AP on test2017 differs from the baseline's.
        leave_out: entries and replicates that are missing.
    """
    noise = np.random.default_rng(1)
    plan.write(folder / "plan.json")
    for label, replicate in plan.runs():
        ap = 0.3 + 0.01 * (replicate - plan.first) + true[label] + 0.002 * noise.normal()
        if (label, replicate) in leave_out:
            continue
        entry = plan.entry(label)
        epochs = entry.overrides.get("train.epochs", 6)
        settings = {"model.num_queries": 16 + [*true].index(label)}
        path = write_run(
            folder / "made",
            label,
            replicate + entry.weights,
            ap - 0.01,
            epochs=epochs,
            settings=settings,
            seconds=10.0 * epochs,
            test_ap=ap,
        )
        run = RunFolder(path)
        study = {"plan": plan.hash, "entry": label, "replicate": replicate}
        run.write_provenance(run.read_provenance() | {"study": study})
        kept = folder / "judged" / f"{label}-s{replicate}"
        kept.parent.mkdir(exist_ok=True)
        path.rename(kept)
    return folder
