"""`detrnb data`: look at a data set before training on it."""

from pathlib import Path

import click


@click.command(no_args_is_help=True)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--images", is_flag=True, help="open every image")
def data(paths: tuple[str, ...], images: bool) -> int:
    """Check a data set before training on it.

    PATH is a folder laid out as COCO; or the folder of images and the annotation file of each split
    in turn, training first. Prints what each split holds and every fault, grouped and counted, with
    the first few by id and file and what to do. Errors stop training, warnings do not; with an
    error the exit code is 1. Boxes are counted against DETR's 100 queries; training does the same
    with its model's.

    \b
      detrnb data data/blood --images
      detrnb data photos train.json photos val.json
    """
    if len(paths) > 1 and len(paths) % 2:
        raise click.UsageError(
            f"{len(paths)} paths: expected one folder, or pairs of images and annotations"
        )
    from detrnb.datasets import check
    from detrnb.settings import ModelConfig

    pairs = zip(paths[::2], paths[1::2], strict=False)
    splits = {file: (Path(folder), Path(file)) for folder, file in pairs}
    report = check(splits or paths[0], images=images, num_queries=ModelConfig().num_queries)
    click.echo(report)
    if not images:
        click.echo("images were not opened; --images does so")
    return 1 if report.errors else 0
