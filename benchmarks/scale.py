"""Segments on workers, measured: throughput, overhead, the plan's forecast, memory, and warm starts.

Each part is a row or a few. One thread per worker, on the CPU; clips are Bunny reduced, or synthetic.

- throughput: the same segments on one worker and on two of one Ray cluster, interleaved; medians of segments
  per minute. Workers have loaded PyTorch before.
- overhead: 60 short segments on one worker, beside the same in this process; medians, interleaved.
- plan: what `vinr plan` says of an encode, and what it then took in this process.
- memory: peak memory of `vinr encode --segment` for one minute of 720p and for ten, a process each.
- warm start: mean PSNR of segments that begin with the network of the one before, and that do not, at equal
  epochs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import torch

import vinr
from benchmarks import _record
from vinr.scale.pool import NICENESS
from vinr.units import parse_size
from vinr.video.samples import sample_clip
from vinr.video.sink import open_sink
from vinr.video.spec import Timeline, VideoSpec

PARTS = ("throughput", "overhead", "plan", "memory", "warm start")
BUNNY: dict[str, Any] = {"crop": (640, 1280), "resize": (160, 320), "device": "cpu"}
REPEATS = 3
MINUTES = (1, 10)
# Frames per second of the clips whose memory is compared: time that a fit takes, not what it holds.
MEMORY_RATE = Fraction(1, 2)
MEMORY_SIZE = (720, 1280)
SEGMENT_PARAMETERS = 60_000


@contextmanager
def two_cpus() -> Iterator[None]:
    """Start a cluster of two CPUs whose workers have loaded what they need."""
    import ray

    os.environ.setdefault(NICENESS, "0")  # as vinr starts workers
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def seconds_of(run: Callable[[], object]) -> float:
    """Return how long ``run`` takes, wall-clock."""
    started = time.monotonic()
    run()
    return time.monotonic() - started


def encode(output: Path, workers: int | None, **settings: Any) -> vinr.EncodeReport:
    """Encode Bunny reduced."""
    return vinr.encode(sample_clip(), output, workers=workers, force=True, **BUNNY, **settings)


def throughput(folder: Path, epochs: int) -> list[dict[str, Any]]:
    """Compare one worker with two."""
    settings = {"model": "hnerv", "params": "200k", "frames": (0, 64), "segment": "8f", "epochs": epochs}
    times: dict[int, list[float]] = {1: [], 2: []}
    with two_cpus():
        encode(folder / "warm.vinr", 2, **{**settings, "epochs": 1})
        for _ in range(REPEATS):
            for workers, taken in times.items():
                path = folder / f"{workers}.vinr"
                taken.append(seconds_of(lambda path=path, workers=workers: encode(path, workers, **settings)))
    same = (folder / "1.vinr").read_bytes() == (folder / "2.vinr").read_bytes()
    rows: list[dict[str, Any]] = []
    for workers, taken in times.items():
        middle = median(taken)
        rows.append(
            {
                "part": "throughput",
                "workers": workers,
                "segments": 8,
                "median s": round(middle, 2),
                "segments per minute": round(8 * 60 / middle, 2),
                "times one worker": round(median(times[1]) / middle, 3),
                "same bytes": same,
            }
        )
    return rows


def overhead(folder: Path, epochs: int) -> list[dict[str, Any]]:
    """Compare 60 segments on one worker with the same in this process."""
    settings = {"model": "hnerv", "params": "900k", "frames": (0, 120), "segment": "2f", "epochs": epochs}
    here, on_worker = [], []
    with two_cpus():
        encode(folder / "warm.vinr", 1, **{**settings, "epochs": 1, "frames": (0, 4)})
        for _ in range(REPEATS):
            here.append(seconds_of(lambda: encode(folder / "here.vinr", None, **settings)))
            on_worker.append(seconds_of(lambda: encode(folder / "worker.vinr", 1, **settings)))
    share = median(on_worker) / median(here) - 1
    return [
        {
            "part": "overhead",
            "segments": 60,
            "here, median s": round(median(here), 2),
            "one worker, median s": round(median(on_worker), 2),
            "overhead %": round(100 * share, 2),
            "same bytes": (folder / "here.vinr").read_bytes() == (folder / "worker.vinr").read_bytes(),
        }
    ]


def forecast(folder: Path, epochs: int) -> list[dict[str, Any]]:
    """Compare what `vinr plan` says with what an encode takes."""
    settings = {"model": "hnerv", "params": "200k", "frames": (0, 32), "segment": "8f", "epochs": epochs}
    report = vinr.plan(sample_clip(), **BUNNY, **settings)
    started = time.monotonic()
    written = encode(folder / "plan.vinr", None, **settings)
    taken = time.monotonic() - started
    return [
        {
            "part": "plan",
            "forecast s": round(3600 * report.wall_hours, 1),
            "taken s": round(taken, 1),
            "ratio": round(3600 * report.wall_hours / taken, 3),
            "forecast bytes": report.num_bytes,
            "bytes": written.num_bytes,
        }
    ]


def write_moving(path: Path, minutes: int) -> None:
    """Write a clip of 720p in which a gradient moves, a few frames in memory at a time."""
    height, width = MEMORY_SIZE
    count = int(minutes * 60 * MEMORY_RATE)
    spec = VideoSpec(count, height, width, MEMORY_RATE)
    timeline = Timeline(count, MEMORY_RATE)
    row_HW = torch.arange(height).view(-1, 1) + torch.arange(width).view(1, -1)
    with open_sink(str(path), spec, timeline, codec="x264", force=True) as sink:
        for index in range(count):
            channels = [(row_HW + shift * index) % 256 for shift in (1, 2, 3)]
            sink.write(torch.stack(channels).to(torch.uint8)[None])


def peak_bytes(video: Path, output: Path, minutes: int) -> int:
    """Return the peak memory of a process that encodes ``video`` in segments of 10 s."""
    options = ["--model", "hnerv", "--epochs", "1", "--device", "cpu", "--segment", "10s", "-y"]
    # Of all networks together: six a minute.
    options += ["--params", f"{6 * minutes * SEGMENT_PARAMETERS}", "--no-reference"]
    options += ["--set", "fit.phases=[]", "--set", "fit.precision=fp32"]
    child = subprocess.Popen([sys.executable, "-m", "vinr", "encode", str(video), str(output), *options])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"the encode of {video} ended with {child.returncode}")
    return usage.ru_maxrss * 1024


def memory(folder: Path, epochs: int) -> list[dict[str, Any]]:
    """Compare the peak memory of a long clip with that of a short one."""
    rows: list[dict[str, Any]] = []
    for minutes in MINUTES:
        video = folder / f"moving-{minutes}.mkv"
        if not video.exists():
            write_moving(video, minutes)
        peak = peak_bytes(video, folder / f"moving-{minutes}.vinr", minutes)
        first = rows[0]["peak MB"] if rows else peak / 1e6
        rows.append(
            {
                "part": "memory",
                "minutes of 720p": minutes,
                "frames": int(minutes * 60 * MEMORY_RATE),
                "peak MB": round(peak / 1e6, 1),
                "times one minute": round(peak / 1e6 / first, 3),
            }
        )
    return rows


def warm_start(folder: Path, epochs: int) -> list[dict[str, Any]]:
    """Compare segments that begin with the network of the one before with others."""
    rows = []
    for model in ("hnerv", "nerv"):
        for warm in (False, True):
            report = encode(
                folder / "warm.vinr",
                None,
                model=model,
                params="200k",
                frames=(0, 64),
                segment="16f",
                epochs=epochs,
                overrides=[f"fit.warm_start={str(warm).lower()}"],
            )
            row: dict[str, Any] = {"part": "warm start", "model": model, "warm": warm, "epochs": epochs}
            row["frames"] = "{}×{}".format(*parse_size(BUNNY["resize"]))
            rows.append(row | {"PSNR dB": round(report.psnr_db, 3), "bpp": round(report.bpp, 5)})
    return rows


RUNS: dict[str, tuple[Callable[[Path, int], list[dict[str, Any]]], int]] = {
    "throughput": (throughput, 40),
    "overhead": (overhead, 60),
    "plan": (forecast, 40),
    "memory": (memory, 1),
    "warm start": (warm_start, 40),
}


def main() -> None:
    """Measure the parts, or write the page of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--epochs", type=int, help="of each fit, in place of each part's own")
    parser.add_argument("--size", help="of the frames of Bunny, in place of 160x320")
    parser.add_argument("--work", type=Path, default=Path("/tmp/vinr-scale"), help="folder for files")
    parser.add_argument("--rows", type=Path, default=Path("scale.jsonl"), help="what was measured so far")
    parser.add_argument("--report", action="store_true", help="write the results from the rows there are")
    given = parser.parse_args()
    if given.report:
        write_report(given.rows)
        return
    torch.set_num_threads(1)
    if given.size:
        BUNNY["resize"] = given.size
    given.work.mkdir(parents=True, exist_ok=True)
    for part in given.parts:
        measure, epochs = RUNS[part]
        for row in measure(given.work, given.epochs or epochs):
            print(row, flush=True)
            with open(given.rows, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def write_report(path: Path) -> None:
    """Write docs/results/scale.*; of a part that was measured twice the last rows count."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    tables = []
    for part in PARTS:
        own = [row for row in rows if row["part"] == part]
        shown = {_name_of(row): row for row in own}
        if shown:
            tables.append(f"## {part}\n\n{_record.table(list(shown.values()))}")
    text = "\n\n".join([__doc__ or "", *tables])
    _record.write("scale", "python -m benchmarks.scale", {"repeats": REPEATS}, rows, text)


def _name_of(row: dict[str, Any]) -> str:
    """Return what tells a row from the others of its part."""
    keys = ("workers", "minutes of 720p", "model", "warm")
    return " ".join(str(row.get(key)) for key in keys)


if __name__ == "__main__":
    main()
