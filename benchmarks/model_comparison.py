"""All models at equal numbers stored, fitted for as many epochs, with its paper's recipe and with vinr's.

Bunny, centre-crop 640×1280, area-averaged to 160×320, all 132 frames. Quality is that of the decoded file
(8 bits a weight, 12 a bias). Every run is a row of its own in the results, so that an interrupted comparison
goes on where it stopped; `--report` writes the tables and the plot from the rows there are.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

import _record
from vinr.compress import pack_tensors
from vinr.config import Preset
from vinr.evaluate.metrics import compare_sources
from vinr.fit import fit
from vinr.models import list_models
from vinr.pack import FittedSegment
from vinr.plan import choose_preset
from vinr.video.samples import sample_clip
from vinr.video.source import FrameTensor, open_video

NAME = "model-comparison"
RECIPES = ("vinr", "paper")
SIZES = (200_000, 400_000)
# What a published recipe needs at a quarter of its frame size: patches of 80×80 pixels, as for 720p, and an
# MS-SSIM whose window fits 160 rows.
BOOST = "fit.loss={l1 = 42, ms_ssim5 = 18, frequency = 1}"
ADAPTED = {
    "hinerv": ["fit.patches=[2, 4]"],
    "enerv_boost": [BOOST],
    "hnerv_boost": [BOOST],
    "nerv_boost": [BOOST],
}


def clip() -> FrameTensor:
    """Return the frames that everything is fitted to."""
    with open_video(sample_clip("bigbuckbunny.mp4"), crop=(640, 1280), resize=(160, 320)) as reader:
        return reader.read()


def preset_of(frames: FrameTensor, model: str, recipe: str, size: int, epochs: int) -> Preset:
    """Return the preset of one run."""
    overrides = [f"fit.recipe={recipe}", f"fit.epochs={epochs}"]
    if recipe == "paper":
        overrides += ADAPTED.get(model, [])
    return choose_preset(frames.spec, model=model, preset=None, num_parameters=size, overrides=overrides)


def run(frames: FrameTensor, model: str, recipe: str, size: int, epochs: int) -> dict[str, Any]:
    """Fit, write, decode and score one network."""
    preset = preset_of(frames, model, recipe, size, epochs)
    started = time.perf_counter()
    result = fit(frames, preset)
    seconds = time.perf_counter() - started
    segment = FittedSegment.of(
        preset, result, pack_tensors(result.model.stored(), preset.compress, steps=result.steps), frames.spec
    )
    with segment.open(frames.spec, "cpu") as decoder:
        decoder[0]
        started = time.perf_counter()
        quality = compare_sources(decoder, frames)
        decode_seconds = time.perf_counter() - started
        num_bytes = decoder.num_bytes
    return {
        "model": model,
        "recipe": recipe,
        "size": size,
        "stored": segment.num_parameters,
        "epochs": epochs,
        "psnr_db": quality.psnr_db,
        "ms_ssim": quality.ms_ssim,
        "train_psnr_db": result.train_psnr_db,
        "collapses": result.num_collapses,
        "num_bytes": num_bytes,
        "seconds_per_epoch_loaded": seconds / epochs,
        "decode_and_score_seconds_loaded": decode_seconds,
        "threads": torch.get_num_threads(),
        "commit": _record.commit(),
        "architecture": preset.architecture,
    }


def main() -> None:
    """Run what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--models", nargs="*", default=list_models())
    parser.add_argument("--recipes", nargs="*", default=RECIPES)
    parser.add_argument("--sizes", nargs="*", type=int, default=SIZES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=Path, default=Path(f"{NAME}.rows"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.rows.mkdir(exist_ok=True)
    frames = clip()
    for size in given.sizes:
        for recipe in given.recipes:
            for model in given.models:
                path = given.rows / f"{model}-{size}-{recipe}-{given.epochs}.json"
                try:
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL))  # several processes share the work
                except FileExistsError:
                    continue
                row = run(frames, model, recipe, size, given.epochs)
                path.write_text(json.dumps(row, indent=2) + "\n")
                print(f"{model:12} {recipe:6} {size:7,} {row['psnr_db']:6.2f} dB", flush=True)


if __name__ == "__main__":
    main()
