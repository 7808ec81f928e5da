"""Train one run from a terminal: `python -m detrnb.train --preset coco KEY=VALUE ...`.

A KEY is a setting's dotted name, such as train.epochs; a VALUE is JSON (12, 0.1, true, null,
[0, 2], {"0": 1}) or else a plain word. Under torchrun the processes train one run together:

    torchrun --nproc-per-node 8 -m detrnb.train --preset coco data.path=data/coco

A run that is there is opened, one that was interrupted goes on. On several machines the project's
folder must be one that all of them share.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from detrnb.config import PRESETS, Config
from detrnb.device import processes
from detrnb.engine import fit


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise ValueError(f"{message} (--help lists what there is)")


def _override(text: str) -> tuple[str, object]:
    """KEY=VALUE as a name and a value."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, such as train.epochs=50")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _read(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Config]:
    parser = _Parser(
        prog="python -m detrnb.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--preset", required=True, help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--variant", default="detr", help="one, or several joined by +")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", help="of the run's folder (default: made of the settings)")
    parser.add_argument(
        "--resume", choices=["auto", "never"], default="auto", help="never: only a new run"
    )
    parser.add_argument("overrides", nargs="*", type=_override, metavar="KEY=VALUE")
    given = parser.parse_intermixed_args(argv)
    overrides = dict(given.overrides)
    return given, Config.preset(
        given.preset, variant=given.variant, seed=given.seed, overrides=overrides
    )


def _complain(error: Exception, prefix: str = "") -> None:
    print(prefix + "; ".join(str(error).splitlines()), file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 2 for impossible settings, 1 for a run that failed."""
    rank = int(os.environ.get("RANK", "0"))
    try:
        given, config = _read(argv)
    except ValueError as error:
        if rank == 0:  # all processes see the same
            _complain(error)
        return 2
    try:
        run = fit(config, resume=given.resume, name=given.name)
    except (OSError, ValueError) as error:
        _complain(error, f"process {rank}: " if processes().num_processes > 1 else "")
        return 1
    if rank == 0:
        log = run.log
        print(f"{run.path}: AP {log['AP'].iloc[-1]:.3f} after epoch {len(log)}")
    processes().destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
