"""Time of a training step, optimiser included: the paper's recipe against vinr's, and its parts on and off.

HNeRV of 0.19 M numbers at 160×320 and of 1.5 M at 640×1280, batches of two random frames (speed does not
depend on what they show), float32. Ways take turns: each turn is one step that is not counted, since it finds
the memory, and then those that are. "ms" is the median time of a step, "x paper" the median over the turns of
its time over that of the paper's recipe. On one thread times are processor time, which leaves out what other
programs take; on two they are time that passes. vinr's recipe ends in a phase for coding that trains the
frozen network, without its encoder; "whole recipe" weighs the steps before and in it by their shares.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from statistics import median
from typing import Any

import torch

import _record
from vinr.config import load_preset
from vinr.fit import Trainer
from vinr.video.source import FrameTensor
from vinr.video.spec import VideoSpec

SIZES = {"hnerv-0.19m-bunny4": (160, 320), "hnerv-1.5m-bunny": (640, 1280)}
NUM_FRAMES = 8
PAPER, VINR, CODING, WHOLE = "paper", "vinr", "vinr, phase for coding", "vinr, whole recipe"
COMMON = ["fit.precision=fp32"]
WAYS = {
    PAPER: ["fit.recipe=paper", "fit.channels_last=false"],
    VINR: [],
    CODING: [],
    "vinr, direct convolutions, channels last": ["fit.convolution=direct"],
    "vinr, direct convolutions": ["fit.convolution=direct", "fit.channels_last=false"],
    "vinr, memory not kept": ["fit.keep_memory=false"],
    "vinr, Adam": ["fit.optimizer=adam"],
    "paper with transforms, memory kept": [
        "fit.recipe=paper",
        "fit.convolution=auto",
        "fit.keep_memory=true",
    ],
}
# What is compared at the large size, where a step takes seconds.
LARGE_WAYS = (PAPER, VINR, CODING)
STEPS, LARGE_STEPS = 4, 1


def new_trainer(preset_name: str, way: str) -> Trainer:
    """Return a fit that has not begun."""
    height, width = SIZES[preset_name]
    generator = torch.Generator().manual_seed(0)
    rgb_NCHW = torch.randint(255, (NUM_FRAMES, 3, height, width), dtype=torch.uint8, generator=generator)
    preset = load_preset(preset_name, COMMON + WAYS[way])
    source = FrameTensor(rgb_NCHW, VideoSpec(NUM_FRAMES, height, width))
    trainer = Trainer(source, preset)
    if way == CODING:
        trainer.learner.enter(0)
    trainer.model.train()
    return trainer


def clock() -> float:
    """Return processor time where one thread works, else the time that passes."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds_per_step(trainer: Trainer, num_steps: int) -> float:
    """Do a step that is not counted, then ``num_steps`` that are."""
    batches = trainer.batches.of_epoch(0)
    with trainer.computing():
        trainer.train_on(batches[0])
        started = clock()
        for number in range(num_steps):
            trainer.train_on(batches[number % len(batches)])
            trainer.steps_done += 1
        return (clock() - started) / num_steps


def measure(preset_name: str, threads: int, turns: int) -> list[dict[str, Any]]:
    """Compare the ways at one size."""
    torch.set_num_threads(threads)
    is_large = SIZES[preset_name][0] > 160
    ways, num_steps = (LARGE_WAYS, LARGE_STEPS) if is_large else (tuple(WAYS), STEPS)
    trainers = {way: new_trainer(preset_name, way) for way in ways}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(turns):
        for way, trainer in trainers.items():
            taken[way].append(seconds_per_step(trainer, num_steps))
    coding_share = sum(phase.share for phase in trainers[VINR].settings.phases)
    taken[WHOLE] = [
        (1 - coding_share) * plain + coding_share * coding
        for plain, coding in zip(taken[VINR], taken[CODING], strict=True)
    ]
    return [
        {
            "network": preset_name,
            "threads": threads,
            "way": way,
            "ms": 1000 * median(times),
            "x paper": median(own / paper for own, paper in zip(times, taken[PAPER], strict=True)),
            "turns": turns,
        }
        for way, times in taken.items()
    ]


def main() -> None:
    """Measure on one thread and on two, each size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5, help="at the small size; the large one takes three")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        preset_name, threads, turns = json.loads(given.part)
        print(json.dumps(measure(preset_name, threads, turns)))
        return
    rows = []
    for threads in given.threads:
        for preset_name, turns in zip(SIZES, (given.turns, 3), strict=True):
            part = json.dumps([preset_name, threads, turns])
            run = [sys.executable, __file__, "--part", part]
            printed = subprocess.run(run, stdout=subprocess.PIPE, text=True, check=True).stdout
            rows += json.loads(printed)
            print(_record.table(rows), file=sys.stderr, flush=True)
    settings = {"steps": STEPS, "steps_large": LARGE_STEPS, "batch_size": 2}
    text = f"{__doc__}\n{_record.table(rows)}"
    command = "python " + " ".join(["benchmarks/step_time.py", *sys.argv[1:]])
    _record.write("step-time", command, settings, rows, text)


if __name__ == "__main__":
    main()
