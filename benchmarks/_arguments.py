"""Options that measurements share, with the names and meanings that they have for the command `vinr`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from vinr.cli.console import complain
from vinr.cli.progress import fit_progress
from vinr.errors import VinrError, command_line_words
from vinr.fit import Event


def fit_options(parser: argparse.ArgumentParser, *, out: str) -> None:
    """Add the options of what fits networks and keeps results in a folder, ``out`` if none is named."""
    parser.add_argument("--epochs", type=int, help="passes over all frames, each network")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--out", metavar="FOLDER", default=out, help=f"where results are kept ({out})")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting, repeatable"
    )


def run(work: Callable[[Callable[[Event], None]], str]) -> int:
    """Run ``work`` with a bar of progress and print the text it returns; errors are one line, status 2."""
    try:
        with command_line_words(), fit_progress(lambda: "finished jobs are kept") as watch:
            text = work(watch.on_event)
    except VinrError as error:
        complain(str(error))
        return error.exit_status
    sys.stdout.write(text + "\n")
    return 0
