"""What several commands are given alike."""

from collections.abc import Callable

import click

own_variants = click.option(
    "--variants", multiple=True, metavar="FILE", help="with variants of your own; may be repeated"
)


def weights_of_a_run(default: str) -> Callable[[Callable], Callable]:
    """Which of a run's weights: `checkpoint`, `averaged`, `variants`, as `load_run` takes them.

    Args:
        default: `last` or `best`.
    """
    checkpoint = click.option(
        "--checkpoint",
        type=click.Choice(["last", "best"]),
        default=default,
        show_default=True,
        help="weights of the last epoch, or of the one with the best AP",
    )
    averaged = click.option(
        "--averaged", is_flag=True, help="its averaged weights (train.ema_decay)"
    )
    return lambda command: checkpoint(averaged(own_variants(command)))


def typed(ctx: click.Context) -> list[str]:
    """Names of the parameters that were typed."""
    return [name for name in ctx.params if ctx.get_parameter_source(name).name == "COMMANDLINE"]
