"""`detrnb export`: a run's model for use elsewhere."""

import click


@click.command(no_args_is_help=True)
@click.argument("run")
@click.option("--to", required=True, help="a file ending in .safetensors or .onnx")
@click.option(
    "--checkpoint",
    type=click.Choice(["last", "best"]),
    default="last",
    show_default=True,
    help="weights of the last epoch, or of the one with the best AP",
)
@click.option(
    "--variants", multiple=True, metavar="FILE", help="with variants of your own; may be repeated"
)
def export(run: str, to: str, checkpoint: str, variants: tuple[str, ...]) -> None:
    """Write a run's model for use elsewhere.

    Weights as safetensors, or the network as ONNX, which is compared with torch as it is written.
    What a user needs to know lies in the file's metadata: classes, colours, normalisation, sizes.

    \b
      detrnb export runs/NAME --to weights.safetensors
      detrnb export runs/NAME --to model.onnx --checkpoint best
    """
    from detrnb.exchange import export as write
    from detrnb.training import load_run

    path = write(load_run(run, checkpoint, variants=variants), to)
    click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
