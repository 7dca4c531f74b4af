"""Both recipes after the paper's 300 epochs, at small scale: is the faster one also as good in the end?

Bunny, centre-crop 640×1280, area-averaged; its first frames, networks of 20,000 numbers; 40×80, but
80×160 where the paper's loss has MS-SSIM, which needs frames of 65 pixels. Models whose paper's recipe
needs frames of 161 pixels are left out. No phase for coding. PSNR is that of the float model, mean over
frames; seconds are processor time of one thread.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import _record
from time_to_quality import WHOLE_FRAMES, Case, Row, run_all

NAME = "long-budget"
EPOCHS = 300
SMALL = Case(20_000, (40, 80), 24, EPOCHS, (EPOCHS,))
LARGER = Case(20_000, (80, 160), 12, EPOCHS, (EPOCHS,), WHOLE_FRAMES)
CASES = {
    "hnerv": SMALL,
    "nerv": SMALL,
    "psnerv": SMALL,
    "enerv": SMALL,
    "cnerv": SMALL,
    "ffnerv": SMALL,
    "hinerv": LARGER,
    "dnerv_diverse": SMALL,
    "dnerv": SMALL,
    "tnerv": SMALL,
}


def summary(rows: list[Row]) -> str:
    """Return both recipes' PSNR and time, a line for each model."""
    shown = []
    for model in CASES:
        own = {row["recipe"]: row for row in rows if row["model"] == model}
        if len(own) < 2:
            continue
        paper, vinr = own["paper"], own["vinr"]
        shown.append(
            {
                "model": model,
                "frames": f"{paper['frames']} of {paper['size']}",
                "numbers": paper["numbers"],
                "paper dB": f"{paper['PSNR dB']:.2f}",
                "vinr dB": f"{vinr['PSNR dB']:.2f}",
                "difference": f"{vinr['PSNR dB'] - paper['PSNR dB']:+.2f}",
                "paper s": f"{paper['CPU s']:.0f}",
                "vinr s": f"{vinr['CPU s']:.0f}",
            }
        )
    return _record.table(shown)


def main() -> None:
    """Run what is not there yet, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=[*CASES])
    _record.row_options(parser, NAME)
    given = parser.parse_args()
    if not given.report:
        run_all(CASES, given.models, [0], given.rows)
        return
    rows = _record.rows_in(given.rows)
    cases = {model: asdict(case) for model, case in CASES.items()}
    text = f"{__doc__}\n{summary(rows)}"
    _record.write(NAME, f"python benchmarks/{Path(__file__).name}", cases, rows, text)


if __name__ == "__main__":
    main()
