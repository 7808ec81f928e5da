"""`detrnb train`: one run from a terminal, in one process or in several."""

import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from detrnb.commands.options import own_variants, typed

if TYPE_CHECKING:  # slow to import
    from detrnb.settings import Config


class Setting(click.ParamType):
    """KEY=VALUE as a name and a value."""

    name = "KEY=VALUE"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, object]:
        key, equals, typed = value.partition("=")
        if not equals:
            self.fail(f"{value!r} is not KEY=VALUE, such as train.epochs=50", param, ctx)
        try:
            return key, json.loads(typed)
        except ValueError:
            return key, typed


def each_once(
    ctx: click.Context, param: click.Parameter, value: tuple[tuple[str, object], ...]
) -> dict[str, object]:
    """Settings by name; one that is typed twice is refused."""
    settings: dict[str, object] = {}
    for key, one in value:
        if key in settings:
            raise click.UsageError(
                f"{key} is typed twice, as {settings[key]!r} and as {one!r}; leave one out", ctx
            )
        settings[key] = one
    return settings


@click.command(no_args_is_help=True)
@click.option("--preset", help="coco, finetune, toy or smoke")
@click.option("--variant", default="detr", show_default=True, help="one, or several joined by +")
@click.option("--seed", default=0, show_default=True)
@click.option("--name", help="of the run's folder  [default: made of the settings]")
@click.option(
    "--resume", type=click.Choice(["auto", "never"]), default="auto", help="never: only a new run"
)
@own_variants
@click.option("--test", is_flag=True, help="afterwards evaluate on test2017, into test.json")
@click.option(
    "--replay",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="a run's nonfinite.pt: make the step again, name the first module that gives NaN",
)
@click.argument("settings", nargs=-1, type=Setting(), callback=each_once, metavar="[KEY=VALUE]...")
@click.pass_context
def train(
    ctx: click.Context,
    preset: str | None,
    variant: str,
    seed: int,
    name: str | None,
    resume: str,
    variants: tuple[str, ...],
    test: bool,
    replay: Path | None,
    settings: dict[str, object],
) -> None:
    """Train one run, or go on with it, into runs/.

    A KEY is a setting's dotted name, such as train.epochs; a VALUE is JSON (12, 0.1, true, null,
    [0, 2], {"0": 1}) or else a plain word. A run that is there is opened, one that was interrupted
    goes on.

    \b
      detrnb train --preset toy --variant svd_split train.epochs=3
      torchrun --nproc-per-node 8 -m detrnb train --preset coco data.path=data/coco
      detrnb train --replay runs/mine/nonfinite.pt

    Under torchrun the processes train one run together; on several machines the folder that holds
    runs/ must be one that all of them share.
    """
    from detrnb.settings import Config, load_variants

    try:
        load_variants(variants)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if replay is not None:
        _replay(ctx, replay)
        return
    if preset is None:
        raise click.MissingParameter(param_hint="'--preset'", param_type="option")
    for option, key in (("variant", "model.variant"), ("seed", "train.seed")):
        if option in typed(ctx) and key in settings:
            raise click.UsageError(f"--{option} and {key}= are typed; leave one out")
    try:
        config = Config.preset(preset, variant=variant, seed=seed, overrides=settings)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    from detrnb.training import TEST_SPLIT, fit, from_main, keep_test, processes

    if test and not from_main(partial(_can_test, config, name)):
        raise click.UsageError(
            f"--test: there is no {TEST_SPLIT} in {config.data.path}; expected its images and"
            f" annotations/instances_{TEST_SPLIT}.json; put them there, name others in data.splits,"
            " or leave --test out"
        )
    run = fit(config, resume=resume, name=name)
    if test:
        keep_test(run)
    if int(os.environ.get("RANK", "0")) == 0:
        log = run.log
        click.echo(f"{run.path}: AP {log['AP'].iloc[-1]:.3f} after epoch {len(log)}")
    processes().destroy_process_group()


def _can_test(config: "Config", name: str | None) -> bool:
    """Whether a run has its test.json already, or can be evaluated for it."""
    from detrnb.datasets import has_split
    from detrnb.training import TEST_SPLIT, folder_of

    return folder_of(config, name).test_path.exists() or has_split(config.data, TEST_SPLIT)


def _replay(ctx: click.Context, file: Path) -> None:
    """Say what of a step that failed is not finite first."""
    others = [name for name in typed(ctx) if name not in ("replay", "variants")]
    if others:
        raise click.UsageError(
            f"--replay takes all settings from its file; leave out {', '.join(others)}"
        )
    from detrnb.training import replay

    click.echo(replay(file))
