"""Verdicts as a table in Markdown, README's among them."""

import math

import pandas as pd
from runs_on_disk import ROOT, write_run

from detrnb.compare import (
    arrange,
    decisions,
    find_records,
    read_ladder,
    read_record,
    read_records,
    report,
    verdicts,
)
from detrnb.compare.reporting import equal_time_markdown, ladder_markdown, verdicts_markdown


def table_of(runs: list[str], seeds: int, control: str) -> list[str]:
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


def test_equal_time_says_what_the_baseline_was_not_trained_for_and_what_is_never_reached():
    equal = pd.DataFrame(
        {
            **{"time": [1.21, 3.0, 0.2], "difference": [0.1, 0.3, -0.2]},
            "at_equal_time": [0.08, math.nan, math.nan],
            **{"low": [0.07, math.nan, math.nan], "high": [0.09, math.nan, math.nan]},
            "beyond": [False, True, False],
        },
        index=["a", "b", "c"],
    )
    reach = pd.DataFrame(
        {"epochs": [5.0, 3.0, math.inf], "low": [4.0, 3.0, 6.0], "high": [math.inf, 3.0, math.inf]},
        index=equal.index,
    )
    rows = [
        line.strip("| ").split(" | ") for line in equal_time_markdown(equal, reach).splitlines()
    ]
    assert rows[2:] == [
        ["`a`", "1.2", "+0.100", "+0.080 (+0.070 to +0.090)", "5 (4 to never)"],
        ["`b`", "3", "+0.300, beyond", "no budget as long", "3"],
        ["`c`", "0.2", "-0.200", "no budget as short", "never (6 to never)"],
    ]


def test_readme_shows_the_verdicts_on_the_committed_study():
    table = ladder_markdown(read_ladder(ROOT / "data" / "study" / "second"))
    assert table in (ROOT / "README.md").read_text()


def test_what_a_log_holds_besides_is_said_once_however_many_runs_there_are():
    def log(*epochs):
        return read_record([{"train_loss": 2.0, "epoch": epoch} for epoch in epochs])

    for count in (1, 2, 3):
        text = report(read_records([log(0, 1, 0), *[log(0)] * (count - 1)]))
        assert text.count("2 runs in one log: epochs begin anew at line 3") == 1
