"""Measures how fast this machine fits and decodes; writes speed.json and its page speed.md."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

from benchmarks._arguments import fit_options, run
from benchmarks.speed.measure import NAME, run_speed
from benchmarks.speed.settings import PARTS
from vinr.fit import Event
from vinr.units import parse_list, parse_size


def main(arguments: list[str] | None = None) -> int:
    """Measure and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--preset", help="presets to measure, commas between them")
    parser.add_argument(
        "--model", help="models to measure in a size that suits the clip, commas between them"
    )
    parser.add_argument("--source", help="a video; Bunny otherwise")
    parser.add_argument("--resize", metavar="HxW", help="rows and columns; the preset's otherwise")
    parser.add_argument("--parts", help=f"what to measure: {','.join(PARTS)}")
    parser.add_argument("--threads", type=int, help="with one, CPU time is measured")
    parser.add_argument("--quick", action="store_true", help="everything once, in seconds: for tests")
    fit_options(parser, out=NAME)
    options = parser.parse_args(arguments)

    def work(on_event: Callable[[Event], None]) -> str:
        overrides = [*options.set]
        if options.parts:
            overrides.append(f"speed.parts={json.dumps(parse_list(options.parts))}")
        report = run_speed(
            presets=parse_list(options.preset),
            models=parse_list(options.model),
            source=options.source,
            size=parse_size(options.resize) if options.resize else None,
            epochs=options.epochs,
            device=options.device,
            out=options.out,
            force=options.force,
            threads=options.threads,
            quick=options.quick,
            overrides=overrides,
            on_event=on_event,
        )
        return f"{report.page_path.read_text(encoding='utf-8')}\npage: {report.page_path}"

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
