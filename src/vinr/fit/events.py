"""What a fit tells those who watch it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

StageName = Literal["reading", "trying", "fitting", "coding", "measuring", "comparing"]


@dataclass(frozen=True)
class StageBegun:
    """What the work turns to next."""

    name: StageName


@dataclass(frozen=True)
class FramesDone:
    """So many of all frames of the stage at hand are done."""

    done: int
    total: int


@dataclass(frozen=True)
class StepDone:
    """A step was done. ``progress`` is that of the fit, 0 to 1; ``seconds_left`` may be infinite."""

    epochs_done: float
    progress: float
    seconds_left: float


@dataclass(frozen=True)
class RoundDone:
    """A round (an epoch, or 250 steps) went well.

    PSNR is of the training frames of that round, before 8-bit rounding. ``loss`` is the mean over the steps
    that this process did of it. ``num_bits``: of all parameters as the last step estimates them, in phases
    that estimate them; ``bpp``: the same per pixel of the frames. ``learning_rate``: the largest of the last
    step. ``phase`` is -1 in the plain fit.
    """

    epochs_done: float
    progress: float
    psnr_db: float
    seconds_done: float
    seconds_left: float
    steps_done: int = 0
    loss: float | None = None
    num_bits: float | None = None
    bpp: float | None = None
    learning_rate: float | None = None
    phase: int = -1


@dataclass(frozen=True)
class Collapsed:
    """The PSNR fell from ``best_psnr_db``; the fit went back, its rate now ``rate_scale`` × the planned."""

    psnr_db: float
    best_psnr_db: float
    epochs_lost: float
    rate_scale: float

    def __str__(self) -> str:
        return (
            f"the fit collapsed {describe_fall(self.best_psnr_db, self.psnr_db)}; it went back "
            f"{self.epochs_lost:.1f} epochs, its learning rate is now × {self.rate_scale:g}"
        )


def describe_fall(before_db: float, after_db: float) -> str:
    """Return in words from which PSNR to which a fit fell; either may not be finite."""
    came = f"to {after_db:.1f} dB" if math.isfinite(after_db) else "to values that are not finite"
    return f"from {before_db:.1f} dB {came}" if math.isfinite(before_db) else came


@dataclass(frozen=True)
class Resumed:
    """A checkpoint was taken up after ``epochs_done``."""

    epochs_done: float


@dataclass(frozen=True)
class Noted:
    """Something worth a line: a choice made, a setting without effect."""

    text: str


@dataclass(frozen=True)
class NotKept:
    """The state could not be written, for ``reason``; the work goes on, and what was kept before is there."""

    reason: str


@dataclass(frozen=True)
class Written:
    """The output is whole and has its name; what was kept of the work is removed next.

    ``seconds`` are those of this run, without those of runs that were interrupted.
    """

    num_parameters: int
    num_epochs: float
    seconds: float


@dataclass(frozen=True)
class OfJob:
    """An event of one of ``total`` jobs that run several at a time: of segment, file or row ``name``."""

    number: int
    total: int
    name: str
    event: Event


@dataclass(frozen=True)
class JobEnded:
    """One of ``total`` jobs that run several at a time is done."""

    number: int
    total: int
    name: str


Event = (
    StageBegun
    | FramesDone
    | StepDone
    | RoundDone
    | Collapsed
    | Resumed
    | Noted
    | NotKept
    | Written
    | OfJob
    | JobEnded
)


# Kinds of which many come in a second, so that those who send them over a network need not send all.
FREQUENT: Final = (StepDone, FramesDone)


def ignore(event: Event) -> None:
    """Watch nothing."""
