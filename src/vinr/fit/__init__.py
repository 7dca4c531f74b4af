"""Fitting: tasks, losses, schedules, optimisers, and the one loop that uses them."""

from __future__ import annotations

from vinr.fit.events import Collapsed, Event, Noted, NotKept, Resumed, RoundDone, Written, ignore
from vinr.fit.loop import fit
from vinr.fit.noise import Noise
from vinr.fit.prepare import build_model
from vinr.fit.run import FitResult
from vinr.fit.tasks import Denoise, Inpaint, Interpolate, Reconstruct, Task

__all__ = [
    "Collapsed",
    "Denoise",
    "Event",
    "FitResult",
    "Inpaint",
    "Interpolate",
    "Noise",
    "NotKept",
    "Noted",
    "Reconstruct",
    "Resumed",
    "RoundDone",
    "Task",
    "Written",
    "build_model",
    "fit",
    "ignore",
]
