"""`detrnb compare`: runs side by side in a terminal."""

import click


@click.command(no_args_is_help=True)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
def compare(runs: tuple[str, ...]) -> None:
    """Lay runs side by side: a table, an audit, verdicts.

    The audit holds the first run against each other one; verdicts are given where entries have
    several seeds. A RUN is a run folder or the log file of any DETR-family code, or of mmdetection,
    detectron2, Hugging Face's Trainer or ultralytics.

    \b
      detrnb compare runs/toy-detr-s0-*/ runs/toy-adaptive_res-s0-*/
      detrnb compare data/journal/*.jsonl
    """
    from detrnb.compare import arrange, read_records, report

    records = read_records(runs)
    # Two are audited in the order given.
    click.echo(report(arrange(records) if len(records) > 2 else records))
