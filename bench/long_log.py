"""A log of 10,000 epochs, read into a table and drawn, beside pandas' own reader.

    python bench/long_log.py

The lines are the journal's, of a DETR with six decoder layers: 93 keys, 44 MB in all. pandas is
what the reference's `util/plot_utils.py` reads logs with; it stops at a torn last line.
"""

import io
import json
import tempfile
from pathlib import Path

import pandas as pd
from timing import arguments, compare, medians

from detrnb.plots import plot_curves
from detrnb.runs import log_table, project_root, read_log

EPOCHS = 10_000


def main() -> None:
    repeats = arguments(__doc__, repeats=3).repeats
    (line,) = read_log(project_root() / "data" / "journal" / "detr_epoch0.jsonl")
    text = "".join(json.dumps({**line, "epoch": epoch}) + "\n" for epoch in range(EPOCHS))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.txt"
        path.write_text(text)
        compare(
            f"read {EPOCHS} epochs, {len(text) / 1e6:.0f} MB: pandas.read_json, ours",
            lambda: pd.read_json(path, lines=True),
            lambda: log_table(read_log(path)),
            repeats,
        )

        def draw() -> None:
            plot_curves({"detr": log_table(read_log(path))}).savefig(io.BytesIO())

        print(f"read and drawn: {medians([draw], repeats)[0]:.2f} s")


if __name__ == "__main__":
    main()
