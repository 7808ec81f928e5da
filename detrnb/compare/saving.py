"""Comparisons as files, for a paper or a spreadsheet."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from detrnb.compare.judging import Verdicts
from detrnb.compare.ladder import Ladder
from detrnb.compare.paper import latex, methods
from detrnb.compare.records import Record
from detrnb.compare.reporting import ladder_markdown, ladder_notes, verdicts_markdown
from detrnb.compare.table import summary, tidy
from detrnb.runs import write_text


def save_runs(
    folder: Path, records: Sequence[Record], found: Verdicts | None, decided: pd.DataFrame
) -> None:
    """Write runs and their verdicts into a folder: `runs.csv`, one row a run; `numbers.csv`, all
    numbers of all epochs, one a row; and where there are verdicts `verdicts.csv`, `verdicts.md` and
    `by_seed.csv`.

    Args:
        found: None where there is no verdict.
        decided: as from `decisions`.
    """
    tables, texts = {"runs": summary(records), "numbers": _numbers(records)}, {}
    if found is not None:
        tables |= {"verdicts": found.table.join(decided), "by_seed": found.values}
        texts["verdicts.md"] = verdicts_markdown(found, decided)
    _write(folder, tables, texts)


def save_ladder(folder: Path, ladder: Ladder) -> None:
    """Write a planned study into a folder: what `save_runs` writes of runs, with `ladder.csv`,
    `ladder.md`, `by_replicate.csv`, `controls.csv` and `described.csv`, and for each family its
    table and paragraph for a paper, `<family>.tex` and `<family>.txt`.
    """
    records = list(ladder.runs)
    tables = {
        **{"runs": summary(records), "numbers": _numbers(records)},
        **{"ladder": ladder.table, "by_replicate": ladder.values},
        **{"controls": ladder.controls, "described": ladder.described},
    }
    notes = "".join(f"\n- {note}" for note in [*ladder.remarks, *ladder_notes(ladder)])
    texts = {"ladder.md": f"{ladder_markdown(ladder)}\n{notes}"}
    for name, found in ladder.families.items():
        stem = name.replace(" ", "_").replace("'", "")
        texts |= {f"{stem}.tex": latex(found), f"{stem}.txt": methods(found, plan=ladder.plan)}
    _write(folder, tables, texts)


def _numbers(records: Sequence[Record]) -> pd.DataFrame:
    return tidy(records).set_index("run")


def _write(folder: Path, tables: dict[str, pd.DataFrame], texts: dict[str, str]) -> None:
    texts = texts | {f"{name}.csv": table.to_csv() for name, table in tables.items()}
    for name, text in texts.items():
        write_text(folder / name, f"{text.rstrip()}\n")
