"""Whether threads and forked processes that share one decoder get the right frames.

Networks of random numbers, tiny, of all models; a file of six networks; one whose convolutions are computed
after a transform; one with keyframes and sound. 8 threads read 500 random frames each, half of them while
Python changes threads every 5 ms (its default), half while it does every 10 µs ("fast threads"); then 8
forked processes read 200 each. Every frame is compared, bit for bit, with that of a decoder that one thread
had for itself. Afterwards the same decoder gives all frames once more, to this process alone. "errors" are
calls that raised; a process that does not end within ten minutes counts as one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "tests")]

import torch  # noqa: E402

import _record  # noqa: E402
import vinr  # noqa: E402
from random_files import random_file  # noqa: E402
from vinr.models import list_models  # noqa: E402
from vinr.video.spec import Audio, VideoSpec  # noqa: E402

NUM_FRAMES, HEIGHT, WIDTH = 24, 16, 24
INTERVALS = {"threads": 5e-3, "fast threads": 1e-5}
LIMIT_SECONDS = 600.0
SOUND = bytes(range(256)) * 40


@dataclass(frozen=True)
class Case:
    """A file to share."""

    title: str
    make: Callable[[Path], Path]
    has_sound: bool = False


def cases() -> list[Case]:
    """Return what is measured, in order."""
    video = VideoSpec(NUM_FRAMES, HEIGHT, WIDTH)
    large = VideoSpec(NUM_FRAMES, 48, 64)

    def of_model(name: str) -> Callable[[Path], Path]:
        return lambda path: random_file(path, video, name=name)

    return [
        Case("six networks", lambda path: random_file(path, video, lengths=(4,) * 6)),
        Case("transformed convolutions", lambda path: random_file(path, large)),
        Case(
            "keyframes and sound",
            lambda path: random_file(path, video, name="dnerv_diverse", lengths=(8, 16), audio=SOUND),
            has_sound=True,
        ),
        *(Case(name, of_model(name)) for name in list_models()),
    ]


class Reader:
    """Reads random frames of a shared decoder and counts what comes."""

    def __init__(self, video: vinr.VideoDecoder, frames: torch.Tensor, *, has_sound: bool) -> None:
        self._video, self._frames, self._has_sound = video, frames, has_sound
        self.counts: Counter[str] = Counter()

    def read(self, seed: int, count: int) -> None:
        """Read frames ``count`` times, every twentieth time three of them, and the sound."""
        generator = random.Random(seed)
        for number in range(count):
            chosen = [generator.randrange(len(self._video)) for _ in range(1 if number % 20 else 3)]
            self.look_at(chosen)

    def look_at(self, chosen: list[int]) -> None:
        """Compare frames with those that are right."""
        self.counts["frames"] += len(chosen)
        try:
            found = self._video.frames_at(chosen).rgb_NCHW
            audio = self._video.audio() if self._has_sound and len(chosen) > 1 else Audio(SOUND)
        except Exception as error:  # whatever it is, it is counted
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            self.counts["errors"] += 1
            return
        if not torch.equal(found, self._frames[chosen]) or audio != Audio(SOUND):
            self.counts["wrong"] += 1


def in_threads(new_reader: Callable[[], Reader], num_threads: int, count: int) -> Counter[str]:
    """Let threads read at the same time."""
    readers = [new_reader() for _ in range(num_threads)]
    threads = [Thread(target=reader.read, args=(seed, count)) for seed, reader in enumerate(readers, start=1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum((reader.counts for reader in readers), Counter())


def in_forks(new_reader: Callable[[], Reader], num_forks: int, count: int) -> Counter[str]:
    """Let forked processes read at the same time."""
    children = [_fork(new_reader, seed, count) for seed in range(num_forks)]
    return sum((_result(process, pipe) for process, pipe in children), Counter())


def _fork(new_reader: Callable[[], Reader], seed: int, count: int) -> tuple[int, int]:
    receiving, sending = os.pipe()
    process = os.fork()
    if process:
        os.close(sending)
        return process, receiving
    try:
        reader = new_reader()
        reader.read(100 + seed, count)
        os.write(sending, json.dumps(reader.counts).encode())
    finally:
        os._exit(0)


def _result(process: int, pipe: int) -> Counter[str]:
    ready, _, _ = select.select([pipe], [], [], LIMIT_SECONDS)
    if not ready:
        os.kill(process, signal.SIGKILL)
    text = os.read(pipe, 65536)
    os.close(pipe)
    os.waitpid(process, 0)
    return Counter(json.loads(text)) if text else Counter(errors=1)


@contextmanager
def switching(seconds: float) -> Iterator[None]:
    """Let Python change threads so often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def measure(case: Case, folder: Path, per_thread: int, per_fork: int) -> dict[str, Any]:
    """Share one file's decoder in every way; return a row of counts."""
    path = case.make(folder / f"{case.title}.vinr")
    with vinr.open(path, device="cpu") as alone:
        frames = torch.stack(list(alone))
    start = time.monotonic()
    with vinr.open(path, device="cpu") as video:

        def new_reader() -> Reader:
            return Reader(video, frames, has_sound=case.has_sound)

        found = {}
        for kind, seconds in INTERVALS.items():
            with switching(seconds):
                found[kind] = in_threads(new_reader, 8, per_thread // 2)
        with switching(INTERVALS["fast threads"]):
            found["forks"] = in_forks(new_reader, 8, per_fork)
        after = new_reader()
        for index in range(len(video)):
            after.look_at([index])
        found["afterwards"] = after.counts
    row: dict[str, Any] = {"file": case.title}
    for kind, counts in found.items():
        row |= {f"{kind}: {what}": counts[what] for what in ("frames", "errors", "wrong")}
    print(f"{time.monotonic() - start:.0f} s {row}", flush=True)
    return row


def _share(row: dict[str, Any], kind: str) -> str:
    return f"{row[f'{kind}: errors']} / {row[f'{kind}: wrong']} of {row[f'{kind}: frames']}"


def report(rows: list[dict[str, Any]], settings: dict[str, Any]) -> None:
    """Write the results."""
    kinds = [*INTERVALS, "forks", "afterwards"]
    shown = [{"file": row["file"]} | {kind: _share(row, kind) for kind in kinds} for row in rows]
    columns = "Errors / wrong frames of all frames that were read:"
    text = f"{__doc__}\n{columns}\n\n{_record.table(shown)}"
    _record.write(
        "soak/threads-and-forks", "python benchmarks/soak/threads_and_forks.py", settings, rows, text
    )


def main() -> None:
    """Measure all files, or some; finished rows are kept in a folder, so that processes share the work."""
    parser = argparse.ArgumentParser(description=__doc__)
    _record.row_options(parser, "threads-and-forks")
    parser.add_argument("--per-thread", type=int, default=500, help="times that each of 8 threads reads")
    parser.add_argument("--per-fork", type=int, default=200, help="times that each of 8 processes reads")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.rows.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate([] if given.report else cases()):
            kept = given.rows / f"{number:02d}.json"
            try:
                kept.touch(exist_ok=False)
            except FileExistsError:
                continue  # finished, or another process is at it
            row = measure(case, Path(folder), given.per_thread, given.per_fork)
            kept.write_text(json.dumps(row))
    rows = _record.rows_in(given.rows)
    if len(rows) == len(cases()):
        settings = {"num_frames": NUM_FRAMES, "height": HEIGHT, "width": WIDTH}
        report(rows, settings | {"per_thread": given.per_thread, "per_fork": given.per_fork})


if __name__ == "__main__":
    main()
