"""`detrnb study`: every run that verdicts are made of."""

import click


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
@click.option("--gpus", type=click.IntRange(min=0), default=0, help="of a run on slurm")
@click.option("--cpus", type=click.IntRange(min=1), default=1, help="of a run on slurm")
def study(
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
    """Train every run of the study, for many hours.

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
    if on != "slurm" and (dry_run or limit or partition or gpus):
        raise click.UsageError("--dry-run, --time, --partition and --gpus are of --on slurm")
    from detrnb.study import Slurm, Study, simulation, state_of

    it = Study(preset, full=full, only=only)
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
