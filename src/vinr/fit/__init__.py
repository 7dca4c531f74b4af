"""Fitting: tasks, losses, schedules, optimisers, and the one loop that uses them."""

from __future__ import annotations

from vinr.fit.budget import Reserve
from vinr.fit.events import (
    Collapsed,
    Event,
    FramesDone,
    JobEnded,
    Noted,
    NotKept,
    OfJob,
    Resumed,
    RoundDone,
    StageBegun,
    StepDone,
    Written,
    ignore,
)
from vinr.fit.logs import CsvLog, TensorBoardLog
from vinr.fit.loop import fit
from vinr.fit.precision import Precision
from vinr.fit.prepare import build_model
from vinr.fit.result import FitResult
from vinr.fit.task import Reconstruct, Task
from vinr.fit.trainer import Trainer

__all__ = [
    "Collapsed",
    "CsvLog",
    "Event",
    "FitResult",
    "FramesDone",
    "JobEnded",
    "NotKept",
    "Noted",
    "OfJob",
    "Precision",
    "Reconstruct",
    "Reserve",
    "Resumed",
    "RoundDone",
    "StageBegun",
    "StepDone",
    "Task",
    "TensorBoardLog",
    "Trainer",
    "Written",
    "build_model",
    "fit",
    "ignore",
]
