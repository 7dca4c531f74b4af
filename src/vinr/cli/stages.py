"""Where work stands: its stage, or jobs that run several at a time, each in a stage of its own.

::

    StageBegun, StepDone, RoundDone, FramesDone ─> Stage
    OfJob, JobEnded ─> Jobs ─> a Stage of each job at hand, and one of all of them together
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vinr.errors import plural
from vinr.units import format_seconds

if TYPE_CHECKING:
    from vinr.fit.events import Event, JobEnded, OfJob


@dataclass
class Stage:
    """A stage of work: how far it is, 0 to 1, if that is known; what else is said of it."""

    name: str = ""
    began: float = 0.0
    progress: float | None = None
    detail: str = ""
    seconds_left: float = math.inf
    psnr: str = ""

    def begin(self, name: str, now: float) -> None:
        """Turn to the stage ``name``."""
        self.name, self.began, self.progress = name, now, None
        self.detail, self.seconds_left, self.psnr = "", math.inf, ""

    def take(self, event: Event, now: float) -> bool:
        """Take an event; return whether it changes how far the stage is."""
        from vinr.fit.events import FramesDone, RoundDone, StepDone

        match event:
            case FramesDone():
                self.move(event.done / event.total, now)
            case StepDone() | RoundDone():
                if not self.name:
                    self.begin("fitting", now)
                if isinstance(event, RoundDone):
                    self.psnr = f"  {event.psnr_db:.2f} dB"
                self.progress, self.seconds_left = event.progress, event.seconds_left
                self.detail = f"epoch {event.epochs_done:.1f}{self.psnr}"
            case _:
                return False
        return True

    def move(self, progress: float, now: float) -> None:
        """Take how far the stage is; the rest takes as long as what is done."""
        self.progress = progress
        self.seconds_left = (now - self.began) * (1 - progress) / progress if progress else math.inf

    def __str__(self) -> str:
        share = "" if self.progress is None else f"{self.progress:.0%}"
        left = "" if math.isinf(self.seconds_left) else f"{format_seconds(self.seconds_left)} left"
        return "  ".join(part for part in (share, self.detail, left) if part)


class Jobs:
    """Jobs that run several at a time: the stage of each that is at work, by its name."""

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}
        self._fitted: dict[str, float] = {}
        self._ended: set[str] = set()

    def take(self, event: OfJob, whole: Stage, now: float) -> bool:
        """Take an event of a job; return whether it changes how far the job, and the ``whole``, is."""
        from vinr.fit.events import StageBegun

        if event.name in self._ended:  # told late, which changes nothing any more
            return False
        stage = self.stages.setdefault(event.name, Stage(began=now))
        if isinstance(event.event, StageBegun):
            stage.begin(event.event.name, now)
        elif not stage.take(event.event, now):
            return False
        if stage.name == "fitting":
            self._fitted[event.name] = stage.progress or 0.0
        self._move(whole, event.total, now)
        return True

    def end(self, event: JobEnded, whole: Stage, now: float) -> None:
        """Take that a job is done."""
        self.stages.pop(event.name, None)
        self._fitted.pop(event.name, None)
        self._ended.add(event.name)
        self._move(whole, event.total, now)

    def _move(self, whole: Stage, total: int, now: float) -> None:
        if not whole.name or whole.name == "trying":
            whole.begin("fitting", now)
        num_ended = len(self._ended)
        whole.move((num_ended + sum(self._fitted.values())) / total, now)
        whole.detail = f"{num_ended} of {plural(total, 'job')} done"
