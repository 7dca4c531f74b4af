"""How fast files are decoded: what runs the network, writing y4m, the first frame, a quarter of the frames.

Networks of random numbers (speed does not depend on them): HNeRV of 0.19 M numbers at 160×320 and of 1.5 M at
640×1280; the first frame also of 3 M. Ways of decoding take turns, four frames each after one call that is not counted; "ms" is the least time
of a frame, "x" the median over the turns of plain PyTorch's time over this one's. Plain is float32, one frame
a call, maps stored channel by channel, direct convolutions. On one thread times are processor time, which
other work on the machine does not change; on more they are time that passes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

import _record
import vinr
from vinr.compress import pack_tensors
from vinr.config import load_preset, validate_architecture
from vinr.decode_settings import DecodeSettings
from vinr.models import Latents, get_model
from vinr.models._stored import FrozenLatents
from vinr.pack import FittedSegment
from vinr.playback import decode_to
from vinr.video.spec import VideoSpec

SIZES = {
    "hnerv-0.19m-bunny4": (160, 320),
    "hnerv-1.5m-bunny": (640, 1280),
    "hnerv-3m-bunny": (640, 1280),
}
PLAIN = "plain"
WAYS = {
    PLAIN: DecodeSettings(convolution="direct"),
    "plain, batch 2": DecodeSettings(convolution="direct", batch=2),
    "plain, batch 4": DecodeSettings(convolution="direct", batch=4),
    "channels last": DecodeSettings(channels_last=True),
    "channels last, batch 4": DecodeSettings(channels_last=True, batch=4),
    "default (transforms, memory kept)": DecodeSettings(),
    "default, batch 2": DecodeSettings(batch=2),
    "default, batch 4": DecodeSettings(batch=4),
    "compiled, channels last": DecodeSettings(compile=True),
    "ONNX Runtime": DecodeSettings(backend="onnx"),
}
FRAMES_A_TURN = 4


def clock() -> float:
    """Return processor time where one thread works, else the time that passes."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def random_file(preset_name: str, num_frames: int, folder: Path) -> Path:
    """Write a file of random numbers."""
    preset = load_preset(preset_name)
    video = VideoSpec(num_frames, *SIZES[preset_name])
    cls = get_model(preset.model)
    torch.manual_seed(0)
    model: Any = cls(validate_architecture(cls, preset.architecture), video, with_encoder=False).eval()
    shapes = model.per_frame_shapes()
    latents = {name: torch.randn(num_frames, *shape) for name, shape in shapes.items()}
    model.attach_latents(FrozenLatents(Latents(latents)))
    segment = FittedSegment.coded(preset, model, pack_tensors(model.stored(), preset.compress), video)
    path = folder / f"{preset_name}-{num_frames}.vinr"
    segment.alone("random", video).write(path, force=True)
    return path


def seconds_a_frame(decoder: vinr.VideoDecoder, way: str, first: int) -> float:
    """Decode a few frames, after one batch that finds the memory; plain ones as random access does."""
    if way == PLAIN:
        batches = (decoder[index : index + 1] for index in range(first, first + 1 + FRAMES_A_TURN))
    else:
        size = WAYS[way].batch or 1
        batches = decoder.play(range(first, first + size + FRAMES_A_TURN))
    next(batches)
    started = clock()
    for _ in batches:
        pass
    return (clock() - started) / FRAMES_A_TURN


def network_rates(path: Path, seconds: float, ways: Sequence[str]) -> list[dict[str, Any]]:
    """Compare ways of running the network."""
    decoders = {way: vinr.open(path, device="cpu", settings=WAYS[way]) for way in ways}
    for way, decoder in decoders.items():  # compiles, exports, and finds a heap of its size
        seconds_a_frame(decoder, way, 0)
    taken: dict[str, list[float]] = {way: [] for way in ways}
    started = time.perf_counter()
    turn = 0
    while turn < 3 or time.perf_counter() - started < seconds:
        for way, decoder in decoders.items():
            taken[way].append(seconds_a_frame(decoder, way, FRAMES_A_TURN * (turn % 8)))
        turn += 1
    rows = [
        {
            "way": way,
            "ms a frame": 1000 * min(times),
            "x": median(plain / own for plain, own in zip(taken[PLAIN], times, strict=True)),
            "turns": turn,
        }
        for way, times in taken.items()
    ]
    print(_record.table(rows), file=sys.stderr, flush=True)
    return rows


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Return processor time and time that passes of ``work``."""
    started = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - started[0], time.perf_counter() - started[1]


def whole_file(path: Path, folder: Path, turns: int) -> dict[str, Any]:
    """Compare decoding alone, with writing y4m, and decoding every fourth frame."""

    def play(step: int) -> None:
        with vinr.open(path, device="cpu") as video:
            for _ in video.play(range(0, len(video), step)):
                pass

    rows = []
    for _ in range(turns):
        alone, quarter = timed(lambda: play(1)), timed(lambda: play(4))
        written = timed(lambda: decode_to(str(path), str(folder / "a.y4m"), device="cpu", force=True))
        rows.append((alone, quarter, written))
    return {
        "a quarter of the frames / all": median(quarter[0] / alone[0] for alone, quarter, _ in rows),
        "y4m rate / network rate, time that passes": median(a[1] / w[1] for a, _, w in rows),
        "processor time of network / of all for y4m": median(a[0] / w[0] for a, _, w in rows),
    }


def first_frame(path: Path) -> dict[str, Any]:
    """Measure opening a file and showing a frame, against showing another."""
    video = vinr.open(path, device="cpu")
    first = timed(lambda: video[0])
    again = min(timed(lambda index=index: video[index]) for index in (40, 80, 120))  # type: ignore[misc]
    return {"first frame s": first[0], "one forward pass s": again[0], "beyond it s": first[0] - again[0]}


def measure(threads: int, seconds: float, ways: Sequence[str]) -> list[dict[str, Any]]:
    """Measure everything on ``threads`` threads."""
    torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for preset in list(SIZES)[:2]:
            path = random_file(preset, 132, folder)
            rows += [
                {"network": preset, "threads": threads, **row} for row in network_rates(path, seconds, ways)
            ]
        if threads == 1:
            for preset, num_frames, turns in (("hnerv-0.19m-bunny4", 132, 3), ("hnerv-1.5m-bunny", 16, 1)):
                found = whole_file(random_file(preset, num_frames, folder), folder, turns)
                rows += [{"network": preset, "threads": 1, "what": what, "x": x} for what, x in found.items()]
            found = first_frame(random_file("hnerv-3m-bunny", 132, folder))
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
    ways = [list(WAYS)[int(number)] for number in given.ways.split(",")]
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
