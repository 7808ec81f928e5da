"""Verdicts as a table in Markdown, README's among them."""

from pathlib import Path

from runs_on_disk import ROOT, write_run

from detrnb.compare import (
    arrange,
    decisions,
    find_records,
    read_record,
    read_records,
    report,
    verdicts,
)
from detrnb.compare.reporting import verdicts_markdown


def table_of(runs: list[Path] | str, seeds: int, control: str) -> list[str]:
    records, _ = find_records(runs, ROOT)
    found = verdicts(arrange(records))
    return verdicts_markdown(found, decisions(found, seeds, control)).splitlines()


def test_table_has_verdict_cost_and_decision_of_each_entry(tmp_path):
    entries = {"detr": (0.30, 60.0), "other": (0.35, 90.0), "none": (0.1, 30.0)}
    runs = [
        write_run(
            tmp_path,
            entry,
            seed,
            ap + 0.001 * (seed * (place + 3) % 5),
            settings={"model.num_queries": 16 + place},
            seconds=seconds,
        )
        for place, (entry, (ap, seconds)) in enumerate(entries.items())
        for seed in range(6 if entry != "none" else 2)
    ]
    head, _, detr, other, none = table_of([str(run) for run in runs], 6, "none")
    assert head.startswith("| entry | seeds | validation AP | difference, 95 % interval |")
    assert detr == "| `detr` | 6 | 0.3017 ± 0.0016 |  |  |  |  |"
    assert other.startswith("| `other` | 6 | 0.3517 ± 0.0016 | +0.050 (+0.04")
    # The control has too few seeds to show that a difference could be found.
    assert other.endswith("| better | 1.5 | not decided |")
    assert none.startswith("| `none` | 2 | ") and none.endswith(" | described | 0.5 | control |")
    for run in runs:  # as of a code that keeps no times
        log, provenance = run / "log.txt", run / "provenance.json"
        log.write_text(log.read_text().replace('"train_time_s"', '"other"'))
        provenance.write_text(provenance.read_text().replace('"wall_time_s"', '"other"'))
    *_, other, _ = table_of([str(run) for run in runs], 6, "none")
    assert other.endswith("| better |  | not decided |")


def test_readme_shows_the_verdicts_on_the_committed_study():
    rows = table_of("data/study/toy/*", seeds=6, control="no_encoder")
    assert "\n".join(rows) in (ROOT / "README.md").read_text()


def test_what_a_log_holds_besides_is_said_once_however_many_runs_there_are():
    def log(*epochs):
        return read_record([{"train_loss": 2.0, "epoch": epoch} for epoch in epochs])

    for count in (1, 2, 3):
        text = report(read_records([log(0, 1, 0), *[log(0)] * (count - 1)]))
        assert text.count("2 runs in one log: epochs begin anew at line 3") == 1
