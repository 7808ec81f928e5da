"""`detrnb compare`: runs side by side in a terminal, or anybody's table of numbers."""

from pathlib import Path

import click


@click.command(no_args_is_help=True)
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option(
    "--table",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="in place of runs: entry, seed and a number, comma-separated, of any code",
)
@click.option(
    "--baseline", help="entry that others are compared with  [default: detr, or the first]"
)
@click.option(
    "--delta",
    type=click.FloatRange(min=0, min_open=True),
    help="the smallest difference that matters; 0.02, of AP from 0 to 1",
)
@click.option(
    "--latex", "as_latex", is_flag=True, help="the verdicts alone, as a table for a paper"
)
@click.option("--methods", "as_methods", is_flag=True, help="the paragraph that says what was done")
def compare(
    runs: tuple[str, ...],
    table: Path | None,
    baseline: str | None,
    delta: float | None,
    as_latex: bool,
    as_methods: bool,
) -> None:
    """Lay runs side by side: a table, an audit, verdicts.

    The audit holds the first run against each other one; verdicts are given where entries have
    several seeds, which run folders tell. A RUN is a run folder or the log file of any DETR-family
    code, or of mmdetection, detectron2, Hugging Face's Trainer or ultralytics. Logs tell no seeds:
    they are audited, and verdicts on such runs are by --table. Folders without a log, which runs/*/
    names too, are left out where two others are there.

    \b
      detrnb compare runs/*/
      detrnb compare runs/toy-detr-s0-*/ runs/toy-adaptive_res-s0-*/
      detrnb compare data/journal/*.jsonl
      detrnb compare --table aps.csv --baseline ours --latex --methods
    """
    if bool(runs) == (table is not None):
        raise click.UsageError("expected runs, or --table with a file")
    from detrnb.compare import (
        DELTA,
        arrange,
        latex,
        methods,
        read_records,
        read_table,
        refuse_planned,
        report,
        verdicts,
        verdicts_text,
    )

    records = []
    if table is not None:
        found = read_table(table, baseline, delta)
    else:
        records = read_records(_with_logs(runs))
        # Two are audited in the order given.
        records = arrange(records, baseline) if len(records) > 2 else records
        if not (as_latex or as_methods):
            click.echo(report(records, baseline, delta or DELTA))
            return
        refuse_planned(records)
        found = verdicts(records, baseline, delta=delta or DELTA)
    parts = [latex(found)] * as_latex + [methods(found, escaped=as_latex)] * as_methods
    click.echo("\n\n".join(parts or [verdicts_text(found)]))


def _with_logs(runs: tuple[str, ...]) -> list[str]:
    """Those of some runs that are no folders without a log; all where these are fewer than two."""
    from detrnb.runs import foreign_log, is_there, located

    def is_bare(run: str) -> bool:
        path = located(run)
        there = is_there(path / "log.txt") or foreign_log(path) is not None
        return path.is_dir() and not there

    bare = [run for run in runs if is_bare(run)]
    left = [run for run in runs if run not in bare]
    if len(left) < 2:
        return list(runs)
    for run in bare:
        click.echo(f"left out: {run}: no log there", err=True)
    return left
