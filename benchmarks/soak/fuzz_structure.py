"""Changes files in their structure, checksums made to fit: refused in a word, or frames; nothing else.

The files are of all models, with sound, times, keyframes, several clips and networks, and bombs made by
hand: small files that ask for much work or memory. Each execution opens the file as ``vinr info``, ``vinr
decode`` (up to the first frame) and ``vinr verify`` do. Each must end in an error of ``vinr.errors`` or
well. Anything else is a finding: another exception, the end of the process, more than 5 processor seconds a
step, more than 300 MB; for each byte of the file 1 ms and 16 KiB more, since larger files may ask for more
(docs/format.md, 8).

Executions are numbered; the number and the seed decide everything: ``--only NUMBER`` repeats one. The first
executions are the bombs as they are.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import Any

import torch
from _files import Parts, bombs, seeds, take_apart
from _mutations import KINDS, mutate
from _soak import (
    append_row,
    forked,
    in_parallel,
    kept,
    loaded,
    read_rows,
    report_findings,
    rows_to_report,
    wait_for,
)

from vinr.bitstream import Container
from vinr.decoding import describe, playback
from vinr.decoding.file import VinrFile, open_clip
from vinr.errors import BitstreamError, VinrError

BLOCK = 500
CPU_SECONDS, MEMORY_MB = 5.0, 300
CPU_SECONDS_A_BYTE, MEMORY_MB_A_BYTE = 0.001, 1 / 64
# What a process may have at all, beyond what it has: so much is asked for at once that nothing else stops it.
ADDRESS_SPACE = 3 * 2**30
# One execution in so many is of a bomb that is changed; all its steps are those of the command line.
BOMB_SHARE, WHOLE_SHARE = 0.005, 0.05
# Networks that are read and decoded in a fifth of the time of others are drawn more often.
QUICK, QUICK_WEIGHT = ("hinerv", "hnerv", "nerv", "cnerv", "times and sound"), 6
OUTCOMES = ("refused at opening", "refused later", "same frame", "other frame", "finding")
STATE = Struct("<q16s")


@dataclass(frozen=True)
class Corpus:
    """Files to change: their bytes, their parts, and digests of the first frames of valid ones."""

    files: Mapping[str, bytes]
    parts: Mapping[str, Parts]
    bombs: Mapping[str, bytes]
    bomb_parts: Mapping[str, Parts]
    frames: Mapping[str, bytes]


class Stopped(Exception):  # noqa: N818 - no error: the first frame is enough
    """Ends a decode."""


@dataclass
class Found:
    """What an execution came to."""

    outcome: str
    step: str = ""
    what: str = ""
    trace: str = ""


@dataclass
class Worker:
    """Executes cases in a process; ``say`` is told which step a case is at, before it begins."""

    corpus: Corpus
    folder: Path
    seed: int
    say: Callable[[int, str], None]
    base_kb: int = field(default_factory=lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    def case(self, number: int) -> tuple[str, bytes, str, bool]:
        """Return kind, bytes and origin of execution ``number``, and whether commands are run as a whole."""
        names = list(self.corpus.bombs)
        if number < len(names):
            return "bombs as they are", self.corpus.bombs[names[number]], names[number], True
        rng = random.Random(f"{self.seed}/{number}")
        if names and rng.random() < BOMB_SHARE:
            name = rng.choice(sorted(self.corpus.bomb_parts))
            kind, data = mutate(self.corpus.bombs[name], self.corpus.bomb_parts[name], self.corpus.parts, rng)
            return "changed bombs", data, f"{name}, {kind}", True
        names = list(self.corpus.files)
        weights = [QUICK_WEIGHT if name in QUICK else 1 for name in names]
        name = rng.choices(names, weights)[0]
        kind, data = mutate(self.corpus.files[name], self.corpus.parts[name], self.corpus.parts, rng)
        return kind, data, name, kind == "sound" or rng.random() < WHOLE_SHARE

    def execute(self, number: int, data: bytes, origin: str, *, whole: bool) -> Found:
        """Open, describe, decode and verify a file."""
        path = self.folder / "case.vinr"
        found = Found(OUTCOMES[3])
        digest = hashlib.sha256()

        def opening() -> None:
            with Container.open(data):
                path.write_bytes(data)

        def info() -> None:
            describe.info(path)

        def decode() -> None:
            with Container.open(data) as container:
                clip = container.header.clips[0]
            suffix = "mkv" if clip.has_audio else "y4m"
            target = self.folder / f"out.{suffix}"
            try:
                codec = "ffv1" if clip.has_audio and clip.num_frames < 100 else "x264"
                playback.decode(f"{path}#{clip.name}", str(target), codec=codec, force=True, on_frame=_stop)
            except Stopped:
                pass

        def frame_and_verify() -> None:
            with VinrFile.open(data) as file:
                decoder = file.clip(file.clip_names[0])
                digest.update(decoder[0].numpy().tobytes())
                decoder[len(decoder) - 1]
                damaged = file.verify().damaged
            if damaged:
                raise BitstreamError(damaged[0])

        steps: list[tuple[str, Callable[[], Any]]] = [("opening", opening), ("info", info)]
        if whole:
            steps += [("decode", decode), ("verify", lambda: playback.verify(path))]
        else:
            steps += [("frame and verify", frame_and_verify)]
        for name, step in steps:
            self.say(number, name)
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS + CPU_SECONDS_A_BYTE * len(data))
            try:
                step()
            except VinrError:
                return Found(OUTCOMES[0] if name == "opening" else OUTCOMES[1], name)
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                return Found("finding", name, what, traceback.format_exc())
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self.base_kb) // 1024
            if grown > MEMORY_MB + MEMORY_MB_A_BYTE * len(data):
                return Found("finding", name, f"{grown} MB")
        if digest.digest() == self.corpus.frames.get(origin):
            found.outcome = OUTCOMES[2]
        return found


def _stop(done: int, total: int) -> None:
    raise Stopped


# -- blocks of executions ------------------------------------------------------------------------------------


def run_block(first: int, given: argparse.Namespace, corpus: Corpus, folder: Path) -> dict[str, Any]:
    """Run a block of executions in children, each of which lives until something is found."""
    folder.mkdir(parents=True, exist_ok=True)
    shared = mmap.mmap(-1, STATE.size + 8 * len(OUTCOMES) * (len(KINDS) + 2))
    kinds = [*KINDS, "bombs as they are", "changed bombs"]
    last = min(first + BLOCK, given.count)
    started = time.monotonic()
    cpu_seconds, findings, number = 0.0, 0, first
    while number < last:
        child = forked(lambda start=number: _run_some(start, last, given, corpus, folder, shared, kinds))
        ended = wait_for(child, 600.0)
        cpu_seconds += ended.cpu_seconds
        reached, step = STATE.unpack_from(shared)
        if ended.status == 0:
            break
        if ended.status != FOUND:
            what = "too many processor seconds"
            if ended.status != -signal.SIGPROF:
                what = "does not end" if ended.timed_out else f"the process ends with {ended.status}"
            worker = Worker(corpus, folder, given.seed, lambda *_: None)
            kind, data, origin, _ = worker.case(reached)
            keep(given, reached, kind, origin, data, Found("finding", step.rstrip(b"\0").decode(), what))
            _count(shared, kinds, kind, "finding")
        findings += 1
        number = reached + 1
    counts = memoryview(shared)[STATE.size :].cast("q").tolist()
    table = [counts[row : row + len(OUTCOMES)] for row in range(0, len(counts), len(OUTCOMES))]
    named = {kind: dict(zip(OUTCOMES, row, strict=True)) for kind, row in zip(kinds, table, strict=True)}
    return {
        "first": first,
        "last": last,
        "seed": given.seed,
        "seconds": time.monotonic() - started,
        "cpu seconds": cpu_seconds,
        "findings": findings,
        "counts": named,
    }


FOUND = 77


def _count(shared: mmap.mmap, kinds: Sequence[str], kind: str, outcome: str) -> None:
    place = kinds.index(kind) * len(OUTCOMES) + OUTCOMES.index(outcome)
    memoryview(shared)[STATE.size :].cast("q")[place] += 1


def _run_some(
    start: int,
    last: int,
    given: argparse.Namespace,
    corpus: Corpus,
    folder: Path,
    shared: mmap.mmap,
    kinds: Sequence[str],
) -> int:
    """Run executions until one is a finding; the child's end tells the parent."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, used + ADDRESS_SPACE))
    worker = Worker(corpus, folder, given.seed, lambda *at: STATE.pack_into(shared, 0, at[0], at[1].encode()))
    for number in range(start, last):
        worker.say(number, "making")
        kind, data, origin, whole = worker.case(number)
        found = worker.execute(number, data, origin, whole=whole)
        _count(shared, kinds, kind, found.outcome)
        if found.outcome == "finding":
            keep(given, number, kind, origin, data, found)
            return FOUND
    return 0


def keep(given: argparse.Namespace, number: int, kind: str, origin: str, data: bytes, found: Found) -> None:
    """Save a finding: a row, and the file where it is the first of its sort."""
    place = [line.strip() for line in found.trace.splitlines() if "/vinr/" in line]
    row = {
        "number": number,
        "seed": given.seed,
        "kind": kind,
        "origin": origin,
        "step": found.step,
        "what": found.what,
        "place": place[-1].partition("/vinr/")[2] if place else "",
        "bytes": len(data),
        "trace": found.trace[-3000:],
    }
    append_row(given.rows / "findings.jsonl", row)
    (given.rows / f"finding-{given.seed}-{number}.vinr").write_bytes(data)


# -- all of them ---------------------------------------------------------------------------------------------


def make_corpus(given: argparse.Namespace) -> Corpus:
    """Return what is changed; it takes a minute to make and is kept by commit."""
    name = f"corpus-{'-'.join(given.models) or 'all'}{'-no-bombs' if given.no_bombs else ''}"
    files, dangerous = kept(
        given.work, name, lambda: (seeds(given.work, given.models), {} if given.no_bombs else bombs())
    )
    frames = {}
    for name, data in files.items():
        # Each model once in this process, so that what is loaded at first use is not counted.
        with VinrFile.open(data) as file:
            first = file.clip(file.clip_names[0])[0]
            frames[name] = hashlib.sha256(first.numpy().tobytes()).digest()
        path = given.work / "warm.vinr"
        path.write_bytes(data)
        describe.info(path)
    with open_clip(next(iter(files.values()))) as decoder:
        next(decoder.play())
    bomb_parts = {}
    for name, data in dangerous.items():
        # Those that cannot be taken apart are not changed; large ones would be slow to change.
        if len(data) < 200_000 and not name.startswith("header"):
            bomb_parts[name] = take_apart(data)
    parts = {name: take_apart(data) for name, data in files.items()}
    return Corpus(files, parts, dangerous, bomb_parts, frames)


def run_all(given: argparse.Namespace) -> None:
    """Run the blocks that have no row yet."""
    given.work.mkdir(parents=True, exist_ok=True)
    given.rows.mkdir(parents=True, exist_ok=True)
    corpus = make_corpus(given)
    if given.only is not None:
        repeat(given, corpus)
        return
    rows = read_rows(given.rows / "blocks.jsonl")
    done = {row["first"] for row in rows if row["seed"] == given.seed}
    waiting = [first for first in range(0, given.count, BLOCK) if first not in done]
    stop = time.monotonic() + given.seconds if given.seconds else float("inf")

    def work(job: int) -> None:
        for first in waiting[job :: given.jobs]:
            if time.monotonic() > stop:
                break
            row = run_block(first, given, corpus, given.work / f"job-{job}")
            append_row(given.rows / "blocks.jsonl", row)
            print(f"{first}: {BLOCK / row['seconds']:.0f}/s, {row['findings']} findings", flush=True)

    with loaded(given.hogs):
        in_parallel(given.jobs, work)


def repeat(given: argparse.Namespace, corpus: Corpus) -> None:
    """Run one execution in this process, without limits but that of processor time, and print all of it."""
    worker = Worker(
        corpus, given.work, given.seed, lambda number, step: print(f"{number}: {step}", flush=True)
    )
    kind, data, origin, whole = worker.case(given.only)
    print(f"{kind} of {origin}, {len(data)} bytes")
    found = worker.execute(given.only, data, origin, whole=whole)
    print(found.outcome, found.what, found.trace, sep="\n")


def write_report(given: argparse.Namespace) -> None:
    """Write docs/results/soak/fuzz-structure.*."""
    rows = rows_to_report(given.rows / "blocks.jsonl")
    table = []
    for kind in rows[0]["counts"]:
        counted = {name: sum(row["counts"][kind][name] for row in rows) for name in OUTCOMES}
        table.append({"changed": kind, "executions": sum(counted.values())} | counted)
    seconds = sum(row["cpu seconds"] for row in rows)
    total = sum(row["executions"] for row in table)
    report_findings(
        "fuzz-structure",
        {
            "CPU seconds": (CPU_SECONDS, CPU_SECONDS_A_BYTE),
            "MB": (MEMORY_MB, MEMORY_MB_A_BYTE),
            "seeds": sorted({row["seed"] for row in rows}),
        },
        table,
        [_finding_of(row) for row in read_rows(given.rows / "findings.jsonl")],
        about=__doc__ or "",
        facts=f"{total} executions, {seconds:.0f} CPU seconds: {total / max(seconds, 1e-9):.0f} a second.",
        title="Findings",
    )


def _finding_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a finding is, and where one like it is met."""
    case = f"{row['kind']} of {row['origin']}, {row['bytes']} bytes"
    what = f"{row['step']}: {_sort_of(row)} {row['place']}"
    return what, f"seed {row['seed']}, number {row['number']}: {case}"


def _sort_of(row: Mapping[str, Any]) -> str:
    """Return what a finding is, without its numbers."""
    return "".join("#" if letter.isdigit() else letter for letter in row["what"])[:120]


def main() -> None:
    """Run what is not there yet, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="executions")
    parser.add_argument("--only", type=int, help="repeat the execution of this number and print what happens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", nargs="*", default=[], help="files of these models only")
    parser.add_argument("--no-bombs", action="store_true", help="no bombs")
    parser.add_argument("--jobs", type=int, default=1, help="blocks of executions at the same time")
    parser.add_argument("--hogs", type=int, default=0, help="busy processes beside them")
    parser.add_argument("--seconds", type=float, help="start no block after so long; a later run goes on")
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/vinr-soak/structure"), help="folder for files"
    )
    parser.add_argument(
        "--rows", type=Path, default=Path("structure"), help="folder of what was found so far"
    )
    parser.add_argument("--report", action="store_true", help="write the results from the rows there are")
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("AV_LOG_FORCE_NOCOLOR", "1")
    sys.setrecursionlimit(1000)
    write_report(given) if given.report else run_all(given)


if __name__ == "__main__":
    main()
