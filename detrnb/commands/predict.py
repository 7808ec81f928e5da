"""`detrnb predict`: what a run's model finds in any images."""

import glob
from pathlib import Path

import click

from detrnb.commands.options import weights_of_a_run


class Threshold(click.ParamType):
    """A score, `best` or `class`."""

    name = "SCORE|best|class"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | str:
        if value in ("best", "class"):
            return value
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a score nor best nor class", param, ctx)


@click.command(no_args_is_help=True)
@click.argument("run")
@click.argument("images", nargs=-1, required=True, metavar="IMAGES...")
@click.option(
    "--threshold",
    type=Threshold(),
    default="best",
    show_default=True,
    help="least score that counts; best: of the best F1, class: each class's own",
)
@click.option("--out", metavar="DIR", help="[default: predictions/ in the run's folder]")
@weights_of_a_run("best")
def predict(
    run: str,
    images: tuple[str, ...],
    threshold: float | str,
    out: str | None,
    checkpoint: str,
    averaged: bool,
    variants: tuple[str, ...],
) -> int:
    """Find objects in images.

    IMAGES are files, folders (with all folders in them) and wildcards. DIR then holds the pictures
    with their boxes, predictions.json (COCO's results), images.json (which file each image id is),
    counts.csv (detections of each class in each image) and thresholds.png (what other thresholds
    would give); what an earlier call wrote there and nobody changed is removed, and anything
    else is never replaced. An image that cannot be read is named and skipped; the exit code is
    then 1.

    \b
      detrnb predict runs/NAME photos/
      detrnb predict runs/NAME "photos/*.jpg" --threshold 0.5 --out found
    """
    files = _files(images)
    from detrnb.training import level, load_run

    opened = load_run(run, checkpoint, averaged=averaged, variants=variants)
    folder = Path(out) if out else opened.path / "predictions"
    from detrnb.commands.predictions import inputs, write_predictions

    if not (files := inputs(files, folder)):
        raise ValueError(f"all of these images are drawn ones, of an earlier call to {folder}")
    kept = opened.thresholds if isinstance(threshold, str) else {}
    least = level(threshold, kept)
    click.echo(least.about)
    found = opened.predict(files, least)
    written = write_predictions(found, folder, kept)
    total = sum(found.counts.values())
    by_class = ", ".join(f"{name} {number}" for name, number in found.counts.most_common())
    click.echo(f"{len(found)} images, {total} detections{f': {by_class}' if by_class else ''}")
    click.echo(f"{folder}: {', '.join(written)}")
    for image, why in found.skipped.items():
        click.echo(f"skipped: {image} {why}", err=True)
    return 1 if found.skipped else 0


def _files(typed: tuple[str, ...]) -> list[Path]:
    """The images that files, folders and wildcards lead to, each once, in order.

    Raises:
        ValueError: one of them leads to none.
    """
    from detrnb.datasets import images_in

    files: dict[Path, None] = {}
    for text in typed:
        path = Path(text)
        if path.is_dir():
            found = list(images_in(path))
        elif path.exists():
            found = [path]
        else:
            found = sorted(Path(name) for name in glob.glob(text, recursive=True))
            found = [file for file in found if file.is_file()]
        if not found:
            raise ValueError(f"{text}: no image there; expected a file, a folder or a wildcard")
        files |= dict.fromkeys(found)
    return list(files)
