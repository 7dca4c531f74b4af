"""Which part of a fit it is in, how far, and how far its learning-rate schedule is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from vinr.config import FitSettings, Phase, Schedule


@dataclass(frozen=True)
class Moment:
    """A place in a fit.

    ``number`` −1 is the plain fit, 0 … its phases; ``progress`` in that part, and ``schedule_progress`` in
    all the parts that its schedule spans, are 0 to 1.
    """

    number: int
    progress: float
    schedule_progress: float

    def phase(self, settings: FitSettings) -> Phase | None:
        """Return the phase, None in the plain fit."""
        return None if self.number < 0 else settings.phases[self.number]


def moment_at(progress: float, phases: Sequence[Phase]) -> Moment:
    """Return where a fit with ``phases`` is at ``progress`` of the whole, 0 to 1.

    ::

        0 ┤ plain fit │ phases[0] │ phases[1] ├ 1       each phase as long as its share
          └─── a schedule ────────┴ another ──┘         if phases[0] has none of its own
    """
    shares = [phase.share for phase in phases]
    bounds = [0.0, *accumulate(shares, initial=1 - sum(shares))]
    bounds[-1] = 1.0  # whatever the shares' rounding
    for part in range(len(phases), -1, -1):
        if progress >= bounds[part] and bounds[part + 1] > bounds[part]:
            start, stop = _span_of_schedule(part, phases)
            whole = _share(progress, bounds[start], bounds[stop])
            return Moment(part - 1, _share(progress, bounds[part], bounds[part + 1]), whole)
    return Moment(-1, 0.0, 0.0)


def schedule_of(number: int, settings: FitSettings) -> Schedule:
    """Return the schedule that part ``number`` follows: its own, or that of the last part that has one."""
    own = [phase.schedule for phase in settings.phases[: number + 1] if phase.schedule is not None]
    return own[-1] if own else settings.schedule


def _span_of_schedule(part: int, phases: Sequence[Phase]) -> tuple[int, int]:
    """Return the parts first … stop − 1 that share the schedule of ``part``; 0 is the plain fit."""
    starts = [0, *(number for number, phase in enumerate(phases, 1) if phase.schedule is not None)]
    first = max(start for start in starts if start <= part)
    return first, min((start for start in starts if start > part), default=len(phases) + 1)


def _share(progress: float, first: float, last: float) -> float:
    return min((progress - first) / (last - first), 1.0)
