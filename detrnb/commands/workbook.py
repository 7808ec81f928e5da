"""`detrnb workbook`: run the notebooks and make a small site of them."""

import os

import click


@click.command()
@click.option("--smoke", is_flag=True, help="on a tiny data set: seconds instead of minutes")
@click.option("--only", metavar="NN", help="beginning of a notebook's name")
@click.option("--figures", is_flag=True, help="then renew the committed pictures in figures/")
def workbook(smoke: bool, only: str | None, figures: bool) -> None:
    """Run the notebooks and make pages of them.

    In order, each in a fresh kernel. runs/workbook/ then holds executed copies, pages that need no
    network for figures and tables, the notebooks' pictures, and index.html, the way in.

    \b
      detrnb workbook --smoke
      detrnb workbook --only 01
    """
    if smoke and figures:
        raise click.UsageError("--figures renews the committed pictures, --smoke's mean nothing")
    from detrnb.commands.notebooks import pictures, renew_figures, run_workbook
    from detrnb.runs import project_root

    root = project_root()
    before = pictures(root)
    index = run_workbook(root, smoke=smoke, only=only)
    click.echo(f"open {os.path.relpath(index)}")
    if figures:
        renewed, others = renew_figures(root, before)
        click.echo(f"in figures/: {renewed} pictures of this run, {others} as before")
