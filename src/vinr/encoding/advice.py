"""Lines on an encode that counts epochs: how long they take, and where a paper's settings do not apply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from vinr.encoding.forecast import LEAST_EPOCHS
from vinr.encoding.plan import EncodePlan
from vinr.errors import argument, plural
from vinr.fit import Event, Noted, StepDone
from vinr.units import format_seconds
from vinr.video.spec import VideoSpec

# The first steps load libraries and fill caches.
WARM_STEPS: Final = 3
# Shorter fits have ended before the line is read.
WORTH_SECONDS: Final = 10.0
PAPER: Final = "paper"


def advise(plan: EncodePlan, specs: Sequence[VideoSpec]) -> list[str]:
    """Return lines on what is likely not meant, of a plan that counts epochs."""
    preset, lines = plan.presets[0], []
    if preset.fit.epochs < LEAST_EPOCHS:
        few = plural(preset.fit.epochs, "epoch")
        lines.append(
            f"{few} give no usable picture; {argument('epochs', LEAST_EPOCHS)} is the least, or leave it out"
        )
    if preset.fit.recipe != PAPER or preset.paper is None:
        return lines
    paper, spec = preset.paper, specs[0]
    if (paper.height, paper.width) != (spec.height, spec.width):
        lines.append(
            f"{preset.name} is for frames of {paper.width}×{paper.height} (width × height), these are of "
            f"{spec.width}×{spec.height}: not what the paper did; {argument('crop')} and "
            f"{argument('resize')} change that"
        )
    return lines


class FirstSteps:
    """Tells, once the first steps are done, how long all epochs take on this machine."""

    def __init__(self, plan: EncodePlan, on_event: Callable[[Event], None]) -> None:
        self._epochs, self._is_open = plan.presets[0].fit.epochs, plan.seconds is None
        self._share, self._on_event, self._count = plan.jobs[0].share, on_event, 0

    def __call__(self, event: Event) -> None:
        """Take an event of the fits."""
        if not self._is_open or not isinstance(event, StepDone):
            return
        self._count += 1
        if self._count < WARM_STEPS or event.progress >= 1:
            return
        self._is_open = False
        seconds = event.seconds_left / (1 - event.progress) / self._share
        if seconds >= WORTH_SECONDS:
            epochs, taken = plural(self._epochs, "epoch"), format_seconds(seconds)
            self._on_event(Noted(f"{epochs} take about {taken} on this machine"))
