"""Which part of a fit it is in, how far, and how far its learning-rate schedule is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from typing import Any, Final

from pydantic import ValidationError

from vinr.config import FitSettings, Phase, Schedule
from vinr.errors import UsageError, plural
from vinr.settings import describe_validation

# More than rounding can take from a share, so that a phase begins at the first step after the part before it.
SHARE_SLACK: Final = 1e-9


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
    shares = list(map(attrgetter("share"), phases))
    bounds = [0.0, *accumulate(shares, initial=1 - sum(shares))]
    bounds[-1] = 1.0  # whatever the shares' rounding
    for part in range(len(phases), -1, -1):
        if progress >= bounds[part] and bounds[part + 1] > bounds[part]:
            start, stop = _span_of_schedule(part, phases)
            whole = _share(progress, bounds[start], bounds[stop])
            return Moment(part - 1, _share(progress, bounds[part], bounds[part + 1]), whole)
    return Moment(-1, 0.0, 0.0)


def append_phases(settings: FitSettings, phases: Sequence[tuple[int, Mapping[str, Any]]]) -> FitSettings:
    """Return ``settings`` with more phases, each (epochs, settings but its share), and as many more epochs.

    Raises
    ------
    UsageError
        If a length is not a whole number of epochs, at least 1, or a setting is unknown or not allowed.
    """
    for number, (length, values) in enumerate(phases, len(settings.phases)):
        if not isinstance(length, int) or length < 1:
            raise UsageError(f"phase {number}: lasts {length!r} epochs; give a whole number of at least 1")
        if "share" in values:
            raise UsageError(
                f"phase {number}: its share follows from its {plural(length, 'epoch')}; leave share out"
            )
    epochs = settings.epochs + sum(length for length, _ in phases)
    # Parts that the fit has keep their lengths in epochs:  share · old epochs = new share · new epochs.
    scale = settings.epochs / epochs
    kept = [phase.model_copy(update={"share": phase.share * scale}) for phase in settings.phases]
    appended = []
    for length, values in phases:
        try:
            appended.append(Phase.model_validate({**values, "share": length / epochs + SHARE_SLACK}))
        except ValidationError as error:
            number = len(settings.phases) + len(appended)
            raise UsageError(f"phase {number}: {describe_validation(error, Phase)}") from None
    return settings.model_copy(update={"epochs": epochs, "phases": (*kept, *appended)})


def schedule_of(number: int, settings: FitSettings) -> Schedule:
    """Return the schedule that part ``number`` follows: its own, or that of the last part that has one."""
    for phase in reversed(settings.phases[: number + 1]):
        if phase.schedule is not None:
            return phase.schedule
    return settings.schedule


def _span_of_schedule(part: int, phases: Sequence[Phase]) -> tuple[int, int]:
    """Return the parts first … stop − 1 that share the schedule of ``part``; 0 is the plain fit."""
    # part              0 (plain)   1       2       3
    # its phase         –           0       1       2
    # has a schedule    always      no      yes     no        0 and 1 share one, 2 and 3 another
    first, stop = part, part + 1
    while first > 0 and phases[first - 1].schedule is None:
        first -= 1
    while stop <= len(phases) and phases[stop - 1].schedule is None:
        stop += 1
    return first, stop


def _share(progress: float, first: float, last: float) -> float:
    return min((progress - first) / (last - first), 1.0)
