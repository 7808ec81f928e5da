"""`detrnb data`: look at a data set before training on it, or bring one in."""

import shlex
from pathlib import Path

import click

from detrnb.commands.train import Setting, each_once


class _Checking(click.Group):
    """A group that checks what it is given where that is none of its commands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            from detrnb.settings import nearest

            hint = nearest(args[0], self.commands)
            if hint and not Path(args[0]).exists():
                raise click.UsageError(f"no command and no path {args[0]!r}{hint}", ctx)
            args = ["check", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Checking, subcommand_metavar="PATH... | COMMAND [ARGS]...", no_args_is_help=True)
def data() -> None:
    """Check a data set before training on it, or bring one in.

    `detrnb data PATH...` is `detrnb data check PATH...`.

    \b
      detrnb data data/blood --images
      detrnb data import downloads/blood_yolo data/blood
      detrnb data show --preset finetune data.path=data/blood
    """


@data.command(no_args_is_help=True)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--images", is_flag=True, help="open every image")
def check(paths: tuple[str, ...], images: bool) -> int:
    """Check a data set before training on it.

    PATH is a folder laid out as COCO or as Roboflow exports COCO's; or the folder of images and the
    annotation file of each split in turn, training first. Prints what each split holds and every
    fault, grouped and counted, with the first few by id and file and what to do. Errors stop
    training, warnings do not; with an error the exit code is 1. Boxes are counted against DETR's
    100 queries; training does the same with its model's. Of another tool's folder it is said what
    it looks like.

    \b
      detrnb data data/blood --images
      detrnb data photos train.json photos val.json
    """
    if len(paths) > 1 and len(paths) % 2:
        raise click.UsageError(
            f"{len(paths)} paths: expected one folder, or pairs of images and annotations"
        )
    from detrnb.datasets import check as check_data
    from detrnb.settings import ModelConfig

    pairs = zip(paths[::2], paths[1::2], strict=False)
    splits = {file: (Path(folder), Path(file)) for folder, file in pairs}
    report = check_data(splits or paths[0], images=images, num_queries=ModelConfig().num_queries)
    click.echo(report)
    if not images:
        click.echo("images were not opened; --images does so")
    return 1 if report.errors else 0


@data.command("import", no_args_is_help=True)
@click.argument("source", metavar="FROM")
@click.argument("to", metavar="TO")
def import_(source: str, to: str) -> int:
    """Make COCO layout of a data set of YOLO's or Pascal VOC's.

    FROM is its folder, TO a new one. Images are linked, or copied where the file system cannot
    link. Prints the objects of each class before and after, what was decided, what was dropped, and
    the check of what came of it. Where something was dropped or is wrong the exit code is 1.

    \b
      detrnb data import downloads/blood_yolo data/blood
      detrnb data import VOCdevkit/VOC2007 data/voc
    """
    from detrnb.datasets import check as check_data
    from detrnb.datasets import import_data

    imported = import_data(source, to)
    report = check_data(imported.path)
    click.echo(f"{imported}\n\n{report}")
    lacking = [split for split in ("train2017", "val2017") if split not in report.contents]
    if lacking:
        click.echo(f"\n{' and '.join(lacking)} missing: training needs both")
    else:
        setting = shlex.quote(f"data.path={imported.path}")
        click.echo(f"\ntrain on it: detrnb train --preset finetune {setting}")
    return 1 if imported.lost or report.errors else 0


@data.command(no_args_is_help=True)
@click.option("--preset", required=True, help="coco, finetune, toy or smoke")
@click.option("--epoch", default=0, show_default=True, help="whose first batch, from 0")
@click.option("--out", default="batch.png", show_default=True, metavar="FILE", help="the picture")
@click.argument("settings", nargs=-1, type=Setting(), callback=each_once, metavar="[KEY=VALUE]...")
def show(preset: str, epoch: int, out: str, settings: dict[str, object]) -> None:
    """Draw a batch as the model sees it in training.

    Images are augmented, resized and padded as the settings say, which are those of `detrnb train`;
    boxes and classes are drawn in. What looks wrong here is learned wrong.

    \b
      detrnb data show --preset finetune data.path=data/blood
      detrnb data show --preset toy --epoch 3 --out third.png
    """
    from detrnb.settings import Config

    try:
        config = Config.preset(preset, overrides=settings)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    from detrnb.look import plot_batch
    from detrnb.runs import write_whole

    figure = plot_batch(config, epoch)
    form = Path(out).suffix.removeprefix(".") or "png"
    write_whole(Path(out), lambda file: figure.savefig(file, format=form, dpi=110))
    click.echo(f"{out}: the first batch of epoch {epoch}")
