"""Positional encodings of time (and of any other normalised position).

A position t is described by sin and cos of ``base^l · π · t`` for l = 0 … levels − 1 (NeRV, NeurIPS 2021).
With 80 levels of base 1.25 the fastest wave turns 2·10⁷ times from t = 0 to 1, so the order of roundings
decides its value: float32 and float64 disagree completely. A file must decode alike everywhere, hence the
default keeps the angle an exact fraction until it lies below a right angle; the float32 modes repeat what
published checkpoints were trained with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vinr.models._stored import no_graph

EncodingOrder = Literal["interleaved", "blocks"]
EncodingPrecision = Literal["exact", "float32", "float32_bases"]
TimeNorm = Literal["i/T", "i/(T-1)", "(i+1)/T"]

# PyTorch's float32 power gives 1.25^45 one unit below the nearest float32, and the nearest at levels 0 … 79
# otherwise.
_ROUNDED_DOWN = {(1.25, 45)}


def normalise_time(time: float, num_frames: int, rule: TimeNorm) -> Fraction:
    """Return the normalised time of ``time`` (in frames, may lie between two) as an exact fraction.

    Under ``i/(T-1)`` the only frame of a one-frame video has time 0.
    """
    exact = Fraction(time)
    if rule == "i/T":
        return exact / num_frames
    if rule == "(i+1)/T":
        return (exact + 1) / num_frames
    return exact / max(num_frames - 1, 1)


@lru_cache(maxsize=4096)
def encode_position(
    position: Fraction,
    *,
    base: float,
    levels: int,
    order: EncodingOrder = "blocks",
    precision: EncodingPrecision = "exact",
) -> tuple[float, ...]:
    """Return the 2 · ``levels`` numbers that describe ``position``; they are cached.

    Parameters
    ----------
    position
        Normalised time or coordinate, usually in [0, 1].
    base
        Ratio of neighbouring frequencies. ``exact`` reads it as the decimal it prints as (1.05 = 21/20).
    order
        ``interleaved``: sin, cos of level 0, then of level 1, …; ``blocks``: all sines, then all cosines.
    precision
        ``exact``: no rounding of the angle before it lies below a right angle. ``float32``: the position, the
        bases and their product rounded to float32 as the references do (interleaved: (t · base^l) · π;
        blocks: t · (base^l · π)). ``float32_bases``: t · (base^l · π) with rounded bases, but t and the
        product in float64.
    """
    if precision == "exact":
        pairs = list(_exact_waves(position, Fraction(str(base)), levels))
    else:
        angles = _rounded_angles(position, base, levels, order, precision)
        pairs = [(math.sin(angle), math.cos(angle)) for angle in angles]
    if order == "interleaved":
        return tuple(value for pair in pairs for value in pair)
    return tuple(sine for sine, _ in pairs) + tuple(cosine for _, cosine in pairs)


def float32_bases(base: float, levels: int) -> tuple[float, ...]:
    """Return ``base^l · π`` as the references hold it: power and π rounded to float32, then their product."""
    powers = (np.float32(float(Fraction(base) ** level)) for level in range(levels))
    stepped = (
        np.nextafter(power, np.float32(0)) if (base, level) in _ROUNDED_DOWN else power
        for level, power in enumerate(powers)
    )
    return tuple(float(power * np.float32(math.pi)) for power in stepped)


@dataclass(frozen=True)
class TimeEncoding:
    """Encodes frame numbers, see :func:`encode_position` and :func:`normalise_time`."""

    num_frames: int
    base: float
    levels: int
    order: EncodingOrder = "blocks"
    time_norm: TimeNorm = "i/T"
    precision: EncodingPrecision = "exact"

    @property
    def num_features(self) -> int:
        """Numbers that describe one time."""
        return 2 * self.levels

    @no_graph  # exact integers are no graph
    def __call__(self, time_N: Tensor) -> Tensor:
        """Return float64 features (N, 2 · levels), on the CPU, of ``time_N`` in frames."""
        rows = [self._row(time) for time in time_N.tolist()]
        return torch.tensor(rows, dtype=torch.float64).view(-1, self.num_features)

    def _row(self, time: float) -> tuple[float, ...]:
        return encode_position(
            normalise_time(time, self.num_frames, self.time_norm),
            base=self.base,
            levels=self.levels,
            order=self.order,
            precision=self.precision,
        )


def _exact_waves(position: Fraction, base: Fraction, levels: int) -> Iterator[tuple[float, float]]:
    numerator, denominator = position.numerator, position.denominator
    for _ in range(levels):
        # position · base^l in half turns = (quadrant + rest / denominator) right angles, in whole numbers:
        # what is rounded is below a right angle, and its sine is good to the last digits of a float64.
        quadrant, rest = divmod(2 * numerator, denominator)
        angle = math.pi / 2 * (rest / denominator)
        sine, cosine = math.sin(angle), math.cos(angle)
        for _ in range(quadrant % 4):
            sine, cosine = cosine, -sine
        yield sine, cosine
        numerator *= base.numerator
        denominator *= base.denominator


def _rounded_angles(
    position: Fraction, base: float, levels: int, order: EncodingOrder, precision: EncodingPrecision
) -> list[float]:
    time = float(position)
    if precision == "float32_bases":
        return [time * step for step in float32_bases(base, levels)]
    time32 = np.float32(time)
    if order == "blocks":
        return [float(time32 * np.float32(step)) for step in float32_bases(base, levels)]
    powers = (np.float32(float(Fraction(base) ** level)) for level in range(levels))
    return [float((time32 * power) * np.float32(math.pi)) for power in powers]
