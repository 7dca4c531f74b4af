"""From the times of a stream's frames to a :class:`Timeline`, of a constant rate where rounding explains all.

Numbers stay within what a .vinr file can hold (docs/format.md): parts of rates and time bases below 2³¹,
steps of at most 2⁴⁰ ticks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vinr.video.spec import Ticks, Timeline

LARGEST_PART: Final = 2**31 - 1
LARGEST_STEP: Final = 2**40
LATEST: Final = 2**60
# Denominators of rates as people write them: 1001 is that of 29.97.
SIMPLE: Final = 1001
NTSC: Final = Fraction(1000, 1001)
NEAR: Final = Fraction(1, 20_000)
# Times may differ from those of a constant rate by a tick, but not by more than this.
CLOSE_SECONDS: Final = Fraction(1, 1000)
# Frames are at least so many ticks long where those may be rounded: less, where the file states the rate.
FINE: Final = 4
FINE_STATED: Final = Fraction(3, 2)
# Frames per second of times in milliseconds may be more than 1000, and then some are equal. If more than
# this many are, they are no times.
MOST_EQUAL: Final = 64
# Where steps would be too long, times are rounded to these parts of a second: the first that will do.
COARSER: Final = (1_000_000, 1000, 1)


@dataclass(frozen=True)
class Stated:
    """What a stream says of its times: seconds per tick, its rates (at least one), the last frame's time."""

    time_base: Fraction
    rates: tuple[Fraction, ...]
    last_seconds: Fraction | None = None


def bounded(value: Fraction) -> Fraction:
    """Return the nearest positive fraction whose parts are below 2³¹."""
    value = min(max(value, Fraction(1, LARGEST_PART)), Fraction(LARGEST_PART))
    if max(value.numerator, value.denominator) <= LARGEST_PART:
        return value
    if value < 1:
        return 1 / bounded(1 / value)
    return value.limit_denominator(LARGEST_PART // math.ceil(value))


def simple_rate(rate: Fraction) -> Fraction:
    """Return a rate near ``rate`` in small numbers: of frames per second, or of seconds per frame."""
    simple = rate.limit_denominator(SIMPLE) if rate >= 1 else 1 / (1 / rate).limit_denominator(SIMPLE)
    return bounded(simple)


def frame_seconds(time_F: NDArray[np.int64] | None, index: int, stated: Stated) -> Fraction:
    """Return when frame ``index`` is shown on the file's clock; without times the first one is at 0."""
    return index / stated.rates[0] if time_F is None else int(time_F[index]) * stated.time_base


def make_timeline(time_F: NDArray[np.int64] | None, first: int, stop: int, stated: Stated) -> Timeline:
    """Return when frames ``first`` ≤ i < ``stop`` are shown, the first of them at 0.

    ``time_F`` are the times of all frames in ticks, which do not fall, or none: then the stated rate counts.
    """
    count = stop - first
    if time_F is None:
        return Timeline(count, bounded(stated.rates[0]))
    held = stated.last_seconds
    if stop < len(time_F):
        held = int(time_F[stop] - time_F[stop - 1]) * stated.time_base or None
    ticks = time_F[first:stop] - time_F[first]
    rate = _constant_rate(ticks, stated)
    if rate is not None:
        return Timeline(count, rate, last_seconds=_unusual(held, rate, stated.time_base))
    spread, base = _unequal(ticks, stated.time_base)
    if spread is None:
        return Timeline(count, bounded(stated.rates[0]))
    rate = simple_rate(Fraction(count - 1) / (int(spread[-1]) * base))
    times, base = _holdable(spread, base)
    return Timeline(count, rate, base, Ticks(times), last_seconds=_unusual(held, rate, stated.time_base))


def _constant_rate(ticks: NDArray[np.int64], stated: Stated) -> Fraction | None:
    """Return a rate from which all times differ by rounding alone, if there is one."""
    count, total = len(ticks), int(ticks[-1])
    if count == 1:
        return bounded(stated.rates[0])
    rates: list[Fraction] = []
    for rate in stated.rates:
        rates += _usual_rates(rate)
    num_stated = len(rates)
    if total:
        exact = Fraction(count - 1) / (total * stated.time_base)
        rates += _usual_rates(exact)
    are_equal = bool((ticks[1:] == ticks[:-1]).any())
    for place, rate in enumerate(map(bounded, rates)):
        ticks_per_frame = 1 / (rate * stated.time_base)
        # Both ends of an interval may be rounded to ticks. Ticks as coarse as frames need a stated rate.
        is_fine = ticks_per_frame >= (FINE_STATED if place < num_stated else FINE)
        slack = 1 if are_equal or (is_fine and stated.time_base <= CLOSE_SECONDS) else 0
        # |tick − number · a / b| ≤ slack, in whole numbers.
        a, b = ticks_per_frame.as_integer_ratio()
        if all(abs(tick * b - number * a) <= slack * b for number, tick in enumerate(ticks.tolist())):
            return rate
    return None


def _usual_rates(rate: Fraction) -> list[Fraction]:
    """Return the whole or NTSC rate that is meant by ``rate``, if there is one near, and ``rate``."""
    whole = Fraction(round(rate))
    usual = [near for near in (whole, whole * NTSC) if abs(rate - near) <= NEAR * near]
    return [*usual, rate]


def _unequal(ticks: NDArray[np.int64], base: Fraction) -> tuple[NDArray[np.int64] | None, Fraction]:
    """Return times in which frames of the same tick share it evenly, and their time base."""
    _, start_F, count_F = np.unique(ticks, return_index=True, return_counts=True)
    most = int(count_F.max())
    if most == 1:
        return ticks, base
    if most > MOST_EQUAL:
        return None, base
    part_F = np.arange(len(ticks)) - np.repeat(start_F, count_F)
    share_F = part_F * most // np.repeat(count_F, count_F)
    return ticks * most + share_F, base / most


def _holdable(ticks: NDArray[np.int64], base: Fraction) -> tuple[NDArray[np.int64], Fraction]:
    """Return times and a time base that a file can hold."""
    if max(base.numerator, base.denominator) <= LARGEST_PART and _largest_step(ticks) <= LARGEST_STEP:
        return ticks, base
    for parts in COARSER:
        scale = base * parts
        # Of times of thousands of years only the order is kept.
        rounded = np.array([min(round(tick * scale), LATEST) for tick in ticks.tolist()], np.int64)
        # Frames that would fall on one tick stay a tick apart.
        number_F = np.arange(len(rounded))
        rounded = np.maximum.accumulate(rounded - number_F) + number_F
        if _largest_step(rounded) <= LARGEST_STEP:
            break
    return rounded, Fraction(1, parts)


def _largest_step(ticks: Sequence[int] | NDArray[np.int64]) -> int:
    return int(np.diff(ticks).max(initial=0))


def _unusual(held: Fraction | None, rate: Fraction, tick: Fraction) -> Fraction | None:
    """Return how long the last frame is held, unless that is as long as the rate says, but for rounding."""
    if held is None or held <= 0 or abs(held - 1 / rate) <= tick:
        return None
    return bounded(held)
