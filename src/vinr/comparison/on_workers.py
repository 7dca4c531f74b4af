"""Points of a comparison that are measured on workers, several at a time.

::

    PointTask 0, 1, 2, … ──> workers ──> PAGE.html.partial/, PAGE-files/   points, networks, as in one process
                                └──────> the points, to the driver

All of them reach the folder of the page.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from os import path
from pathlib import Path
from typing import Any

from vinr.comparison.kept import KeptWork
from vinr.comparison.plan import ComparedFile, FitJob
from vinr.comparison.points import Measured, PointJob
from vinr.comparison.runs import Runner, Setup
from vinr.encoding.on_workers import ClipSource, reader_of
from vinr.encoding.telling import Teller
from vinr.errors import OutputError
from vinr.fit import Event, Noted, OfJob
from vinr.fit.events import FREQUENT
from vinr.scale.pool import OnEvent, open_pool
from vinr.scale.workers import Workers
from vinr.state.folder import StateFolder, holds_token
from vinr.video.source import VideoReader


@dataclass(frozen=True)
class Place:
    """Where a comparison is: its video, and the folder of its state, which ``token`` tells from others.

    ``video`` describes the frames, so that no worker has to read all of them for that.
    """

    clip: ClipSource
    folder: Path
    token: str
    video: Mapping[str, Any]


@dataclass(frozen=True)
class PointTask:
    """A point with what a worker needs to measure it; all paths are absolute."""

    job: PointJob
    setup: Setup
    place: Place


def run_point(task: PointTask, again: bool, on_event: OnEvent) -> Measured:
    """Measure a point in a worker; what another one had begun is gone on with."""
    place = task.place
    if not holds_token(place.folder, place.token):
        raise OutputError(
            f"{place.folder}: cannot be reached from {socket.gethostname()}, where a worker runs; write the "
            "page to a folder that all nodes share"
        )
    kept = KeptWork(place.folder, lambda: place.video, lambda text: on_event(Noted(text)))
    return Runner(task.setup, reader_of(place.clip), kept).run(task.job, on_event)


def measure_on(
    workers: Workers,
    jobs: Sequence[PointJob],
    setup: Setup,
    reader: VideoReader,
    kept: KeptWork,
    state: StateFolder,
    *,
    on_event: Callable[[int, Event], None],
    tell: Callable[[Event], None],
) -> Generator[tuple[int, Measured]]:
    """Yield the points of ``jobs`` with their numbers, as they are measured on ``workers``.

    ``on_event`` takes events with the numbers of their points, ``tell`` the same as those of jobs.
    """
    clip = ClipSource.of(setup.source, reader)
    place = Place(clip, state.folder.absolute(), state.token, dict(kept.video()))
    own = replace(setup, source=clip.path, folder=setup.folder.absolute())
    order = order_of(jobs)
    tasks = [PointTask(_absolute(jobs[number]), own, place) for number in order]

    def hear(event: Event) -> None:
        tell(event)
        if isinstance(event, OfJob):
            on_event(order[event.number], event.event)

    teller = Teller([jobs[number].name for number in order], hear)
    with (
        open_pool(workers) as pool,
        closing(pool.run(run_point, tasks, on_event=teller, frequent=FREQUENT)) as ends,
    ):
        for ended in ends:
            yield order[ended.number], ended.value()
            teller.end(ended.number)


def order_of(jobs: Sequence[PointJob]) -> list[int]:
    """Return in which order points begin: of the networks, which come last, the largest first.

    Else the longest fit might begin when all others end, and one worker be at work on it alone.
    """
    numbers = range(len(jobs))
    fits = [number for number in numbers if isinstance(jobs[number].work, FitJob)]
    return [*(number for number in numbers if number not in fits), *reversed(fits)]


def _absolute(job: PointJob) -> PointJob:
    """Return the job with the whole path of its file: a worker may be in another folder."""
    work = job.work
    if not isinstance(work, ComparedFile) or isinstance(work.source, bytes):
        return job
    return replace(job, work=replace(work, source=path.abspath(work.source)))
