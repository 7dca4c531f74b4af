"""Does `vinr encode --time T` end after T seconds? Measured from outside, with compression and writing.

Bunny, centre-crop 640×1280, area-averaged to 80×160, all 132 frames, sound left out, one thread unless said
otherwise. "seconds" is what the whole command takes, the start of Python included; "inside" is what the
command itself reports. Other work on the machine is no excuse: the clock is that on the wall.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import _record
from vinr.video.samples import sample_clip

EDIT = ["--crop", "640x1280", "--resize", "80x160", "--set", "compress.audio=false"]
MODELS = ("hnerv", "hinerv", "nerv")
ALLOWED = 0.1


def encode(model: str, seconds: float, extra: list[str]) -> dict[str, Any]:
    """Encode with ``model`` in ``seconds``; return how long it took."""
    clip = str(sample_clip("bigbuckbunny.mp4"))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "bunny.vinr"
        run = [sys.executable, "-m", "vinr", "encode", clip, str(file), "--model", model, "--json"]
        started = time.perf_counter()
        printed = subprocess.run(
            [*run, "--time", f"{seconds:g}s", *EDIT, *extra], capture_output=True, text=True, check=True
        ).stdout
        taken = time.perf_counter() - started
    report = json.loads(printed)
    return {
        "model": model,
        "asked s": seconds,
        "seconds": taken,
        "inside": report["seconds"],
        "off by %": 100 * (taken / seconds - 1),
        "within 10 %": abs(taken / seconds - 1) <= ALLOWED,
        "epochs": report["num_epochs"],
        "file bytes": report["num_bytes"],
        "PSNR dB": report["psnr_db"],
    }


def main() -> None:
    """Encode with each model a few times, in turns, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="more settings of the encode")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    extra = [part for item in given.set for part in ("--set", item)]
    rows = []
    for number in range(given.runs):
        for model in given.models.split(","):
            rows.append({"run": number + 1, **encode(model, given.seconds, extra)})
            print(rows[-1], flush=True)
    if given.dry:
        return
    settings = {"seconds": given.seconds, "runs": given.runs, "threads": given.threads, "set": given.set}
    command = f"python benchmarks/time_budget.py --seconds {given.seconds:g} --runs {given.runs}"
    if given.threads != 1:
        command += f" --threads {given.threads}"
    _record.write("time-budget", command, settings, rows, f"{__doc__}\n{_record.table(rows)}")


if __name__ == "__main__":
    main()
