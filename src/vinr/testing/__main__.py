"""``python -m vinr.testing NAME``: whether an installed model does what every model must.

A line per check. Exit status 0: it passes all; 1: it fails one; 2: there is no such model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vinr.errors import UsageError
from vinr.models import list_models
from vinr.testing.checks import CHECKS
from vinr.testing.verdicts import run_checks


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks and print their verdicts; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m vinr.testing", description=__doc__)
    parser.add_argument("model", help=f"one of {', '.join(list_models())}")
    parser.add_argument(
        "--only", action="append", choices=[check.name for check in CHECKS], help="a check, repeatable"
    )
    given = parser.parse_args(arguments)
    checks = [check for check in CHECKS if given.only is None or check.name in given.only]
    num_failed = 0
    try:
        for outcome in run_checks(given.model, checks):
            print(outcome, flush=True)
            num_failed += bool(outcome.problem)
    except UsageError as error:
        print(f"vinr.testing: {error}", file=sys.stderr)
        return 2
    print(f"{given.model}: {len(checks) - num_failed} of {len(checks)} checks passed")
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
