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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from vinr.config import Preset
from vinr.device import resolve_device
from vinr.encoding.assembly import FinishedSegment
from vinr.encoding.fits import Place
from vinr.encoding.foresee import Trial, slowest, try_network
from vinr.encoding.kept import segment_path
from vinr.encoding.plan import EncodePlan, describe_threads
from vinr.encoding.segment_work import Allowance, SegmentWork
from vinr.encoding.splitting import Job
from vinr.encoding.telling import Teller
from vinr.encoding.timetable import Timetable, sent
from vinr.errors import InputError, UsageError, argument
from vinr.files import as_output_error, atomic_path
from vinr.fit import Event, Noted
from vinr.fit.events import FREQUENT
from vinr.fit.precision import Precision, PrecisionName, keep_precision, resolve_precision
from vinr.scale.pool import Function, JobT, OnEvent, Pool, ResultT
from vinr.state.folder import holds_token
from vinr.temporaries import temporary_folder, waited_lock
from vinr.video.edit import Edit
from vinr.video.pipes import is_pipe
from vinr.video.reading import ReadOptions
from vinr.video.source import VideoReader, open_video

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


def reader_of(source: ClipSource) -> VideoReader:
    """Return the reader of an input in a worker.

    Raises
    ------
    InputError
        If the input is not there on the node of this worker.
    """
    try:
        changed_ns = os.stat(source.path).st_mtime_ns
    except OSError:
        place = f"on {socket.gethostname()}, where a worker runs"
        shared = "inputs must have the same path on all nodes, as in a folder that they share"
        raise InputError(f"{source.path}: is not there {place}; {shared}") from None
    return _opened(source, changed_ns)


def _readers(sources: Mapping[int, ClipSource]) -> dict[int, VideoReader]:
    return {number: reader_of(source) for number, source in sources.items()}


@dataclass(frozen=True)
class SegmentJob:
    """The work on a segment, with what a worker needs for it.

    ``token`` tells the folder of the driver's state from another one of that name on another machine.
    ``allowance`` is the time for everything, from when the worker begins; None where epochs are counted.
    """

    work: SegmentWork
    sources: dict[int, ClipSource]
    device: str
    allowance: Allowance | None
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
    allowance = None if job.allowance is None else replace(job.allowance, began=began)
    readers = _readers(job.sources)
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
    with waited_lock(folder / f".{segment_path(folder, number).name}.0.lock"):
        yield


def refuse_pipes(sources: Sequence[str]) -> None:
    """Refuse inputs that workers cannot open.

    Raises
    ------
    UsageError
        If one is a pipe.
    """
    for source in sources:
        if is_pipe(source):
            problem = "what came out of a pipe cannot be read again, and each worker reads the video itself"
            raise UsageError(f"{source}: {problem}; save the video as a file first")


# -- before the fits -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WorkerFacts:
    """What a worker computes with, and in which arithmetic."""

    device: str
    precision: Precision


def _describe_worker(
    job: tuple[str, str, PrecisionName | None], again: bool, on_event: OnEvent
) -> WorkerFacts:
    name, wanted, kept = job
    device = resolve_device(name)
    precision = resolve_precision(wanted, device)
    if kept is not None:
        precision = keep_precision(kept, precision, device)
    return WorkerFacts(describe_threads(device), precision)


@dataclass(frozen=True)
class TrialJob:
    """The first network of a plan, to be tried by a worker."""

    job: Job
    preset: Preset
    sources: dict[int, ClipSource]
    device: str
    precision: Precision


def _try_in_worker(job: TrialJob, again: bool, on_event: OnEvent) -> Trial:
    return try_network(job.job, job.preset, _readers(job.sources), resolve_device(job.device), job.precision)


# -- in the driver -------------------------------------------------------------------------------------------


class OnWorkers(Place):
    """Workers of ``pool``, which open the inputs themselves.

    Parameters
    ----------
    sources
        Those of all clips, in their order.
    device
        That of each worker: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    token
        Tells the folder of the driver's state from another one of that name.
    """

    def __init__(self, pool: Pool, sources: Sequence[ClipSource], device: str, token: str) -> None:
        self._pool, self._sources, self._token = pool, sources, token
        self._device = pool.workers.device(device)
        self._facts: WorkerFacts | None = None

    @property
    def num_slots(self) -> int:
        """How many workers run at a time."""
        return self._pool.num_slots

    @property
    def is_this_cpu(self) -> bool:
        """Never: each worker has a part of some machine."""
        return False

    def settle(self, plan: EncodePlan, kept: PrecisionName | None) -> Precision:
        """Return the arithmetic of all fits, asked of one worker."""
        question = (self._device, plan.presets[0].fit.precision, kept)
        self._facts = self._ask(_describe_worker, [question])[0]
        return self._facts.precision

    def attempt(self, plan: EncodePlan, precision: Precision) -> Trial:
        """Try the first network on as many workers at once as will be at work; the slowest counts."""
        job = TrialJob(plan.jobs[0], plan.presets[0], self._sources_of(plan.jobs[0]), self._device, precision)
        return slowest(self._ask(_try_in_worker, [job] * min(self.num_slots, len(plan.jobs))))

    def run(
        self,
        plan: EncodePlan,
        timetable: Timetable | None,
        *,
        precision: Precision,
        folder: Path,
        resume: bool,
        on_event: Callable[[Event], None],
    ) -> list[FinishedSegment]:
        """Fit all networks."""
        total, jobs = len(plan.jobs), []
        if total == 1:
            on_event(Noted(f"one worker fits the one network; {argument('segment', '5s')} makes several"))
        for number, job in enumerate(plan.jobs):
            # What is in the folder is of this encode alone: where there is state, a worker goes on from it.
            work = SegmentWork.of(plan, number, precision=precision, folder=folder.absolute(), resume=True)
            jobs.append(SegmentJob(work, self._sources_of(job), self._device, None, self._token))

        def timed(job: SegmentJob) -> SegmentJob:
            if timetable is None:
                return job
            return replace(job, allowance=sent(timetable.allowance(job.work.number)))

        tell = Teller([f"segment {number + 1}" for number in range(total)], on_event)
        finished: dict[int, FinishedSegment] = {}
        results = self._pool.run(run_segment, jobs, on_event=tell, frequent=FREQUENT, prepare=timed)
        with closing(results):
            for ended in results:
                finished[ended.number] = _kept_here(ended.value(), folder, ended.number, tell)
                tell.end(ended.number)
        return [finished[number] for number in range(total)]

    def _sources_of(self, job: Job) -> dict[int, ClipSource]:
        return {span.clip: self._sources[span.clip] for span in job.spans}

    def _ask(self, function: Function[JobT, ResultT], jobs: Sequence[JobT]) -> list[ResultT]:
        """Return what workers answer, whose events are of no interest."""
        with closing(self._pool.run(function, jobs, on_event=lambda number, event: None)) as answers:
            return [ended.value() for ended in answers]

    def __str__(self) -> str:
        device = "" if self._facts is None else f" of {self._facts.device}"
        return f"{self._pool.workers}{device}"


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
