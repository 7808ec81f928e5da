"""`detrnb study`: every run that verdicts are made of, one after the other."""

import click


@click.command()
@click.option("--preset", default="toy", show_default=True, help="of the config")
def study(preset: str) -> None:
    """Train every run of the study, for hours.

    Goes on where it was stopped. What a verdict needs of each run is kept in data/study/PRESET/,
    small enough to commit.

    \b
      detrnb study
      detrnb study --preset smoke
    """
    from detrnb.study import run_study

    folder = run_study(preset)
    click.echo(f"all there; compare them: detrnb compare {folder}/*/")
