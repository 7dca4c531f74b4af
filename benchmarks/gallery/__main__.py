"""Fits what the gallery shows and writes its page; options mean what they mean for `vinr bench`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from benchmarks._arguments import fit_options, run
from benchmarks.gallery.measure import run_gallery
from vinr.bench.recipe import SCALES
from vinr.fit import Event


def main(arguments: list[str] | None = None) -> int:
    """Make the gallery and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery", description=__doc__)
    parser.add_argument("--scale", choices=SCALES, default="mini", help="tiny is for tests")
    parser.add_argument(
        "--data", metavar="FOLDER", help="the clips that do not come with vinr (docs/bench.md)"
    )
    fit_options(parser, out="gallery")
    options = parser.parse_args(arguments)

    def work(on_event: Callable[[Event], None]) -> str:
        report = run_gallery(
            scale=options.scale,
            data=options.data,
            out=options.out,
            epochs=options.epochs,
            device=options.device,
            overrides=options.set,
            force=options.force,
            on_event=on_event,
        )
        return f"page: {report.page_path}"

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
