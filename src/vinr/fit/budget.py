"""How long a fit lasts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

__all__ = ["RESERVE_EPOCHS", "Budget"]

# What follows a fit where nobody tried it, in epochs' worth of time: freezing and decoding are forward
# passes, a third of a step.
RESERVE_EPOCHS = 0.8
MOST_RESERVED = 0.25


@dataclass(frozen=True)
class Budget:
    """How long a fit lasts: a number of steps, or seconds of work (then the schedule follows the clock).

    ``reserve_epochs`` of measured epoch time are left unspent of ``seconds``, for what comes after the fit; a
    quarter of them at most, since the first steps, or a busy machine, may be slow beyond measure. Time that
    passes between steps counts too, from ``began`` on.
    """

    num_steps: int
    seconds: float | None = None
    reserve_epochs: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def progress(self, steps_done: int, seconds_done: float, epoch_seconds: float) -> float:
        """Return how much of the budget is used, 0 to 1."""
        if self.seconds is None:
            return min(steps_done / self.num_steps, 1.0)
        reserve = min(self.reserve_epochs * epoch_seconds, MOST_RESERVED * self.seconds)
        passed = max(seconds_done, time.monotonic() - self.began)
        return min(passed / (self.seconds - reserve), 1.0)
