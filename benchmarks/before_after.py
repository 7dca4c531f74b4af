"""Speed before and after a change: a training step and decoding, measured from two source trees.

    python benchmarks/before_after.py OLD_TREE NEW_TREE

Each tree runs in a process of its own, on one thread. A turn measures old, new, new and old, so that a
machine that slows down favours neither. A measurement fits a network to the same frames with the same seed,
or plays the same file; times are user CPU time, which leaves out what other programs take. "ratio" is the
median over the turns of new over old. "same result" compares hashes of the fitted parameters, or of the
decoded frames.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, median
from typing import Any

# The workers import only what both trees have: public names that a rebuild keeps.
SIZES = {"hnerv-0.19m-bunny4": (160, 320), "hnerv-1.5m-bunny": (640, 1280)}
NUM_FRAMES = 8
# Epochs that are counted, after one that is not: it finds the memory.
EPOCHS = {"hnerv-0.19m-bunny4": 2, "hnerv-1.5m-bunny": 1}
# Times that the file is played per turn.
PLAYS = {"hnerv-0.19m-bunny4": 4, "hnerv-1.5m-bunny": 1}
RECIPES = {"paper": ["fit.recipe=paper"], "vinr": ["fit.phases=[]"]}


# -- in the process of a tree --------------------------------------------------------------------------------


def work() -> None:
    """Answer each line of the standard input, a measurement as JSON, by a line with its result."""
    import torch

    torch.set_num_threads(1)
    measurements = {
        "package": find_package,
        "file": write_file,
        "step": measure_step,
        "decode": measure_decoding,
    }
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(measurements[name](**arguments)), flush=True)


def find_package() -> dict[str, Any]:
    """Return where vinr was loaded from."""
    import vinr

    return {"path": vinr.__file__}


def user_seconds() -> float:
    """Return the user CPU time of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def fit_noise(preset_name: str, overrides: list[str], epochs: int) -> tuple[Any, float]:
    """Fit frames of noise: time depends on none. Return the result, and CPU seconds after the first epoch."""
    import torch

    import vinr.fit
    from vinr.config import load_preset
    from vinr.video.source import FrameTensor
    from vinr.video.spec import VideoSpec

    height, width = SIZES[preset_name]
    generator = torch.Generator().manual_seed(0)
    rgb_NCHW = torch.randint(255, (NUM_FRAMES, 3, height, width), dtype=torch.uint8, generator=generator)
    source = FrameTensor(rgb_NCHW, VideoSpec(NUM_FRAMES, height, width))
    preset = load_preset(preset_name, [*overrides, "fit.precision=fp32", f"fit.epochs={epochs}"])
    ends: list[float] = []
    result = vinr.fit.fit(source, preset, device="cpu", on_event=lambda event: ends.append(user_seconds()))
    return result, ends[-1] - ends[0]


def measure_step(preset_name: str, recipe: str) -> dict[str, Any]:
    """Return user CPU milliseconds per training step, and a hash of the parameters after the last one."""
    epochs = EPOCHS[preset_name]
    result, seconds = fit_noise(preset_name, RECIPES[recipe], epochs + 1)
    # All epochs have as many steps; the first one, whose end opens the list of ends, is not counted.
    steps = result.num_steps * epochs / (epochs + 1)
    digest = hashlib.blake2b(digest_size=16)
    for name, item in sorted(result.model.stored().items()):
        digest.update(name.encode())
        digest.update(item.value.detach().contiguous().numpy().tobytes())
    return {"ms": 1000 * seconds / steps, "hash": digest.hexdigest()}


def measure_decoding(preset_name: str, path: str) -> dict[str, Any]:
    """Return user CPU milliseconds per frame played, and a hash of the frames."""
    import vinr

    digest = hashlib.blake2b(digest_size=16)
    with vinr.open(path, device="cpu") as video:
        for rgb_NCHW in video.play():  # loads the network, and is not counted
            digest.update(rgb_NCHW.numpy().tobytes())
        started = user_seconds()
        for _ in range(PLAYS[preset_name]):
            for _rgb_NCHW in video.play():
                pass
        seconds = user_seconds() - started
    return {"ms": 1000 * seconds / (PLAYS[preset_name] * NUM_FRAMES), "hash": digest.hexdigest()}


def write_file(preset_name: str, path: str) -> dict[str, Any]:
    """Encode frames of noise in one epoch, for both trees to play: its speed is that of any other file."""
    import vinr

    height, width = SIZES[preset_name]
    clip = Path(path).with_suffix(".y4m")
    frame = b"FRAME\n" + os.urandom(3 * height * width)
    clip.write_bytes(f"YUV4MPEG2 W{width} H{height} F25:1 Ip C444\n".encode() + NUM_FRAMES * frame)
    vinr.encode(clip, path, preset=preset_name, epochs=1, device="cpu", overrides=RECIPES["vinr"])
    return {}


# -- in the process that compares ----------------------------------------------------------------------------


class Worker:
    """A process that measures with the package of one tree."""

    def __init__(self, tree: Path) -> None:
        source = tree.resolve() / "src"
        if not (source / "vinr").is_dir():
            sys.exit(f"{tree}: no source tree of vinr (src/vinr)")
        environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, "--work"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        loaded = Path(self.measure("package")["path"])
        if not loaded.is_relative_to(source):
            sys.exit(f"{tree}: loads vinr from {loaded}; uninstall it, or run with another Python")

    def measure(self, name: str, **arguments: str) -> dict[str, Any]:
        """Return the result of one measurement."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([name, arguments]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{name} {arguments}: the process has ended with status {self._process.wait()}")
        measured: dict[str, Any] = json.loads(line)
        return measured


def compare(old: Worker, new: Worker, turns: int, name: str, **arguments: str) -> dict[str, Any]:
    """Return one row: both times and their ratio, each the median of all turns."""
    old_ms, new_ms, ratios, hashes = [], [], [], set()
    for _ in range(turns):
        times: dict[Worker, list[float]] = {old: [], new: []}
        for worker in (old, new, new, old):
            measured = worker.measure(name, **arguments)
            times[worker].append(measured["ms"])
            hashes.add(measured["hash"])
        old_ms.append(mean(times[old]))
        new_ms.append(mean(times[new]))
        ratios.append(new_ms[-1] / old_ms[-1])
        print(f"{name} {arguments}: {ratios[-1]:.3f}", file=sys.stderr, flush=True)
    return {
        "old ms": median(old_ms),
        "new ms": median(new_ms),
        "ratio": median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "same result": "yes" if len(hashes) == 1 else "no",
    }


def main() -> None:
    """Measure both trees, and write the page of results where it is asked for."""
    if sys.argv[1:] == ["--work"]:
        work()
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("old", type=Path, help="source tree before the change")
    parser.add_argument("new", type=Path, help="source tree after it")
    parser.add_argument("--turns", type=int, default=5, help="measurements of each tree")
    parser.add_argument("--presets", nargs="+", choices=SIZES, default=list(SIZES), help="networks")
    parser.add_argument("--write", action="store_true", help="write docs/results/before-after.md")
    options = parser.parse_args()
    old, new = Worker(options.old), Worker(options.new)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for preset_name in options.presets:
            path = str(Path(folder) / f"{preset_name}.vinr")
            old.measure("file", preset_name=preset_name, path=path)
            row = compare(old, new, options.turns, "decode", preset_name=preset_name, path=path)
            rows.append({"network": preset_name, "measured": "frame decoded", **row})
            for recipe in RECIPES:
                row = compare(old, new, options.turns, "step", preset_name=preset_name, recipe=recipe)
                rows.append({"network": preset_name, "measured": f"step, recipe {recipe}", **row})
    import _record

    table = _record.table(rows)
    print(table)
    if options.write:
        settings = {"turns": options.turns, "num_frames": NUM_FRAMES, "epochs": EPOCHS, "plays": PLAYS}
        command = "python benchmarks/before_after.py OLD_TREE NEW_TREE --write"
        text = __doc__.partition("\n\n    ")[0] + "\n\n" + __doc__.rpartition("OLD_TREE NEW_TREE\n\n")[2]
        _record.write("before-after", command, settings, rows, f"{text}\n{table}")


if __name__ == "__main__":
    main()
