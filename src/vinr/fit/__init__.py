"""Fitting: tasks, losses, schedules, optimisers, and the one loop that uses them."""

from __future__ import annotations

from vinr.fit.events import Collapsed, Event, Noted, NotKept, Resumed, RoundDone, ignore
from vinr.fit.loop import fit
from vinr.fit.noise import Noise
from vinr.fit.prepare import build_model
from vinr.fit.tasks import Denoise, Inpaint, Interpolate, Reconstruct, Task
from vinr.fit.trainer import FitResult, Trainer

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
    "Trainer",
    "build_model",
    "fit",
    "ignore",
]
