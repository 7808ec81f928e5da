"""`detrnb export`: a run's model for use elsewhere."""

import click

from detrnb.commands.options import weights_of_a_run


@click.command(no_args_is_help=True)
@click.argument("run")
@click.option("--to", required=True, help="a file ending in .safetensors or .onnx; or hf")
@click.argument("folder", required=False, metavar="[DIR]")
@weights_of_a_run("last")
def export(
    run: str,
    to: str,
    folder: str | None,
    checkpoint: str,
    averaged: bool,
    variants: tuple[str, ...],
) -> None:
    """Write a run's model for use elsewhere.

    Weights as safetensors, or the network as ONNX, which is compared with torch as it is written.
    What a user needs to know lies in the file's metadata: classes, colours, normalisation, sizes.
    With `--to hf` DIR becomes a folder that Hugging Face's transformers load: the model by its
    class's `from_pretrained`, and the image processor; settings that they cannot express are named.

    \b
      detrnb export runs/NAME --to weights.safetensors
      detrnb export runs/NAME --to model.onnx --checkpoint best
      detrnb export runs/NAME --to hf DIR
    """
    if (folder is None) == (to == "hf"):
        raise click.UsageError("--to hf needs a folder, --to FILE takes none")
    from detrnb.exchange import export as write
    from detrnb.exchange import export_to_transformers
    from detrnb.training import load_run

    opened = load_run(run, checkpoint, averaged=averaged, variants=variants)
    if folder is not None:
        path = export_to_transformers(opened, folder)
        click.echo(f"{path}: {', '.join(sorted(file.name for file in path.iterdir()))}")
        return
    path = write(opened, to)
    click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
