"""Does our loop train as the public code does, and what does the optimiser change?

Bunny, centre-crop 640×1280, area-averaged to 160×320, all 132 frames, HNeRV 0.19 M, batch 2, L2, 30 epochs,
fp32. The public code ends at 25.8 dB (mean of frames, float output) with Adam at 1e-3.
"""

from __future__ import annotations

import argparse
import time

import _record
from vinr.bench.stages import float_psnr_db
from vinr.config import load_preset
from vinr.fit import RoundDone, fit
from vinr.video.samples import sample_clip
from vinr.video.source import open_video

PAPER = ["fit.recipe=paper"]
RUNS = {
    "paper (Adam 1e-3)": PAPER,
    "paper with Muon 3e-3": [*PAPER, "fit.optimizer=muon", "fit.learning_rate=3e-3"],
    "vinr": ["fit.phases=[]"],
}


def main() -> None:
    """Run every recipe and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--preset", default="hnerv-0.19m-bunny4")
    epochs, name = parser.parse_args().epochs, parser.parse_args().preset
    with open_video(sample_clip("bigbuckbunny.mp4"), crop=(640, 1280), resize=(160, 320)) as reader:
        frames = reader.read(0, reader.spec.num_frames)
    rows = []
    for label, overrides in RUNS.items():
        preset = load_preset(name, [*overrides, f"fit.epochs={epochs}"])
        curve: list[float] = []

        def watch(event: object, curve: list[float] = curve) -> None:
            if isinstance(event, RoundDone):
                curve.append(round(event.psnr_db, 3))
                print(f"  {event.epochs_done:5.1f} epochs  {event.psnr_db:6.2f} dB", flush=True)

        started = time.perf_counter()
        result = fit(frames, preset, on_event=watch)
        seconds = time.perf_counter() - started
        row = {
            "recipe": label,
            "PSNR dB": float_psnr_db(result.model, frames),
            "s/epoch": seconds / result.num_epochs,
            "stored": result.model.num_stored(),
        }
        print(row, flush=True)
        rows.append({**row, "curve_db": curve})
    shown = [{key: value for key, value in row.items() if key != "curve_db"} for row in rows]
    text = f"{__doc__}\nFinal float PSNR after {epochs} epochs:\n\n{_record.table(shown)}"
    command = f"python benchmarks/training_parity.py --epochs {epochs} --preset {name}"
    _record.write("training-parity", command, {"epochs": epochs, "preset": name}, rows, text)


if __name__ == "__main__":
    main()
