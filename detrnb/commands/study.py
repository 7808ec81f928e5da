"""`detrnb study`: every run that verdicts are made of."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

import click

from detrnb.commands.options import typed

STAGES = ("--plan", "--status", "--simulate", "--list")
# What an option is of; where it is not, it would be ignored.
OF = {
    "--only": ("--status", "--list", "--on here", "--on slurm"),
    "--jobs": ("--on here",),
    **dict.fromkeys(("--dry-run", "--time", "--partition", "--gpus", "--cpus"), ("--on slurm",)),
}


@click.command()
@click.option("--preset", default="toy", show_default=True, help="of the config; smoke tries it")
@click.option("--only", multiple=True, metavar="ENTRY", help="see to this one; may be repeated")
@click.option("--full", is_flag=True, help="trials as long as judged runs, not half of it")
@click.option("--plan", "settle", is_flag=True, help="settle the plan, from finished trials")
@click.option("--status", is_flag=True, help="what is there, what is missing, how long it takes")
@click.option("--simulate", is_flag=True, help="how often each verdict would come")
@click.option(
    "--spread",
    type=click.FloatRange(min=0, min_open=True),
    help="of paired differences, as measured, for --simulate",
)
@click.option(
    "--on", type=click.Choice(["here", "slurm"]), default="here", show_default=True, help="where"
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="at a time")
@click.option("--list", "listed", is_flag=True, help="print a command a run, and run none")
@click.option("--dry-run", is_flag=True, help="with --on slurm: print the script, submit nothing")
@click.option("--time", "limit", default="", help="of a run on slurm, such as 2:00:00")
@click.option("--partition", default="", help="of slurm's")
@click.option(
    "--gpus",
    type=click.IntRange(min=0),
    default=0,
    help="of a run on slurm, to share out its batch",
)
@click.option("--cpus", type=click.IntRange(min=1), default=1, help="of a run on slurm")
@click.pass_context
def study(
    ctx: click.Context,
    preset: str,
    only: tuple[str, ...],
    full: bool,
    settle: bool,
    status: bool,
    simulate: bool,
    spread: float | None,
    on: str,
    jobs: int,
    listed: bool,
    dry_run: bool,
    limit: str,
    partition: str,
    gpus: int,
    cpus: int,
) -> int:
    """Train the study's trials, or its planned runs, for many hours.

    First the trials of learning rates; once they are there, --plan settles what is judged and how,
    in data/study/second/plan.json, to be committed; then the judged runs. Goes on where it was
    stopped. What a verdict needs of each run is kept beside the plan, small enough to commit.

    \b
      detrnb study
      detrnb study --plan
      detrnb study --jobs 4
      detrnb study --on slurm --time 2:00:00 --gpus 1
      detrnb study --status
    """
    if simulate != (spread is not None):
        raise click.UsageError("--simulate and --spread go together")
    _see_typed(ctx)
    from detrnb.study import Slurm, Study, simulation, state_of

    it = Study(preset, full=full, only=only)
    if full and it.is_settled:
        raise click.UsageError(
            f"--full is of trials, which are over: {it.plan_path} is settled; leave it out"
        )
    if simulate:
        click.echo(simulation(it, spread))
        return 0
    if settle:
        click.echo(f"{it.plan_path}: plan {it.settle().hash}; commit it before the judged runs")
        return 0
    if status:
        it.collect()
        click.echo(state_of(it))
        return 0
    if listed:
        it.check()
        with redirect_stdout(sys.stderr):  # apart from what a shell is to run
            it.collect()
        click.echo("\n".join(job.line() for job in it.left()))
        return 0
    if on == "slurm":
        slurm = Slurm(f"detrnb-{it.plan.name}", limit, partition, gpus, cpus)
        if dry_run:
            click.echo(it.script(slurm))
            return 0
        number = it.submit(slurm)
        click.echo(f"array job {number}; `detrnb study --status` keeps what has ended and says")
        return 0
    failed = it.run(jobs)
    if failed:
        told = "; ".join(f"{name} ({why})" for name, why in failed.items())
        click.echo(f"ended otherwise: {told}; the same command tries them again")
        return 1
    click.echo(state_of(it))
    return 0


def _see_typed(ctx: click.Context) -> None:
    """Refuse options that would be ignored.

    Raises:
        click.UsageError: some were typed.
    """
    flags = {parameter.name: parameter.opts[0] for parameter in ctx.command.params}
    given = [flags[name] for name in typed(ctx)]
    stages = [flag for flag in STAGES if flag in given]
    stages += ["--on slurm"] * (ctx.params["on"] == "slurm")
    if len(stages) > 1:
        raise click.UsageError(f"{_listed(stages)} are typed; expected one of them")
    stage = stages[0] if stages else "--on here"
    for flag in given:
        if stage not in OF.get(flag, (stage,)):
            raise click.UsageError(
                f"{flag} is of {_listed(OF[flag])}, ignored by {stage}; leave it out"
            )


def _listed(flags: Sequence[str]) -> str:
    """Some in a row, `and` before the last."""
    *others, last = flags
    return f"{', '.join(others)} and {last}" if others else last
