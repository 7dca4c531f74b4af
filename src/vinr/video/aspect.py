"""The shape of pixels, in numbers that containers can hold."""

from __future__ import annotations

from fractions import Fraction


def round_aspect(aspect: Fraction) -> Fraction:
    """Return a pixel aspect in numbers that all containers can hold, of 16 bits."""
    return aspect.limit_denominator(1000) if aspect >= 1 else 1 / (1 / aspect).limit_denominator(1000)
