"""How many bits does vinr's own network need beside HiNeRV, at equal time?

Bunny, centre-crop 640×1280, area-averaged to 80×160, all 132 frames; vinr's recipe with steps learned against
a rate for both. Epochs are chosen so that both take equally long, by the CPU time of a step of each on one
thread, measured in turn. Files are written and decoded; PSNR is that of their frames as 8-bit RGB.
Rows are files, so that processes share the work; CPU seconds of rows are those of whatever else ran beside.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

import vinr
from benchmarks import _record
from vinr.comparison.rd import RDCurve, RDPoint, bd_rate
from vinr.encoding.plan import choose_preset
from vinr.fit import Trainer
from vinr.quality.clip import bits_per_pixel
from vinr.video.samples import sample_clip
from vinr.video.source import open_video

NAME = "flagship"
CLIP: dict[str, Any] = {"crop": (640, 1280), "resize": (80, 160)}
MODELS = ("hinerv", "vinr")
SIZES = (60_000, 90_000)
# Of HiNeRV; vinr's network has as many as take as long.
EPOCHS = 58
STEPS, TURNS = 15, 9


@dataclass(frozen=True)
class Arm:
    """A network of one size."""

    model: str
    params: int


def step_milliseconds() -> dict[str, float]:
    """Return the CPU time of a training step of each model at the second size, measured in turn."""
    trainers = {}
    with open_video(sample_clip(), **CLIP) as reader:
        frames = reader.read()
    for model in MODELS:
        preset = choose_preset(
            frames.spec, model=model, preset=None, num_parameters=SIZES[0], overrides=["fit.phases=[]"]
        )
        trainers[model] = Trainer(frames, preset)
    taken: dict[str, list[float]] = {model: [] for model in MODELS}
    for turn in range(TURNS + 1):
        for model, trainer in trainers.items():
            batches = trainer.batches.of_epoch(0)
            with trainer.computing():
                started = time.process_time()
                for batch in batches[:STEPS]:
                    trainer.train_on(batch)
            if turn:  # the first one prepares
                taken[model].append(1e3 * (time.process_time() - started) / STEPS)
    return {model: median(times) for model, times in taken.items()}


def measure(arm: Arm, epochs: int) -> dict[str, Any]:
    """Encode, and return what the file came to."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.vinr"
        started = time.process_time()
        report = vinr.encode(
            sample_clip(),
            path,
            model=arm.model,
            params=arm.params,
            epochs=epochs,
            device="cpu",
            threads=1,
            overrides=["compress.audio=false"],
            **CLIP,
        )
        seconds = time.process_time() - started
        size = path.stat().st_size
        with vinr.open(path, device="cpu") as video:
            list(video.play(range(8)))
            began = time.process_time()
            count = sum(map(len, video.play()))
            rate = count / (time.process_time() - began)
    return {
        "model": arm.model,
        "parameters": report.num_parameters,
        "epochs": epochs,
        "bytes": size,
        "bits a parameter": round(8 * size / report.num_parameters, 2),
        "PSNR dB": round(report.psnr_db, 3),
        "CPU s": round(seconds, 1),
        "decoding frames/CPU s": round(rate, 1),
        "commit": _record.commit(),
    }


def write_report(folder: Path) -> None:
    """Write docs/results/flagship.* from the rows there are."""
    found = _record.rows_in(folder)
    steps = next(row for row in found if "step ms" in row)["step ms"]
    rows = [row for row in found if "step ms" not in row]
    num_pixels = 132 * 80 * 160
    curves = []
    for model in MODELS:
        points = []
        for row in rows:
            if row["model"] == model:
                bpp = bits_per_pixel(row["bytes"], num_pixels)
                points.append(RDPoint(str(row["parameters"]), bpp, row["bytes"], row["PSNR dB"]))
        curves.append(RDCurve(model, "vinr", tuple(points)))
    told = ", ".join(f"{model} {milliseconds:.1f} ms" for model, milliseconds in steps.items())
    text = f"{__doc__}\n\nA step takes: {told} (CPU, one thread, {SIZES[0]:,} parameters, medians)."
    if min(len(curve.points) for curve in curves) >= 4:
        saved = bd_rate(curves[0], curves[1])
        text += f"\n\nBD-rate of {MODELS[1]} against {MODELS[0]}: **{saved:+.1f} %**."
    text += f"\n\n{_record.table(rows)}"
    _record.write(NAME, f"python -m benchmarks.{NAME}", {"epochs of HiNeRV": EPOCHS}, rows, text)


def main() -> None:
    """Measure the rows that nobody is at, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    _record.row_options(parser, NAME)
    given = parser.parse_args()
    folder: Path = given.rows
    if given.report:
        write_report(folder)
        return
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    steps_file = folder / "steps.json"
    if not steps_file.exists():
        steps_file.write_text(json.dumps({"step ms": step_milliseconds()}), encoding="utf-8")
    steps = json.loads(steps_file.read_text(encoding="utf-8"))["step ms"]
    for params in SIZES:
        for model in MODELS:
            path = folder / f"{model}-{params}.json"
            try:
                path.open("x").close()
            except FileExistsError:
                continue
            epochs = round(EPOCHS * steps[MODELS[0]] / steps[model])
            row = measure(Arm(model, params), epochs)
            print(row, flush=True)
            path.write_text(json.dumps(row), encoding="utf-8")


if __name__ == "__main__":
    main()
