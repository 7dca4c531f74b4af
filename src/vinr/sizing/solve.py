"""The search for a configuration that stores a number of parameters.

::

    dial ──> configure ──> count ──> halve the interval, until two neighbours enclose the target
    the nearest ──> up to six nudges of a single number each ──> within 0.1 %, or as near as they come

A number is a width, or another whole number in the fields that ``size_fields`` names.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import TypeAdapter, ValidationError

from vinr.errors import UsageError, plural
from vinr.settings import describe_unknown, first_problem
from vinr.video.spec import VideoSpec

if TYPE_CHECKING:
    from vinr.models.base import ModelConfig, VideoModel

TOLERANCE = 0.02
TOLERANCE_PARAMETERS = 64
CLOSE_ENOUGH = 0.001
GOOD_ENOUGH = 0.005
DIAL_LIMITS = (0.25, 4096.0)
# Halvings after which the dial moves no width by more than two channels.
NUM_HALVINGS = 15
SMALL_NUDGES = (1, 2)
NUDGES = (1, 2, 3, 4, 8)
MAX_NUDGES = 6
# What relative changes cost beside a relative miss: a fifth more or less as much as a miss of 0.08 %.
CHANGE_COST = 0.02


def solve_size(
    model_class: type[VideoModel], video: VideoSpec, num_parameters: int, settings: Mapping[str, Any]
) -> ModelConfig:
    """Return a configuration whose stored total (head and latents included) is about ``num_parameters``.

    ``settings`` (names and plain values of the model's configuration) are kept as they are. Most totals come
    within 0.3 %, all within 2 % (or 64 parameters).

    Raises
    ------
    UsageError
        If the target lies below the smallest size or above the largest, or nothing within 2 % (or 64
        parameters) of it exists, or a setting is unknown or not allowed.
    """
    search = _Search(model_class, video, num_parameters, _check_settings(model_class.Config, settings))
    try:
        search.check_range()
        nearest = search.nearest()
    except ValidationError as error:
        raise UsageError(f"architecture: {first_problem(error)}") from None
    if search.miss(nearest) > max(TOLERANCE * num_parameters, TOLERANCE_PARAMETERS):
        raise UsageError(
            f"no {model_class.__name__} with these settings has {num_parameters:,} parameters; the nearest "
            f"has {search.count(nearest):,}; ask for that, or leave widths open"
        )
    return nearest


class _Search:
    """Looks for configurations of one model for one video that store about ``target`` parameters."""

    def __init__(
        self, model_class: type[VideoModel], video: VideoSpec, target: int, settings: Mapping[str, Any]
    ) -> None:
        self.model_class, self.video, self.target = model_class, video, target
        self.settings = dict(settings)
        self.free = [name for name in model_class.Config.size_fields if name not in settings]
        self._counts: dict[ModelConfig, int] = {}

    def count(self, config: ModelConfig) -> int:
        """Return the parameters stored."""
        if config not in self._counts:
            self._counts[config] = self.model_class.on_meta(config, self.video).num_stored()
        return self._counts[config]

    def miss(self, config: ModelConfig) -> int:
        """Return by how many parameters the total misses the target."""
        return abs(self.count(config) - self.target)

    def check_range(self) -> None:
        """Raise UsageError if the target lies beyond both ends of the dial."""
        smallest, largest = map(self.count, self._ends(self.settings))
        video = self.video
        where = (
            f"{self.model_class.__name__} for {plural(video.num_frames, 'frame')} of "
            f"{video.height}×{video.width}"
        )
        if self.target < (1 - TOLERANCE) * smallest:
            raise UsageError(
                f"{self.target:,} parameters are too few: the smallest {where} stores {smallest:,}; ask for "
                f"at least that, or shrink or shorten the video"
            )
        if self.target > (1 + TOLERANCE) * largest:
            raise UsageError(
                f"{self.target:,} parameters are too many: the largest {where} stores {largest:,}"
            )

    def nearest(self) -> ModelConfig:
        """Return the first configuration within 0.1 %, or the nearest; small nudges will do within 0.5 %."""
        best = None
        for nudges in (SMALL_NUDGES, NUDGES):
            for start in self._starts():
                config = self._nudge(start, nudges)
                if best is None or self.miss(config) < self.miss(best):
                    best = config
                if self._is_close(best):
                    return best
            assert best is not None
            if self.miss(best) <= GOOD_ENOUGH * self.target:
                break
        assert best is not None
        return best

    def _starts(self) -> Iterator[ModelConfig]:
        """Yield the two neighbours on the dial that enclose the target, then those with other settings held.

        Where more than sizes changes between the two, such as the channels of latents, the total jumps: there
        each side's other settings are held while the dial is turned again.
        """
        below, above = self._turn_dial(self.settings)
        yield from (below, above)
        for neighbour in (below, above):
            held = {name: getattr(neighbour, name) for name in neighbour.model_fields_set}
            # The sizes themselves stay free, or there would be nothing left to turn.
            for name in self.free:
                held.pop(name, None)
            yield from self._turn_dial(self.settings | held)

    def _turn_dial(self, settings: Mapping[str, Any]) -> tuple[ModelConfig, ModelConfig]:
        """Return the neighbours on the dial that enclose the target; at its ends one of them twice."""
        low, high = map(math.log, DIAL_LIMITS)
        below, above = self._ends(settings)
        if self.target <= self.count(below) or self.target >= self.count(above):
            end = below if self.target <= self.count(below) else above
            return end, end
        for _ in range(NUM_HALVINGS):
            # The logarithm of the dial is halved: totals rise about as a power of it.
            middle = (low + high) / 2
            config = self._configure(math.exp(middle), settings)
            if self.count(config) <= self.target:
                low, below = middle, config
            else:
                high, above = middle, config
        return below, above

    def _ends(self, settings: Mapping[str, Any]) -> tuple[ModelConfig, ModelConfig]:
        return self._configure(DIAL_LIMITS[0], settings), self._configure(DIAL_LIMITS[1], settings)

    def _configure(self, dial: float, settings: Mapping[str, Any]) -> ModelConfig:
        config: ModelConfig = self.model_class.configure(self.video, width=dial, settings=settings)
        return config

    def _is_close(self, config: ModelConfig) -> bool:
        return self.miss(config) <= CLOSE_ENOUGH * self.target

    def _nudge(self, config: ModelConfig, nudges: Sequence[int]) -> ModelConfig:
        """Return ``config`` after nudges of single numbers: the first close one, or the best each time."""
        start = self._numbers(config)
        for _ in range(MAX_NUDGES):
            best = config
            for candidate in itertools.chain([config], self._nudged(config, nudges)):
                if self._is_close(candidate):
                    return candidate
                best = min(best, candidate, key=lambda item: self._cost(item, start))
            if best is config:
                break
            config = best
        return config

    def _cost(self, config: ModelConfig, start: Sequence[int]) -> float:
        """Return the relative miss beyond 0.1 %, plus what the relative changes since ``start`` cost."""
        change = 0.0
        for number, first in zip(self._numbers(config), start, strict=True):
            change += ((number - first) / first) ** 2
        return max(self.miss(config) / self.target - CLOSE_ENOUGH, 0) + CHANGE_COST * change

    def _nudged(self, config: ModelConfig, nudges: Sequence[int]) -> Iterator[ModelConfig]:
        """Yield ``config`` with one number nudged towards the target, smallest steps first."""
        # (64, 32, 16), step 2, too few parameters ─> (66, 32, 16), (64, 34, 16), (64, 32, 18)
        sign = 1 if self.count(config) < self.target else -1
        values = config.model_dump()
        for step, name in itertools.product(nudges, self.free):
            value = values[name]
            numbers = value if isinstance(value, tuple) else (value,)
            for place, number in enumerate(numbers):
                changed: Any = (*numbers[:place], number + sign * step, *numbers[place + 1 :])
                changed = changed if isinstance(value, tuple) else changed[0]
                try:
                    yield type(config).model_validate({**values, name: changed})
                except ValidationError:
                    continue  # a width of 0, or a combination that the model refuses

    def _numbers(self, config: ModelConfig) -> list[int]:
        numbers: list[int] = []
        for name in self.free:
            value = getattr(config, name)
            numbers += value if isinstance(value, tuple) else (value,)
        return numbers


def _check_settings(config_class: type[ModelConfig], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``settings`` converted to the types of their fields, each checked by itself."""
    checked: dict[str, Any] = {}
    for name, value in settings.items():
        field = config_class.model_fields.get(name)
        if field is None:
            known = list(config_class.model_fields)
            raise UsageError(f"architecture.{name}: {describe_unknown(name, known)}")
        field_type: Any = Annotated[field.annotation, field]
        try:
            checked[name] = TypeAdapter(field_type).validate_python(value)
        except ValidationError as error:
            raise UsageError(f"architecture.{name}: {first_problem(error)} (got {value!r})") from None
    return checked
