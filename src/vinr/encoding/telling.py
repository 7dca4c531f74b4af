"""Tells the events of jobs that run several at a time, each with the name of its job."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vinr.fit import Event, JobEnded, Noted, OfJob
from vinr.scale.pool import WorkerDied


class Teller:
    """Tells ``on_event`` of jobs, which have ``names``."""

    def __init__(self, names: Sequence[str], on_event: Callable[[Event], None]) -> None:
        self._names, self._on_event = names, on_event

    def __call__(self, number: int, event: Event | WorkerDied) -> None:
        """Tell an event of job ``number``."""
        if isinstance(event, WorkerDied):
            event = Noted(f"its worker died ({event.reason}); another one goes on")
        self._on_event(OfJob(number, len(self._names), self._names[number], event))

    def end(self, number: int) -> None:
        """Tell that job ``number`` is done."""
        self._on_event(JobEnded(number, len(self._names), self._names[number]))
