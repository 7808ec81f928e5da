"""The command `detrnb`: its parts, and what a terminal shows when something is wrong.

Exit codes: 0; 1 where what was asked for is wrong or went wrong; 2 where it was typed wrongly; 130
where it was interrupted.
"""

import os
import sys
from collections.abc import Sequence

import click

from detrnb.commands.compare import compare
from detrnb.commands.data import data
from detrnb.commands.export import export
from detrnb.commands.predict import predict
from detrnb.commands.study import study
from detrnb.commands.train import train
from detrnb.commands.workbook import workbook

COMMANDS = (train, compare, study, data, predict, export, workbook)
DEBUG = click.Option(
    ["--debug"], is_flag=True, expose_value=False, help="show an error's traceback"
)


class _InOrder(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
def detrnb() -> None:
    """Which changes to DETR's transformer help, and how would we know?

    \b
      detrnb train --preset toy --variant adaptive_res
      detrnb compare runs/*/
    """


for command in COMMANDS:
    for inner in (command, *getattr(command, "commands", {}).values()):
        inner.params.append(DEBUG)
    detrnb.add_command(command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: what was typed after `detrnb`; this process's own unless given.

    Returns:
        The exit code.
    """
    typed = list(sys.argv[1:] if argv is None else argv)
    try:
        return detrnb.main(typed, prog_name="detrnb", standalone_mode=False) or 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 2
    except click.UsageError as error:
        if _rank() == 0:  # all processes see the same
            path = error.ctx.command_path if error.ctx else "detrnb"
            _say(f"{error.format_message().rstrip('.')} ({path} --help tells more)")
        return 2
    except (click.Abort, KeyboardInterrupt):
        _say("stopped")
        return 130
    except Exception as error:
        if "--debug" in typed:
            raise
        _say(_in_words(error))
        return 1


def _in_words(error: Exception) -> str:
    """An error as a person is told it; one that nobody foresaw with its type."""
    if isinstance(error, ValueError | OSError):
        return str(error)
    return f"{type(error).__name__}: {error} (--debug shows where)"


def _say(text: str) -> None:
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    print(f"process {_rank()}: {text}" if several else text, file=sys.stderr, flush=True)


def _rank() -> int:
    """This process among those that torchrun started."""
    return int(os.environ.get("RANK", "0"))
