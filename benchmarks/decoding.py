"""How fast files are decoded: what runs the network, writing y4m, the first frame, a quarter of the frames.

Networks of random numbers (speed does not depend on them): HNeRV of 0.19 M numbers at 160×320 and of 1.5 M
at 640×1280; the first frame also of 3 M. Ways of decoding take turns, four frames each after one call that is
not counted; "ms" is the least time of a frame, "x" the median over the turns of plain PyTorch's time over
this one's. Plain is float32, one frame a call, maps stored channel by channel, direct convolutions. On one
thread times are processor time, which other work on the machine does not change; on more they are time that
passes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import _record
from benchmarks.speed.decoding import PLAIN, WAYS, first_frame, frame_works, random_file, whole_file
from benchmarks.speed.turns import Clock, ratios, take_turns
from vinr.config import load_preset
from vinr.decoding.settings import DecodeSettings
from vinr.video.spec import VideoSpec

SIZES = {
    "hnerv-0.19m-bunny4": (160, 320),
    "hnerv-1.5m-bunny": (640, 1280),
    "hnerv-3m-bunny": (640, 1280),
}
FRAMES_A_TURN = 4


def network_rates(path: Path, seconds: float, ways: Mapping[str, DecodeSettings]) -> list[dict[str, Any]]:
    """Compare ways of running the network."""
    cpu = torch.device("cpu")
    works, open_files = frame_works(path, cpu, ways, Clock(cpu), frames=FRAMES_A_TURN)
    with open_files:
        take_turns(works, turns=1)  # compiles, exports, and finds a heap of its size
        taken = take_turns(works, turns=3, seconds=seconds)
    rows = [
        {
            "way": way,
            "ms a frame": 1000 * min(times),
            "x": ratios(taken[PLAIN], times).median,
            "turns": len(times),
        }
        for way, times in taken.items()
    ]
    print(_record.table(rows), file=sys.stderr, flush=True)
    return rows


def a_file(preset: str, num_frames: int, folder: Path) -> Path:
    """Write a file of random numbers."""
    video = VideoSpec(num_frames, *SIZES[preset])
    return random_file(load_preset(preset), video, folder / f"{preset}-{num_frames}.vinr")


def measure(threads: int, seconds: float, ways: Mapping[str, DecodeSettings]) -> list[dict[str, Any]]:
    """Measure everything on ``threads`` threads."""
    torch.set_num_threads(threads)
    cpu = torch.device("cpu")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for preset in list(SIZES)[:2]:
            path = a_file(preset, 132, folder)
            rows += [
                {"network": preset, "threads": threads, **row} for row in network_rates(path, seconds, ways)
            ]
        if threads == 1:
            for preset, num_frames, turns in (("hnerv-0.19m-bunny4", 132, 3), ("hnerv-1.5m-bunny", 64, 1)):
                found = whole_file(a_file(preset, num_frames, folder), folder, cpu, turns=turns)
                rows += [{"network": preset, "threads": 1, "what": what, "x": x} for what, x in found.items()]
            found = first_frame(a_file("hnerv-3m-bunny", 132, folder), cpu)
            rows += [
                {"network": "hnerv-3m-bunny", "threads": 1, "what": what, "x": x} for what, x in found.items()
            ]
    return rows


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as tables, one for each kind of row."""
    parts = [_record.table([row for row in rows if key in row]) for key in ("way", "what")]
    return "\n\n".join(parts)


def main() -> None:
    """Measure on one thread and on two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each network and number of threads")
    parser.add_argument("--ways", default=",".join(str(n) for n in range(len(WAYS))), help="numbers of ways")
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    ways = dict(list(WAYS.items())[int(number)] for number in given.ways.split(","))
    if given.threads:
        print(json.dumps(measure(given.threads, given.seconds, ways)))
        return
    rows = []
    for threads in (1, 2):
        run = [sys.executable, __file__, "--threads", str(threads), "--seconds", str(given.seconds)]
        run += ["--ways", given.ways]
        printed = subprocess.run(run, stdout=subprocess.PIPE, text=True, check=True).stdout
        rows += json.loads(printed)
    text = f"{__doc__}\n{tables(rows)}"
    print(text)
    _record.write("decoding", "python benchmarks/decoding.py", {"frames_a_turn": FRAMES_A_TURN}, rows, text)


if __name__ == "__main__":
    main()
