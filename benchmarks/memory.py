"""Peak memory at 1080p: decoding with every model, and fitting HiNeRV-S patch by patch.

Decoding: networks of about 3 M parameters for 600 frames of 1080×1920, two frames one by one, float32, on the
CPU. Fitting: HiNeRV-S for UVG with its paper's patches, one step (frames of a clip, 3.7 GB for 600, come on
top): all 144 patches of the batch at once, or a few at a time (`fit.micro_batch`). Each figure is the peak of
a process of its own, less what the process takes before (interpreter, torch, vinr). Other sizes:
`python -m benchmarks.speed --parts memory`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks import _record
from benchmarks.speed.decoding import random_file
from benchmarks.speed.memory import decode_memory, step_memory
from vinr.config import load_preset
from vinr.decoding.settings import DecodeSettings
from vinr.encoding.plan import choose_preset
from vinr.models import list_models
from vinr.video.spec import VideoSpec

CPU = torch.device("cpu")
VIDEO, NUM_PARAMETERS = VideoSpec(600, 1080, 1920), 3_000_000
FIT_PRESET, FIT_VIDEO = "hinerv-s-uvg", VideoSpec(4, 1080, 1920)
MICRO_BATCHES = (0, 16)


def decode_row(model: str) -> dict[str, Any]:
    """Return what decoding takes with ``model``; a file of random numbers takes as much as a fitted one."""
    preset = choose_preset(VIDEO, model=model, preset=None, num_parameters=NUM_PARAMETERS, overrides=[])
    with TemporaryDirectory() as folder:
        path = random_file(preset, VIDEO, Path(folder) / "random.vinr")
        peak = decode_memory(path, DecodeSettings(precision="fp32", batch=1), CPU)
    return {"model": model, "peak GB": peak / 1e9}


def fit_row(micro_batch: int) -> dict[str, Any]:
    """Return what a step of the paper's recipe takes, ``micro_batch`` patches at a time (0: all)."""
    overrides = ["fit.recipe=paper", "fit.precision=fp32", f"fit.micro_batch={micro_batch}"]
    preset = load_preset(FIT_PRESET, overrides)
    peak = step_memory(preset, FIT_VIDEO, CPU, num_steps=1)
    rows, columns = preset.fit.patches
    return {"preset": FIT_PRESET, "patches at a time": micro_batch or rows * columns, "peak GB": peak / 1e9}


def main() -> None:
    """Measure everything and write the page; names of models as arguments: only these, printed."""
    rows = []
    for model in sys.argv[1:] or list_models():
        rows.append(decode_row(model))
        print(rows[-1], flush=True)
    if sys.argv[1:]:
        return
    fits = [fit_row(micro_batch) for micro_batch in MICRO_BATCHES]
    settings = {"height": VIDEO.height, "width": VIDEO.width, "num_frames": VIDEO.num_frames}
    text = f"{__doc__}\n{_record.table(rows)}\n\n{_record.table(fits)}"
    _record.write("memory", "python -m benchmarks.memory", settings, [*rows, *fits], text)


if __name__ == "__main__":
    main()
