"""What does bfloat16 bring on a CPU, in training and in decoding, and what does it cost in quality?

``fit.precision = "auto"`` takes it where the CPU has instructions for it. Bunny, a centre crop of 2:1,
reduced by area-averaging to frames of so many rows, one thread. Other work ran beside, so times are to be
read as ratios.

Steps: the CPU time of a step of plain fitting, both types in turn, medians of five turns. "Without bf16" and
"AVX2" are the same CPU, whose libraries were told to leave newer instructions alone. Files: encoded for equal
epochs in both types and decoded in float32, PSNR as 8-bit RGB, the mean over frames. Decoding: a file fitted
in float32, played in both types in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

import vinr
from benchmarks import _record
from benchmarks.flagship import CROPS
from vinr.bench.datasets import find_clip
from vinr.decoding.decoder import VideoDecoder
from vinr.decoding.settings import DecodeSettings
from vinr.encoding.plan import choose_preset
from vinr.fit import Trainer
from vinr.fit.precision import cpu_has_bf16
from vinr.quality.clip import compare
from vinr.video.source import FrameTensor, open_video

NAME = "precision"
TYPES = ("bf16", "fp32")
TURNS, STEPS, FRAMES = 5, 6, 16
# Of each: model, parameters, rows of the frames.
STEPPED = (
    ("vinr", 60_000, 80),
    ("vinr", 200_000, 160),
    ("hinerv", 60_000, 80),
    ("hinerv", 200_000, 160),
    ("hnerv", 60_000, 80),
    ("hnerv", 200_000, 160),
    ("nerv", 100_000, 80),
    ("ffnerv", 100_000, 80),
)
FITTED = (("vinr", 60_000, 80), ("hinerv", 60_000, 80), ("hnerv", 60_000, 80))
SEEDS, EPOCHS = (1, 2, 3), 8
# What the libraries are told to compute with: PyTorch's own kernels, and those of oneDNN.
KINDS: dict[str, dict[str, str]] = {
    "AVX-512 with bf16": {},
    "AVX-512 without bf16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}


def clip_of(rows: int, num_frames: int | None = None) -> FrameTensor:
    """Return frames of Bunny, ``rows`` × 2 · ``rows`` pixels; None: all."""
    with open_video(find_clip("bunny", None), crop=CROPS["bunny"], resize=(rows, 2 * rows)) as reader:
        return reader.read(0, num_frames)


def in_turn(works: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median CPU time of each work, in ms; the first turn prepares."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(TURNS + 1):
        for name, work in works.items():
            began = time.process_time()
            work()
            if turn:
                taken[name].append(1e3 * (time.process_time() - began))
    return {name: median(times) for name, times in taken.items()}


def ratio_row(times: Mapping[str, float], per: int, what: str) -> dict[str, Any]:
    """Return both times, each of ``per`` things, and what float32 takes to what bfloat16 does."""
    bf16, fp32 = (times[name] for name in TYPES)
    return {
        f"bf16 ms a {what}": round(bf16 / per, 2),
        f"fp32 ms a {what}": round(fp32 / per, 2),
        "fp32 / bf16": round(fp32 / bf16, 2),
    }


def measure_steps(model: str, params: int, rows: int) -> dict[str, Any]:
    """Return the time of a step of plain fitting in both types, in this process."""
    frames = clip_of(rows, FRAMES)

    def stepping(precision: str) -> Callable[[], None]:
        overrides = ["fit.phases=[]", f"fit.precision={precision}"]
        preset = choose_preset(
            frames.spec, model=model, preset=None, num_parameters=params, overrides=overrides
        )
        trainer = Trainer(frames, preset)
        batches = trainer.batches.of_epoch(0)[:STEPS]

        def work() -> None:
            with trainer.computing():
                for batch in batches:
                    trainer.train_on(batch)

        return work

    return ratio_row(in_turn({name: stepping(name) for name in TYPES}), STEPS, "step")


def steps_on(kind: str, model: str, params: int, rows: int) -> dict[str, Any]:
    """Return :func:`measure_steps` of a process whose libraries compute as ``kind`` says."""
    command = [sys.executable, "-m", "benchmarks.precision", "--one", model, str(params), str(rows)]
    printed = subprocess.run(command, env=os.environ | KINDS[kind], capture_output=True, check=True).stdout
    times: dict[str, Any] = json.loads(printed)
    return {"CPU": kind, "model": model, "parameters asked": params, "rows": rows} | times


def measure_files(model: str, params: int, rows: int, seed: int, folder: Path) -> dict[str, Any]:
    """Encode in both types, and return size and quality of the files."""
    frames = clip_of(rows)
    row: dict[str, Any] = {"model": model, "parameters asked": params, "rows": rows, "seed": seed}
    row["epochs"] = EPOCHS
    for name in TYPES:
        path = folder / f"{model}-{params}-{rows}-{seed}-{name}.vinr"
        vinr.encode(
            find_clip("bunny", None),
            path,
            model=model,
            params=params,
            epochs=EPOCHS,
            crop=CROPS["bunny"],
            resize=(rows, 2 * rows),
            device="cpu",
            threads=1,
            force=True,
            overrides=[f"fit.precision={name}", f"fit.seed={seed}", "compress.audio=false"],
        )
        with vinr.open(path, device="cpu") as video:
            row[f"{name} bytes"] = path.stat().st_size
            row[f"{name} dB"] = round(compare(video, frames).psnr_db, 3)
    row["bf16 - fp32 dB"] = round(row["bf16 dB"] - row["fp32 dB"], 3)
    row["bf16 / fp32 bytes"] = round(row["bf16 bytes"] / row["fp32 bytes"], 3)
    return row


def play(video: VideoDecoder) -> None:
    """Decode all frames."""
    for _ in video.play():
        pass


def measure_decoding(model: str, params: int, rows: int, folder: Path) -> dict[str, Any]:
    """Play a file of :func:`measure_files` in both types, and return times and what bfloat16 moves."""
    path, frames = folder / f"{model}-{params}-{rows}-{SEEDS[0]}-fp32.vinr", clip_of(rows)
    videos = {
        name: vinr.open(path, device="cpu", settings=DecodeSettings.model_validate({"precision": name}))
        for name in TYPES
    }
    times = in_turn({name: partial(play, video) for name, video in videos.items()})
    quality = {name: compare(video, frames).psnr_db for name, video in videos.items()}
    row = {"decoded": model, "parameters asked": params, "rows": rows}
    row |= ratio_row(times, frames.spec.num_frames, "frame")
    return row | {"bf16 - fp32 dB": round(quality["bf16"] - quality["fp32"], 3)}


def write_report(folder: Path) -> None:
    """Write docs/results/precision.* from the rows there are."""
    found = _record.rows_in(folder)
    parts = {
        "Training steps": [row for row in found if "CPU" in row],
        "Files": [row for row in found if "seed" in row],
        "Decoding": [row for row in found if "decoded" in row],
    }
    order = list(KINDS)
    parts["Training steps"].sort(key=lambda row: order.index(row["CPU"]))
    text = (__doc__ or "").strip()
    for title, rows in parts.items():
        text += f"\n\n## {title}\n\n{_record.table(rows)}"
        if title == "Files":
            text += f"\n\nMean of bf16 - fp32: {fmean(row['bf16 - fp32 dB'] for row in rows):+.3f} dB."
    _record.write(
        NAME, f"python -m benchmarks.{NAME}", {}, [row for rows in parts.values() for row in rows], text
    )


def main() -> None:
    """Measure the rows that nobody is at, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    _record.row_options(parser, NAME)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.one:
        model, params, rows = given.one
        print(json.dumps(measure_steps(model, int(params), int(rows))))
        return
    folder: Path = given.rows
    if given.report:
        write_report(folder)
        return
    if not cpu_has_bf16():
        parser.error("needs a CPU with AVX-512 and bf16, whose libraries are then told to use less")
    folder.mkdir(parents=True, exist_ok=True)
    works: dict[str, Callable[[], dict[str, Any]]] = {}
    for number, kind in enumerate(KINDS):
        for asked in STEPPED:
            works["-".join(map(str, ("steps", number, *asked)))] = partial(steps_on, kind, *asked)
    for asked in FITTED:
        name = "-".join(map(str, asked))
        for seed in SEEDS:
            works[f"files-{name}-{seed}"] = partial(measure_files, *asked, seed, folder)
        works[f"played-{name}"] = partial(measure_decoding, *asked, folder)
    for name, work in works.items():
        path = folder / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(work()), encoding="utf-8")
            print(name, path.read_text(encoding="utf-8"), flush=True)


if __name__ == "__main__":
    main()
