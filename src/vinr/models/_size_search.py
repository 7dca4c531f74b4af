"""The search for a configuration that stores a wanted number of numbers.

::

    dial ──> configure ──> count ──> dial again, until two neighbours enclose the target
    the lower one ──> a few numbers up or down ──> within 0.1 %

A number is a width, or one of the other whole numbers in the fields that ``size_fields`` names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import combinations
from typing import Any, NamedTuple

from pydantic import ValidationError

from vinr.errors import UsageError
from vinr.models._base import ModelConfig, VideoModel
from vinr.video.spec import VideoSpec

TOLERANCE = 0.02
TOLERANCE_NUMBERS = 64
CLOSE_ENOUGH = 0.001
DIAL_LIMITS = (0.25, 4096.0)
# The dial is known well enough when it moves no width by more than two channels.
DIAL_PRECISION = 5e-4
# Places, in parts of where the target lies, to look for other settings that may allow it.
DIAL_TRIES = (0.8, 1.25, 0.6, 1.6)
# What relative changes cost beside a relative miss: a fifth more or less as much as a miss of 0.08 %.
STRAIN_COST = 0.02
# Totals are at most quadratic in a number, so from 2 on one more adds at most 5/3 of what one less takes.
MOST_UNEVEN = 2.0
# Smallest changes of a number: some must be multiples of the number of grids, or of groups.
UNITS = (1, 2, 3, 4, 8)
# Beside the common shift: changes of a number, numbers changed at once, and repetitions.
STEPS = (1, -1, 2, -2)
MAX_CHANGED = 3
NUM_ROUNDS = 6


class Effort(NamedTuple):
    """By how much a number may leave what the dial gave, and how many guesses are counted at a time."""

    most: int
    num_counted: int


# Each is made where those before were not enough; the last finds what there is around the smallest networks.
EFFORTS = (Effort(2, 8), Effort(4096, 8), Effort(4096, 250))


@dataclass(frozen=True)
class _Number:
    """A free number: its value, that at first, the steps it may take, and what one more adds to the total."""

    now: int
    first: int
    unit: int
    gain: float

    def strain(self, value: int) -> float:
        """Return the square of the relative change from the first value."""
        return ((value - self.first) / self.first) ** 2

    def steps(self, deficit: float) -> set[int]:
        """Return changes to try where ``deficit`` is missing."""
        if not self.gain:
            return set()
        alone = round(deficit / (self.gain * self.unit))
        return {self.unit * count for count in {*STEPS, alone} - {0}}


@dataclass(frozen=True)
class _Move:
    """A change of one number: what it adds to the total, and to the sum of squared relative changes."""

    place: int
    step: int
    gain: float
    strain: float


class SizeSearch:
    """Looks for configurations of one model for one video that store about ``target`` numbers.

    ``settings`` are kept as they are.
    """

    def __init__(
        self, model_class: type[VideoModel], video: VideoSpec, target: int, settings: Mapping[str, Any]
    ) -> None:
        self.model_class, self.video, self.target = model_class, video, target
        self.settings = dict(settings)
        self.free = [name for name in model_class.Config.size_fields if name not in settings]
        self._allowed_miss = max(TOLERANCE * target, TOLERANCE_NUMBERS)
        self._counted: dict[ModelConfig, int] = {}

    def count(self, config: ModelConfig) -> int:
        """Return the numbers stored."""
        if config not in self._counted:
            self._counted[config] = self.model_class.on_meta(config, self.video).num_stored()
        return self._counted[config]

    def is_allowed(self, config: ModelConfig) -> bool:
        """Whether the total is within 2 % or 64 numbers."""
        return abs(self.count(config) - self.target) <= self._allowed_miss

    def check_range(self) -> None:
        """Raise UsageError if the target lies beyond both ends of the dial."""
        smallest, largest = (self.count(self._configure(end, self.settings)) for end in DIAL_LIMITS)
        video = self.video
        where = f"{self.model_class.__name__} for {video.num_frames} frames of {video.height}×{video.width}"
        if self.target < (1 - TOLERANCE) * smallest:
            raise UsageError(
                f"{self.target:,} numbers are too few: the smallest {where} stores {smallest:,}; ask for at "
                f"least that, or shrink or shorten the video"
            )
        if self.target > (1 + TOLERANCE) * largest:
            raise UsageError(f"{self.target:,} numbers are too many: the largest {where} stores {largest:,}")

    def turn_dial(self) -> Iterator[ModelConfig]:
        """Yield what the dial gives just below the target, then just above; at its ends one alone.

        Where more than sizes changes at that place, such as the channels of latents, that is held first at
        what it was below, then at what it becomes above. Further tries hold it at what it is farther off.
        """
        dial, below, above = self._turn_dial(self.settings)
        known = [self._beside_sizes(below)]
        if self._beside_sizes(above) in known:
            yield from (below, above)
        else:
            yield from self._turn_dial(known[0])[1:]
        for config in (above, *(self._configure(part * dial, self.settings) for part in DIAL_TRIES)):
            kept = self._beside_sizes(config)
            if kept not in known:
                known.append(kept)
                yield from self._turn_dial(kept)[1:]

    def refine(self, config: ModelConfig, effort: Effort) -> ModelConfig:
        """Return a configuration near the target, at best within 0.1 %, by changing free numbers a little.

        Each is changed by as little of itself as possible, and at most by what ``effort`` allows.
        """
        start, best = self._numbers(config), config
        for _ in range(NUM_ROUNDS):
            if self._is_close(best):
                break
            guesses = (self._changed(best, numbers) for numbers in self._guesses(best, start, effort))
            counted = [best, *(guess for guess in guesses if guess is not None)]
            found = min(counted, key=lambda item: self._cost(self.count(item), self._strain(item, start)))
            if found is best:
                break
            best = found
        return best

    def _turn_dial(self, settings: Mapping[str, Any]) -> tuple[float, ModelConfig, ModelConfig]:
        """Return the dial, and the neighbours there that enclose the target; one twice where it will do."""
        low, high = (math.log(end) for end in DIAL_LIMITS)
        below, above = (self._configure(end, settings) for end in DIAL_LIMITS)
        halve = False
        while high - low > DIAL_PRECISION:
            for config in (below, above):
                if self._is_close(config):
                    return math.exp(low), config, config
            least, most = self.count(below), self.count(above)
            if not least < self.target < most:
                end = below if self.target <= least else above
                return math.exp(low), end, end
            # Totals rise about as a power of the dial; every other turn halves, in case they do not.
            share = 0.5 if halve else math.log(self.target / least) / math.log(most / least)
            middle = low + min(max(share, 0.02), 0.98) * (high - low)
            config = self._configure(math.exp(middle), settings)
            if self.count(config) <= self.target:
                low, below = middle, config
            else:
                high, above = middle, config
            halve = not halve
        return math.exp(low), below, above

    def _configure(self, dial: float, settings: Mapping[str, Any]) -> ModelConfig:
        return self.model_class.configure(self.video, width=dial, settings=settings)

    def _beside_sizes(self, config: ModelConfig) -> dict[str, Any]:
        """Return the settings of ``config`` but those that may be changed by small steps."""
        return {name: getattr(config, name) for name in config.model_fields_set if name not in self.free}

    def _is_close(self, config: ModelConfig) -> bool:
        return abs(self.count(config) - self.target) <= CLOSE_ENOUGH * self.target

    def _cost(self, total: float, strain: float) -> tuple[float, float]:
        """Return what to keep small: the miss beyond what is allowed; then that beyond 0.1 %, and the strain.

        ``strain`` is the sum of the squares of the numbers' relative changes.
        """
        miss = abs(total - self.target)
        within = max(miss / self.target - CLOSE_ENOUGH, 0)
        return max(miss - self._allowed_miss, 0), within + STRAIN_COST * strain

    def _numbers(self, config: ModelConfig) -> list[int]:
        values = [getattr(config, name) for name in self.free]
        return [item for value in values for item in (value if isinstance(value, tuple) else (value,))]

    def _changed(self, config: ModelConfig, numbers: Iterable[int]) -> ModelConfig | None:
        """Return ``config`` with other ``numbers`` in the free fields, or None if that is not allowed."""
        rest = iter(numbers)
        values = config.model_dump()
        for name in self.free:
            value = values[name]
            values[name] = tuple(next(rest) for _ in value) if isinstance(value, tuple) else next(rest)
        try:
            return type(config).model_validate(values)
        except ValidationError:
            return None  # a width of 0, or a combination that the model refuses

    def _strain(self, config: ModelConfig, start: Sequence[int]) -> float:
        """Return the sum of the squares of the relative changes since ``start``."""
        pairs = zip(self._numbers(config), start, strict=True)
        return sum(((number - first) / first) ** 2 for number, first in pairs)

    def _number(
        self, config: ModelConfig, numbers: Sequence[int], place: int, most: int
    ) -> tuple[int, float]:
        """Return in which steps, up to ``most``, the number at ``place`` may change, and what one more adds.

        Steps that are not allowed, or do not add about what they take downwards, put the network together in
        another way, such as with fewer groups of channels. 0.0 if there are no others.
        """
        for unit in UNITS:
            gains = []
            for step in (unit, -unit):
                after = [*numbers[:place], numbers[place] + step, *numbers[place + 1 :]]
                changed = self._changed(config, after) if unit <= most else None
                if changed is not None:
                    gains.append((self.count(changed) - self.count(config)) / step)
            if gains and 0 < max(gains) <= MOST_UNEVEN * min(gains):
                return unit, sum(gains) / len(gains)
        return 1, 0.0

    def _guesses(self, config: ModelConfig, start: Sequence[int], effort: Effort) -> list[list[int]]:
        """Return the most promising numbers, as if the total were linear in each of them.

        All share in a common shift that makes up for the deficit. Around it up to three are one or two more
        or less, or as many as make up for the rest alone.
        """
        here, most = self._numbers(config), effort.most
        known = [self._number(config, here, place, most) for place in range(len(here))]
        free = [_Number(now, first, *steps) for now, first, steps in zip(here, start, known, strict=True)]
        middle = _shifted(free, self.target - self.count(config), most)
        total = self.count(config) + sum(n.gain * (m - n.now) for n, m in zip(free, middle, strict=True))
        strain = sum(number.strain(value) for number, value in zip(free, middle, strict=True))
        moves = [
            _Move(place, step, step * number.gain, number.strain(value + step) - number.strain(value))
            for place, (number, value) in enumerate(zip(free, middle, strict=True))
            for step in number.steps(self.target - total)
            if value + step > 0 and abs(value + step - number.first) <= most
        ]

        def promise(together: tuple[_Move, ...]) -> tuple[float, float]:
            gain = sum(move.gain for move in together)
            return self._cost(total + gain, strain + sum(move.strain for move in together))

        choices = (
            together
            for count in range(MAX_CHANGED + 1)
            for together in combinations(moves, count)
            if len({move.place for move in together}) == count
        )
        guesses = []
        for together in nsmallest(effort.num_counted, choices, key=promise):
            guess = list(middle)
            for move in together:
                guess[move.place] += move.step
            guesses.append(guess)
        return guesses


def _shifted(free: Sequence[_Number], deficit: int, most: int) -> list[int]:
    """Return numbers whose gains add up to about ``deficit``, at the least squared relative changes.

    By Lagrange's rule each change is proportional to its gain times the square of its number.
    """
    weights = [number.gain * number.first**2 for number in free]
    norm = sum(number.gain * weight for number, weight in zip(free, weights, strict=True)) or 1.0
    shifted = []
    for number, weight in zip(free, weights, strict=True):
        value = number.now + number.unit * round(deficit * weight / (norm * number.unit))
        lowest = max(number.first - most, number.now % number.unit or number.unit)
        shifted.append(min(max(value, lowest), number.first + most) if weight else number.now)
    return shifted
