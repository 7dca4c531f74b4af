"""The shape of pixels: the width of one as shown, over its height."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

# Pixels are at most so many times as wide as high, or as high as wide.
MAX_ASPECT: Final = Fraction(64)
# The lesser of both parts; the other is at most MAX_ASPECT times as large. Containers have 16 bits for each.
PRECISION: Final = 1000


def is_plausible(aspect: Fraction) -> bool:
    """Return whether pixels may have this shape."""
    return 1 / MAX_ASPECT <= aspect <= MAX_ASPECT


def round_aspect(aspect: Fraction) -> Fraction:
    """Return a plausible aspect close to ``aspect``, in numbers that all containers can hold."""
    if aspect < 1:
        return 1 / round_aspect(1 / aspect)
    return min(aspect, MAX_ASPECT).limit_denominator(PRECISION)
