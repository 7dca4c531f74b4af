"""What an encode will come to: seconds, epochs, quality, bytes; and what is refused or warned of for it.

::

    0        spent                                                                             seconds
    |-- reading, trying --|--------------- fit: epochs ---------------|-- latents, coding, scoring --|
                          └ steps of costs.step each                  └ costs.after, a little more

**A default encode keeps the frames as they are and the network that suits them, and announces the time that
this machine needs**: the usual time, or as long as eight epochs take; above an hour, an hour if that holds
five epochs, and otherwise it asks. Smaller networks are no way out: a quarter of the parameters costs about
5 dB at equal epochs, which take nearly as long (docs/results/first-epochs.md). Smaller frames are one, but
nobody gets smaller frames without asking for them: ``--resize`` is proposed instead, with its time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Final

from vinr.encoding.trial import Costs
from vinr.errors import UsageError, argument, format_frame, plural
from vinr.units import format_seconds, seconds_as_option

WANTED_EPOCHS: Final = 8
LEAST_EPOCHS: Final = 5
LONGEST_DEFAULT: Final = 3600.0
USABLE_DB: Final = 25.0
USABLE_STEPS: Final = 170
KNOWN_RECIPE: Final = "vinr"
# What comes after a fit is given a little more than was tried: the machine may become busier.
SPARE: Final = 1.2
# Steps of vinr's recipe, and the PSNR after a fit of that length, start to end: least, median and most of
# three clips (docs/results/first-epochs.md).
EXPECTED_DB: Final = (
    (24, 13.5, 13.9, 14.7),
    (48, 14.7, 18.0, 20.3),
    (96, 18.5, 22.6, 24.9),
    (192, 19.5, 26.0, 29.3),
    (384, 20.8, 28.4, 32.0),
)
# Heights that people ask for, and how the cost of a step grows with the pixels of a frame: the network that
# suits it grows too.
HEIGHTS: Final = (1080, 720, 540, 480, 360, 270, 240, 180, 144, 90)
COST_EXPONENT: Final = 1.745
# A resize is proposed that this many epochs need no longer than this, or than the time that was asked for.
RESIZED_EPOCHS, RESIZED_SECONDS = 16, 600.0


@dataclass(frozen=True)
class Workload:
    """What is to be done, and what it costs.

    Parameters
    ----------
    costs
        Of the first network.
    num_frames
        Of the first network.
    scale
        Pixels of all networks, divided by those of the first.
    num_networks
        How many there are.
    spent
        Seconds that have passed, and those that reading all frames will take.
    height, width
        Rows and columns of the frames.
    codings, decodings
        How often a network is coded, and its frames decoded, to meet a target.
    extra
        Seconds for what else follows.
    """

    costs: Costs
    num_frames: int
    height: int
    width: int
    scale: float = 1.0
    num_networks: int = 1
    spent: float = 0.0
    codings: int = 1
    decodings: int = 1
    extra: float = 0.0

    @property
    def epoch_seconds(self) -> float:
        """Seconds of an epoch of all networks."""
        return self.costs.step * self.costs.steps_per_epoch * self.scale

    @property
    def after(self) -> float:
        """Seconds that follow the fits of all networks."""
        frames = round(self.num_frames * self.scale)
        once = (self.num_networks - 1) * self.codings * self.costs.code
        tried = self.costs.after(frames, codings=self.codings, decodings=self.decodings) + once
        return SPARE * tried + self.extra

    @property
    def fixed(self) -> float:
        """Seconds of everything but steps."""
        return self.spent + self.num_networks * self.costs.build + self.after

    @property
    def least_seconds(self) -> float:
        """Seconds in which all networks have one step each."""
        return self.fixed + self.num_networks * self.costs.step

    def epochs_in(self, seconds: float) -> float:
        """Return the epochs that fit into ``seconds`` for everything."""
        return max(seconds - self.fixed, 0.0) / self.epoch_seconds

    def seconds_for(self, epochs: float) -> float:
        """Return the seconds that everything takes with so many epochs."""
        return self.fixed + epochs * self.epoch_seconds

    def resized(self, height: int) -> Workload:
        """Return the same work on frames of ``height`` rows, of the same shape."""
        share = (height / self.height) ** 2
        cost, costs = share**COST_EXPONENT, self.costs
        smaller = replace(costs, step=cost * costs.step, freeze=cost * costs.freeze, frame=cost * costs.frame)
        width = max(round(Fraction(self.width * height, self.height) / 2) * 2, 2)
        return replace(self, costs=smaller, height=height, width=width)


@dataclass(frozen=True)
class ExpectedPsnr:
    """What a fit of some length comes to, in dB: from how little to how much, and what is likely."""

    low: float
    likely: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.0f} to {self.high:.0f} dB"


def expected_psnr(steps: float) -> ExpectedPsnr | None:
    """Return what ``steps`` of vinr's recipe come to; None for more than were measured."""
    first, last = EXPECTED_DB[0], EXPECTED_DB[-1]
    if steps > last[0]:
        return None
    if steps <= first[0]:
        return ExpectedPsnr(10.0, first[2], first[3])
    (few, *less), (many, *more) = next(pair for pair in pairwise(EXPECTED_DB) if steps <= pair[1][0])
    part = math.log(steps / few) / math.log(many / few)
    return ExpectedPsnr(*(a + part * (b - a) for a, b in zip(less, more, strict=True)))


def check_time(work: Workload, seconds: float) -> None:
    """Refuse a time that cannot hold the encode.

    Raises
    ------
    UsageError
        Naming the least that is needed.
    """
    if work.least_seconds > seconds:
        raise UsageError(too_short(seconds, work.least_seconds) + _or_smaller(work, seconds))


def too_short(seconds: float, least: float) -> str:
    """Return why ``seconds`` are refused where ``least`` are needed."""
    # What was given is repeated as it is, not rounded up.
    given = f"{seconds:.4g} s" if seconds < 600 else format_seconds(seconds)
    needed = argument("time", seconds_as_option(1.1 * least))
    return f"{given} are too short for this video on this machine, busy as it is now; give {needed} or more"


def choose_seconds(work: Workload, usual: float) -> float:
    """Return the time that a default encode announces, ``usual`` where that is enough.

    Raises
    ------
    UsageError
        If an hour cannot hold five epochs.
    """
    wanted, least = work.seconds_for(WANTED_EPOCHS), work.seconds_for(LEAST_EPOCHS)
    if least > LONGEST_DEFAULT:
        needed = argument("time", seconds_as_option(1.1 * least))
        raise UsageError(
            f"{LEAST_EPOCHS} epochs, the fewest that give a usable picture, take about "
            f"{format_seconds(least)} at {format_frame(work.height, work.width)} on this machine; "
            f"give {needed}{_or_smaller(work, RESIZED_SECONDS)}"
        )
    return min(max(usual, wanted), max(LONGEST_DEFAULT, usual))


def warning_of(work: Workload, epochs: float, seconds: float, recipe: str) -> str | None:
    """Return a line on why ``epochs`` are too few for a usable picture, None if they are not."""
    steps = epochs * work.costs.steps_per_epoch
    expected = expected_psnr(steps) if recipe == KNOWN_RECIPE else None
    is_poor = expected is not None and expected.likely < USABLE_DB
    if epochs >= LEAST_EPOCHS and not is_poor:
        return None
    enough = float(LEAST_EPOCHS)
    if recipe == KNOWN_RECIPE:
        enough = max(enough, USABLE_STEPS / work.costs.steps_per_epoch)
    needed = argument("time", seconds_as_option(work.seconds_for(enough)))
    about = f"about {plural(max(round(steps), 1), 'step')}, {epochs:.1f} epochs"
    about += "" if expected is None else f", {expected}"
    return f"too short for a usable picture: {about}; give {needed}{_or_smaller(work, seconds)}"


def _or_smaller(work: Workload, seconds: float) -> str:
    """Return which resize would do in ``seconds``, as the end of a sentence; empty if none of them."""
    for height in HEIGHTS:
        if height < work.height:
            smaller = work.resized(height)
            needed = smaller.seconds_for(RESIZED_EPOCHS) - work.spent
            if needed <= max(seconds, RESIZED_SECONDS):
                return f", or {argument('resize', f'{height}p')}, which takes about {format_seconds(needed)}"
    return ""
