"""Small run folders for the tests of compare and its plots."""

import json
from pathlib import Path

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
