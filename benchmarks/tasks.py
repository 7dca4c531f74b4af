"""Inpainting and interpolation: are they better than doing nothing?

Inpainting: HNeRV's five boxes of 50 pixels a side, black for the fit, on DAVIS's bmx-trees at 240×432 (80
frames, given by --clip). PSNR of the masked pixels, means over frames: black, and from the network; and
of whole frames whose masked pixels come from the network. Interpolation: every second frame of Bunny is
fitted, centre-crop 640×1280, area-averaged to 80×160; PSNR of the others, when the nearest fitted frame
is repeated, when both neighbours are mixed, and from the network by mixed embeddings or by time. The
clip's first 48 frames move, much of the rest hardly does. No phase for coding. Seconds are processor time
of one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import _record
from _stages import claim
from time_to_quality import Row, read
from vinr.config import Preset
from vinr.encoding.plan import choose_preset
from vinr.tasks.inpainting import measure_inpainting
from vinr.tasks.interpolation import measure_interpolation
from vinr.tasks.masks import open_mask
from vinr.video.source import open_video
from vinr.video.spec import VideoSpec

NAME = "tasks"
BOXES = "boxes"
BUNNY_SIZE = (80, 160)


@dataclass(frozen=True)
class Fit:
    """A network, and for how long it is fitted to how many frames."""

    task: str
    model: str
    numbers: int
    epochs: int
    frames: int


FITS = (
    Fit("inpaint", "nerv", 100_000, 12, 80),
    Fit("inpaint", "hnerv", 100_000, 12, 80),
    Fit("inpaint", "ffnerv", 100_000, 12, 80),
    Fit("interpolate", "hnerv", 200_000, 100, 48),
    Fit("interpolate", "hnerv", 300_000, 60, 132),
)


def inpaint(fit: Fit, clip: Path) -> Row:
    """Return what the masked pixels gain."""
    with open_video(clip) as reader:
        mask_T1HW = open_mask(BOXES, reader)
        frames = reader.read(0, fit.frames)
    score = measure_inpainting(frames, mask_T1HW, _preset(fit, frames.spec))
    return {
        "masked %": 100 * score.masked_share,
        "black dB": score.input_masked_psnr_db,
        "network dB": score.masked_psnr_db,
        "gain dB": score.masked_psnr_db - score.input_masked_psnr_db,
        "whole frames dB": score.filled_psnr_db,
    }


def interpolate(fit: Fit) -> Row:
    """Return what held-out frames come to."""
    frames = read(BUNNY_SIZE, fit.frames)
    score = measure_interpolation(frames, _preset(fit, frames.spec))
    way = score.held_out[0]
    return {
        "fitted dB": score.seen_psnr_db,
        "nearest dB": score.nearest_psnr_db,
        "mixed dB": score.mean_psnr_db,
        "way": way.way,
        "network dB": way.psnr_db,
        "above nearest dB": way.psnr_db - score.nearest_psnr_db,
    }


def _preset(fit: Fit, video: VideoSpec) -> Preset:
    overrides = [f"fit.epochs={fit.epochs}", "fit.phases=[]"]
    return choose_preset(video, model=fit.model, preset=None, num_parameters=fit.numbers, overrides=overrides)


def main() -> None:
    """Run what is not there yet, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", type=Path, help="folder with the frames of bmx-trees; for inpainting")
    _record.row_options(parser, NAME)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.rows.mkdir(exist_ok=True)
    if given.report:
        rows = _record.rows_in(given.rows)
        tables = [
            _record.table([{k: v for k, v in row.items() if k not in ("task", "commit")} for row in own])
            for task in ("inpaint", "interpolate")
            if (own := [row for row in rows if row["task"] == task])
        ]
        command = f"python benchmarks/{Path(__file__).name} --clip FOLDER"
        _record.write(
            NAME,
            command,
            {"fits": [asdict(fit) for fit in FITS]},
            rows,
            "\n\n".join([__doc__ or "", *tables]),
        )
        return
    for fit in FITS:
        path = given.rows / f"{fit.task}-{fit.model}-{fit.numbers}-{fit.frames}.json"
        if (fit.task == "inpaint" and given.clip is None) or not claim(path):
            continue
        started = time.process_time()
        found = inpaint(fit, given.clip) if fit.task == "inpaint" else interpolate(fit)
        row = asdict(fit) | found | {"CPU s": time.process_time() - started, "commit": _record.commit()}
        path.write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
