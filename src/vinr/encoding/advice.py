"""Lines on an encode: how long epochs take, where a paper's settings do not apply, what has no effect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from vinr.encoding.forecast import LEAST_EPOCHS
from vinr.encoding.plan import EncodePlan
from vinr.errors import argument, format_frame, plural
from vinr.fit import Event, Noted, StepDone
from vinr.units import format_seconds
from vinr.video.spec import VideoSpec

# A file that is better than its target by more, with the coarsest steps, could have been smaller.
SPARE_TOLD_DB: Final = 1.0
# Four times the parameters are worth about 5 dB at equal epochs (docs/results/first-epochs.md).
DB_PER_DOUBLING: Final = 2.5
MOST_SCALED: Final = 4.0
# The first steps load libraries and fill caches.
WARM_STEPS: Final = 3
# Shorter fits have ended before the line is read.
WORTH_SECONDS: Final = 10.0
PAPER: Final = "paper"


def advise(plan: EncodePlan, specs: Sequence[VideoSpec]) -> list[str]:
    """Return lines on what is likely not meant, of a plan that counts epochs."""
    preset, lines = plan.presets[0], []
    if preset.fit.epochs < LEAST_EPOCHS:
        few = plural(preset.fit.epochs, "epoch", "give")
        lines.append(
            f"{few} no usable picture; {argument('epochs', LEAST_EPOCHS)} is the least, or leave it out"
        )
    if preset.fit.recipe != PAPER or preset.paper is None:
        return lines
    paper, spec = preset.paper, specs[0]
    if (paper.height, paper.width) != (spec.height, spec.width):
        lines.append(
            f"{preset.name} is for frames of {format_frame(paper.height, paper.width)}, these are of "
            f"{spec.width}×{spec.height}: not what the paper did; {argument('crop')} and "
            f"{argument('resize')} change that"
        )
    return lines


def describe_miss(psnr_db: float, target_db: float, num_parameters: int) -> str | None:
    """Return by how much a file misses the PSNR that was asked for, and what to do; None if it does not."""
    miss_db = target_db - psnr_db
    if -SPARE_TOLD_DB <= miss_db <= 0:
        return None
    reached = f"{psnr_db:.2f} dB are {abs(miss_db):.2f} dB {'below' if miss_db > 0 else 'above'} the target"
    # Larger or smaller by what that was measured to be worth, within what can be said from one fit.
    factor = min(max(2 ** (miss_db / DB_PER_DOUBLING), 1 / MOST_SCALED), MOST_SCALED)
    params = argument("params", f"{max(round(factor * num_parameters / 1000), 1)}k")
    if miss_db < 0:
        return f"{reached}, even coded as coarsely as can be: a smaller network ({params}) saves bytes"
    time, epochs = argument("time"), argument("epochs")
    return (
        f"{reached} of {target_db:g} dB: give more {time} or {epochs}, or a larger network, such as {params}"
    )


def without_effect(plan: EncodePlan, specs: Sequence[VideoSpec]) -> list[str]:
    """Return lines on what was asked for and changes nothing for these clips."""
    fit, lines = plan.presets[0].fit, []
    is_joined = any(len({span.clip for span in job.spans}) > 1 for job in plan.jobs)
    if fit.join_clips and not is_joined:
        sizes = {(spec.height, spec.width, spec.bit_depth) for spec in specs}
        if len(specs) == 1:
            reason = "there is one input, which has one network anyway"
        elif len(sizes) == len(specs):
            reason = "no two inputs have one size and bit depth"
        else:
            reason = "the frames of two inputs fill more than 2 GiB"
        lines.append(f"{argument('join', True)} has no effect: {reason}")
    if fit.warm_start and len(plan.jobs) == 1:
        lines.append(
            f"fit.warm_start has no effect: there is one network; {argument('segment', '10s')} makes a "
            "network for each segment"
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
            epochs, taken = plural(self._epochs, "epoch", "take"), format_seconds(seconds)
            self._on_event(Noted(f"{epochs} about {taken} on this machine"))
