"""Compare runs in a terminal: `python -m detrnb.compare RUN ...`.

Prints a table of the runs, an audit of the first against each other one, and verdicts where entries
have several seeds. A RUN is a run folder or the log file of any DETR-family code.
"""

import argparse
import sys
from collections.abc import Sequence

from detrnb.compare.records import arrange, read_records
from detrnb.compare.report import report


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m detrnb.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder or log file")
    try:
        records = read_records(parser.parse_args(argv).runs)
        # Two are audited in the order given.
        print(report(arrange(records) if len(records) > 2 else records))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
