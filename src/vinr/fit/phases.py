"""Which phase a fit is in, how far, and what that phase asks of the optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from vinr.config import FitSettings, Phase

__all__ = ["Moment", "moment_at"]


@dataclass(frozen=True)
class Moment:
    """A place in a fit: ``number`` −1 is the plain fit, 0 … its phases; ``progress`` in the part, 0 to 1."""

    number: int
    progress: float

    def phase(self, settings: FitSettings) -> Phase | None:
        """Return the phase, None in the plain fit."""
        return None if self.number < 0 else settings.phases[self.number]


def moment_at(progress: float, phases: Sequence[Phase]) -> Moment:
    """Return where a fit with ``phases`` is at ``progress`` of the whole, 0 to 1.

    ::

        0 ┤ plain fit │ phases[0] │ phases[1] ├ 1       each phase as long as its share
    """
    shares = [phase.share for phase in phases]
    bounds = [0.0, *accumulate(shares, initial=1 - sum(shares))]
    bounds[-1] = 1.0  # whatever the shares' rounding
    for part in range(len(phases), -1, -1):
        first, last = bounds[part], bounds[part + 1]
        if progress >= first and last > first:
            return Moment(part - 1, min((progress - first) / (last - first), 1.0))
    return Moment(-1, 0.0)
