"""How long a fit lasts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from vinr.errors import UsageError

# What follows a fit where nobody tried it, in epochs' worth of time: freezing and decoding are forward
# passes, a third of a step. The first steps may be slow beyond measure, so that this is capped.
RESERVE_EPOCHS = 0.8
MOST_RESERVED = 0.25
# What was tried is rescaled by how much slower steps have become since, within these limits; and it leaves
# a little of the budget to the fit, whatever it takes.
RESCALED_LIMITS = (0.8, 2.5)
MOST_TRIED = 0.95
# Where preparing took all the time there was.
LEAST_SECONDS = 1e-3
# How fast the running mean of a step's time forgets: the first steps warm caches up.
FORGOTTEN = 0.05


@dataclass(frozen=True)
class Reserve:
    """What of a budget of seconds is left unspent, for what comes after the fit.

    Either ``epochs`` of measured epoch time, at most a quarter of the budget; or ``seconds`` that were tried
    when an epoch took ``epoch_seconds``: they grow as epochs do, since a machine that has become busier is
    slower at everything.
    """

    seconds: float = 0.0
    epoch_seconds: float = 0.0
    epochs: float = 0.0

    def of(self, budget_seconds: float, epoch_seconds: float) -> float:
        """Return the seconds to leave of a budget, given how long an epoch takes now."""
        if self.epochs:
            return min(self.epochs * epoch_seconds, MOST_RESERVED * budget_seconds)
        slower = epoch_seconds / self.epoch_seconds if self.epoch_seconds else 1.0
        least, most = RESCALED_LIMITS
        return min(self.seconds * min(max(slower, least), most), MOST_TRIED * budget_seconds)


NO_RESERVE = Reserve()


@dataclass(frozen=True)
class Budget:
    """How long a fit lasts: a number of steps, or seconds of work (then the schedule follows the clock).

    ``reserve`` of ``seconds`` is left unspent. ``prepared`` of them have passed when steps may begin, at the
    reading ``began`` of the clock ``now``; from then on time that passes between steps counts too.

    ::

        prepared        began                                                     began − prepared + seconds
          |-- building ---|--- steps and what is between them: progress 0 to 1 ---|--- reserve ---|

    Raises
    ------
    UsageError
        If ``seconds`` is not a finite number above 0.
    """

    num_steps: int
    seconds: float | None = None
    reserve: Reserve = NO_RESERVE
    # The clock is looked up when it is read: one that a test puts there counts.
    began: float = field(default_factory=lambda: time.monotonic())
    prepared: float = 0.0
    now: Callable[[], float] = field(default=lambda: time.monotonic(), repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise UsageError(f"seconds {self.seconds!r}: give a finite number above 0")

    @classmethod
    def after(cls, began: float | None, num_steps: int, seconds: float | None, reserve: Reserve) -> Budget:
        """Return the budget of steps that may begin now; ``seconds`` count from ``began``, or now."""
        prepared = 0.0 if began is None else max(time.monotonic() - began, 0.0)
        return cls(num_steps, seconds, reserve, prepared=prepared)

    def progress(self, steps_done: int, seconds_done: float, epoch_seconds: float) -> float:
        """Return how much of the budget is used, 0 to 1."""
        if self.seconds is None:
            return min(steps_done / self.num_steps, 1.0)
        if not steps_done:
            return 0.0  # however little time there is, there is a network, and it has learned something
        passed = max(seconds_done, self.now() - self.began)
        left = max(self.seconds - self.prepared, LEAST_SECONDS)
        return min(passed / (left - self.reserve.of(left, epoch_seconds)), 1.0)


class StepClock:
    """How long a fit has worked, and how long a step takes.

    A GPU may still be at work when a step returns: only the end of a round, which waits for it, is exact.

    ::

        start ── tick ── tick ── … ── wait        a step: all from start to wait, over the ticks
    """

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self.seconds = self.step_seconds = 0.0
        self._now = now or time.monotonic
        self._last = self._now()
        self._usual, self._count, self._passed = 0.0, 0, 0.0

    def start(self) -> None:
        """Begin to measure steps."""
        self._usual, self._count, self._passed = self.step_seconds, 0, 0.0
        self._last = self._now()

    def tick(self, steps_done: int) -> None:
        """A step has returned, ``steps_done`` in all."""
        self._count += 1
        self._pass(steps_done)

    def wait(self, steps_done: int) -> None:
        """The device has done all steps."""
        self._pass(steps_done)

    def skip(self) -> None:
        """What happened since the last call was no work."""
        self._last = self._now()

    def _pass(self, steps_done: int) -> None:
        now = self._now()
        self.seconds += now - self._last
        self._passed += now - self._last
        self._last = now
        if self._count:
            # Weight of the steps since start(): as if each had been mixed in by itself; at the beginning of a
            # fit the plain mean of all.
            share = max(1 - (1 - FORGOTTEN) ** self._count, self._count / max(steps_done, 1))
            self.step_seconds = self._usual + share * (self._passed / self._count - self._usual)
