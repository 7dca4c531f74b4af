"""Segments that are fitted on workers, several at a time.

::

    plan ──> SegmentJob 0, 1, 2, … ──> workers ──> FOLDER/segment-%05d.safetensors   where they reach it
                                            └────> the file itself, to the driver    where they do not

What a segment becomes does not depend on the worker: on machines alike the file is that of a single process.
"""

from __future__ import annotations

import os
import socket
import time as clock
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from vinr.device import resolve_device
from vinr.encoding.assembly import FinishedSegment
from vinr.encoding.kept import find_kept, segment_path
from vinr.encoding.plan import EncodePlan, describe_threads
from vinr.encoding.segment_work import Allowance, SegmentWork
from vinr.encoding.splitting import makespan
from vinr.errors import InputError
from vinr.files import as_output_error, atomic_path
from vinr.fit import Event, JobEnded, Noted, OfJob
from vinr.fit.events import FREQUENT
from vinr.fit.precision import Precision, keep_precision, resolve_precision
from vinr.scale.pool import OnEvent, Pool, WorkerDied
from vinr.state.folder import holds_token
from vinr.temporaries import temporary_folder, try_lock
from vinr.video.edit import Edit
from vinr.video.reading import ReadOptions
from vinr.video.source import VideoReader, open_video

LOCK_SECONDS: Final = 0.5
OPEN_READERS: Final = 4


@dataclass(frozen=True)
class ClipSource:
    """How a worker opens an input again: the driver's edit and options, nothing left open."""

    path: str
    edit: Edit
    options: ReadOptions

    @classmethod
    def of(cls, path: str, reader: VideoReader) -> ClipSource:
        """Return the source of an input that the driver reads with ``reader``."""
        return cls(os.path.abspath(path), reader.edit, reader.options)


@lru_cache(OPEN_READERS)
def _opened(source: ClipSource, changed_ns: int) -> VideoReader:
    """Return a reader that a worker keeps open: looking through a long video takes a while.

    ``changed_ns`` tells a file from another one that took its place.
    """
    return open_video(source.path, edit=source.edit, options=source.options)


def _reader(source: ClipSource) -> VideoReader:
    try:
        changed_ns = os.stat(source.path).st_mtime_ns
    except OSError:
        place = f"on {socket.gethostname()}, where a worker runs"
        shared = "inputs must have the same path on all nodes, as in a folder that they share"
        raise InputError(f"{source.path}: is not there {place}; {shared}") from None
    return _opened(source, changed_ns)


@dataclass(frozen=True)
class SegmentJob:
    """The work on a segment, with what a worker needs for it.

    ``token`` tells the folder of the driver's state from another one of that name on another machine.
    ``seconds`` are the wall-clock time for everything; None where epochs are counted.
    """

    work: SegmentWork
    sources: dict[int, ClipSource]
    device: str
    seconds: float | None
    token: str


@dataclass(frozen=True)
class SegmentResult:
    """A finished segment; ``content`` is what was kept of it, where the driver's folder was out of reach."""

    segment: FinishedSegment
    content: bytes | None


def run_segment(job: SegmentJob, again: bool, on_event: OnEvent) -> SegmentResult:
    """Fit, code and measure a segment in a worker."""
    began = clock.monotonic()
    device = resolve_device(job.device)
    allowance = None if job.seconds is None else Allowance(job.seconds, began)
    readers = {number: _reader(source) for number, source in job.sources.items()}
    folder, number = job.work.folder, job.work.number
    if holds_token(folder, job.token):
        with _segment_locked(folder, number):
            segment = job.work.run(readers, device=device, allowance=allowance, on_event=on_event)
        return SegmentResult(segment, None)
    with temporary_folder("vinr-segment-") as own:
        work = replace(job.work, folder=own)
        segment = work.run(readers, device=device, allowance=allowance, on_event=on_event)
        content = None if segment.path is None else segment.path.read_bytes()
    return SegmentResult(segment, content)


@contextmanager
def _segment_locked(folder: Path, number: int) -> Iterator[None]:
    """Wait until no other worker is at the segment: one whose driver was killed lives on for some seconds."""
    lock = folder / f".{segment_path(folder, number).name}.0.lock"
    while True:
        with try_lock(lock) as is_mine:
            if is_mine:
                yield
                return
        clock.sleep(LOCK_SECONDS)


@dataclass(frozen=True)
class WorkerFacts:
    """What a worker computes with, and in which arithmetic."""

    device: str
    precision: Precision


def _describe_worker(job: tuple[str, str, str | None], again: bool, on_event: OnEvent) -> WorkerFacts:
    name, wanted, kept = job
    device = resolve_device(name)
    precision = resolve_precision(wanted, device)
    if kept is not None:
        precision = keep_precision(kept, precision, device)  # type: ignore[arg-type]
    return WorkerFacts(describe_threads(device), precision)


def describe_worker(pool: Pool, plan: EncodePlan, device: str, folder: Path, *, resume: bool) -> WorkerFacts:
    """Return the device of a worker in words, and the arithmetic for all fits: that of what is kept."""
    kept = find_kept(folder).precision if resume else None
    question = (device, plan.presets[0].fit.precision, kept)
    with closing(pool.run(_describe_worker, [question], on_event=lambda number, event: None)) as answers:
        return next(answers).value()


def fit_on_workers(
    pool: Pool,
    plan: EncodePlan,
    sources: Sequence[ClipSource],
    *,
    device: str,
    precision: Precision,
    folder: Path,
    token: str,
    started: float,
    on_event: Callable[[Event], None],
) -> list[FinishedSegment]:
    """Return all segments of a plan, fitted on the workers of ``pool``.

    ``started`` is the reading of ``time.monotonic()`` from which the time of the plan counts.
    """
    total = len(plan.jobs)
    jobs = []
    seconds = _share_seconds(plan, pool.num_slots, clock.monotonic() - started)
    for number, (job, allowed) in enumerate(zip(plan.jobs, seconds, strict=True)):
        # What is in the folder is of this encode alone: where there is state, a worker goes on from it.
        work = SegmentWork.of(plan, number, precision=precision, folder=folder.absolute(), resume=True)
        own = {span.clip: sources[span.clip] for span in job.spans}
        jobs.append(SegmentJob(work, own, device, allowed, token))

    def tell(number: int, event: Event | WorkerDied) -> None:
        if isinstance(event, WorkerDied):
            event = Noted(f"its worker died ({event.reason}); another one goes on")
        on_event(OfJob(number, total, f"segment {number + 1}", event))

    finished: list[FinishedSegment | None] = [None] * total
    with closing(pool.run(run_segment, jobs, on_event=tell, frequent=FREQUENT)) as results:
        for ended in results:
            finished[ended.number] = _kept_here(ended.value(), folder, ended.number, tell)
            on_event(JobEnded(ended.number, total, f"segment {ended.number + 1}"))
    return [segment for segment in finished if segment is not None]


def _kept_here(
    result: SegmentResult, folder: Path, number: int, tell: Callable[[int, Event], None]
) -> FinishedSegment:
    """Return a segment that lies in the driver's folder, also where its worker did not reach that."""
    if result.content is None:
        return result.segment
    path = segment_path(folder, number)
    with as_output_error(path), atomic_path(path, force=True) as temporary:
        temporary.write_bytes(result.content)
    return replace(result.segment, path=path)


def _share_seconds(plan: EncodePlan, num_slots: int, used: float) -> list[float | None]:
    """Return the wall-clock time of each segment, so that all of them together take that of the plan.

    ::

        worker 1   |-- 0 --|-- 2 --|--- 4 ---|       each takes time by its share of the pixels; the worker
        worker 2   |-- 1 --|-- 3 --|                 with the most of them takes all that is left
    """
    shares = [job.share for job in plan.jobs]
    if plan.seconds is None:
        return [None] * len(shares)
    left, longest = max(plan.seconds - used, 1.0), makespan(shares, num_slots)
    return [left * share / longest for share in shares]
