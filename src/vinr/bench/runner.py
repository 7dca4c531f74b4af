"""Running jobs: each is run once, by one process, and kept as soon as it has ended.

::

    OUT/jobs/KEY.json      what a job measured, its settings, commit, machine; rows and recipes share jobs
    OUT/jobs/KEY.shown     frames that it keeps for pictures
    OUT/jobs/…             checkpoints, plain fits that jobs go on from, .vinr files
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from vinr.bench.base_fits import forget_base
from vinr.bench.experiments import experiment_of
from vinr.bench.pages import write_json
from vinr.bench.record import commit
from vinr.bench.work import SHOWN_SUFFIX, Job, OnPanels, Work
from vinr.comparison.machine import machine
from vinr.fit import Event, Noted
from vinr.scale.pool import OnEvent
from vinr.temporaries import try_lock


@dataclass(frozen=True)
class RunnerJob:
    """A job with what a runner in another process needs."""

    folder: Path
    data: Path | None
    device: str
    job: Job


def run_job(task: RunnerJob, again: bool, on_event: OnEvent) -> None:
    """Run a job in a worker, which shares the folder of results."""
    Runner(task.folder, task.data, task.device, on_event).run(task.job)


@dataclass(frozen=True)
class Runner:
    """Runs jobs that no process has run yet; results lie in ``folder``, clips below ``data``."""

    folder: Path
    data: Path | None
    device: str
    on_event: Callable[[Event], None]
    on_panels: OnPanels | None = None

    def run(self, job: Job) -> None:
        """Run ``job`` unless its result is there or another process is at it."""
        path = self.path(job)
        if self._has_ended(job):
            return
        with try_lock(self.path(job, ".lock")) as is_mine:
            if not is_mine:
                self.on_event(Noted(f"{job.key}: another process is working on it"))
            elif not self._has_ended(job):
                # Asked again under the lock: another process may have ended it in between.
                self._measure(job, path)

    def _work(self, job: Job) -> Work:
        return Work(job, self.data, self.folder, self.device, self.on_event, self.on_panels)

    def _measure(self, job: Job, path: Path) -> None:
        started = time.perf_counter()
        values = experiment_of(job.kind)(self._work(job))
        document = {
            "kind": job.kind,
            "clip": job.clip,
            "setup": job.setup.model_dump(mode="json", exclude_none=True),
            "device": self.device,
            "values": values,
            "seconds": time.perf_counter() - started,
            "date": date.today().isoformat(),
            "commit": commit(),
            "machine": machine(),
        }
        write_json(path, document)

    def read(self, job: Job) -> dict[str, Any] | None:
        """Return what a job measured and under which conditions, None if it has not ended."""
        if not self._has_ended(job):
            return None
        document: dict[str, Any] = json.loads(self.path(job).read_text(encoding="utf-8"))
        return document

    def forget(self, jobs: Sequence[Job]) -> None:
        """Remove the results of ``jobs`` on this device and the plain fits that they go on from.

        What another process is at is left to it.
        """
        for job in jobs:
            work = self._work(job)
            with try_lock(self.path(job, ".lock")) as is_mine:
                if is_mine:
                    work.forget()
                else:
                    self.on_event(Noted(f"{job.key}: another process is working on it; its result stays"))
            if is_mine and work.needs_base:
                forget_base(work.base_path())

    def _has_ended(self, job: Job) -> bool:
        # A result without its pictures is from a run that wanted none: the job runs again for them.
        return self.path(job).exists() and (not job.shown or self.path(job, SHOWN_SUFFIX).exists())

    def path(self, job: Job, suffix: str = ".json") -> Path:
        """Return where the result of a job lies, or what is kept beside it."""
        return self.folder / (job.result_name(self.device) + suffix)
