"""How long a fit lasts."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Budget"]

MOST_RESERVED = 0.25


@dataclass(frozen=True)
class Budget:
    """How long a fit lasts: a number of steps, or seconds of work (then the schedule follows the clock).

    ``reserve_epochs`` of measured epoch time are left unspent of ``seconds``, for what comes after the fit; a
    quarter of them at most, since the first steps, or a busy machine, may be slow beyond measure.
    """

    num_steps: int
    seconds: float | None = None
    reserve_epochs: float = 0.0

    def progress(self, steps_done: int, seconds_done: float, epoch_seconds: float) -> float:
        """Return how much of the budget is used, 0 to 1."""
        if self.seconds is None:
            return min(steps_done / self.num_steps, 1.0)
        reserve = min(self.reserve_epochs * epoch_seconds, MOST_RESERVED * self.seconds)
        return min(seconds_done / (self.seconds - reserve), 1.0)
