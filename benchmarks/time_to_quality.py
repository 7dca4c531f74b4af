"""How much sooner the vinr recipe is where the paper's ends, and how far it gets in the same time.

The paper's recipe (fit.recipe=paper) runs its epochs; the vinr recipe runs fractions of them, each a fit of
its own, since its schedule knows its end. No phase for coding in either. Both on Bunny, centre-crop 640×1280,
area-averaged, 132 frames; PSNR is that of the float model, mean over frames. Seconds are processor time of
one thread, which other work on the machine changes little; frames are scored outside them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import _record
from _stages import claim
from training_parity import float_psnr_db
from vinr.fit import fit
from vinr.plan import choose_preset
from vinr.video.samples import sample_clip
from vinr.video.source import FrameTensor, open_video

NAME = "time-to-quality"
# Model: numbers, size of the frames, epochs of the paper's recipe, and of vinr's.
RUNS: dict[str, tuple[int, tuple[int, int], int, tuple[int, ...]]] = {
    "hnerv": (192_743, (160, 320), 30, (2, 3)),
    "nerv": (60_000, (80, 160), 30, (10, 15)),
    "hinerv": (60_000, (80, 160), 12, (3, 4)),
    "tnerv": (60_000, (80, 160), 12, (3, 4)),
}

Row = dict[str, Any]


def read(size: tuple[int, int]) -> FrameTensor:
    """Return all frames of Bunny at ``size`` (rows, columns)."""
    with open_video(sample_clip("bigbuckbunny.mp4"), crop=(640, 1280), resize=size) as reader:
        return reader.read()


def run(model: str, recipe: str, epochs: int) -> Row:
    """Return what one fit took and came to."""
    numbers, size, _, _ = RUNS[model]
    frames = read(size)
    overrides = [f"fit.recipe={recipe}", f"fit.epochs={epochs}", "fit.phases=[]"]
    preset = choose_preset(frames.spec, model=model, preset=None, num_parameters=numbers, overrides=overrides)
    started = time.process_time()
    result = fit(frames, preset)
    seconds = time.process_time() - started
    return {
        "model": model,
        "recipe": recipe,
        "epochs": epochs,
        "numbers": result.model.num_stored(),
        "size": f"{size[0]}×{size[1]}",
        "PSNR dB": float_psnr_db(result.model, frames),
        "CPU s": seconds,
        "commit": _record.commit(),
    }


def summary(rows: list[Row]) -> str:
    """Return, for each model, how much sooner the paper's PSNR is reached, and the gain at equal epochs."""
    shown = []
    for model in RUNS:
        own = [row for row in rows if row["model"] == model]
        paper = next((row for row in own if row["recipe"] == "paper"), None)
        if paper is None:
            continue
        ours = sorted((row for row in own if row["recipe"] == "vinr"), key=lambda row: row["epochs"])
        first = next((row for row in ours if row["PSNR dB"] >= paper["PSNR dB"]), None)
        last = next((row for row in ours if row["epochs"] == paper["epochs"]), None)
        line = {"model": model, "paper's recipe": said(paper), "vinr's gets there": "no", "times as fast": ""}
        if first is not None:
            line |= {
                "vinr's gets there": said(first),
                "times as fast": f"{paper['CPU s'] / first['CPU s']:.1f}",
            }
        line["in as many epochs"] = "" if last is None else said(last)
        shown.append(line)
    return _record.table(shown)


def said(row: Row) -> str:
    """Return what a fit came to, in words."""
    return f"{row['PSNR dB']:.2f} dB, {row['epochs']} epochs, {row['CPU s']:.0f} s"


def main() -> None:
    """Run what is not there yet, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=[*RUNS])
    _record.row_options(parser, NAME)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.rows.mkdir(exist_ok=True)
    if given.report:
        rows = _record.rows_in(given.rows)
        text = f"{__doc__}\n{summary(rows)}\n\n{_record.table(rows)}"
        _record.write(NAME, f"python benchmarks/{Path(__file__).name}", {"runs": RUNS}, rows, text)
        return
    for model in given.models:
        _, _, epochs, fractions = RUNS[model]
        for recipe, number in (("paper", epochs), *(("vinr", count) for count in fractions)):
            path = given.rows / f"{model}-{recipe}-{number:03d}.json"
            if claim(path):
                row = run(model, recipe, number)
                path.write_text(json.dumps(row, indent=2) + "\n")
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
