"""Integer probability tables (docs/format.md, 5.1). Nothing is a float: every decoder gets the same tables.

A table has H entries ≥ 1 with sum 2²⁴; entry i is the probability of symbol i in units of 2⁻²⁴.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import isqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

TABLE_BITS: Final = 24
TABLE_SUM: Final = 1 << TABLE_BITS
MAX_TABLE: Final = 4096
# Levels of a histogram are quarters of an octave: 95 are 2^-23.75, below one unit of a table.
MAX_LEVEL: Final = 95
MAX_SCALE: Final = 127
MAX_SHAPE: Final = 2
MAX_WEIGHT: Final = 15
# No entry of a bell is below 2^-20, 2^-14, 2^-11 or 2^-8 of its top.
TAIL_SHIFTS: Final = (20, 14, 11, 8)
MAX_TAIL: Final = len(TAIL_SHIFTS) - 1
# A table is made once per block, and blocks grow with what is known: an eighth of it, within these bounds.
LEAST_BLOCK: Final = 64
LARGEST_BLOCK: Final = 4096
# Counts are halved so that the table follows symbols that change along the tensor.
HALVE_AT: Final = 1 << 17


@dataclass(frozen=True)
class Bell:
    """A bell-shaped distribution over table entries; ``centre`` in entries, the rest as in the format."""

    centre: int
    scale: int
    shape: int
    tail: int


def _repeated_isqrt(value: int, times: int) -> int:
    for _ in range(times):
        value = isqrt(value)
    return value


@cache
def _roots() -> Integers:
    # ROOT[f] = ⌊2^(24 − f/256)⌋: eight square roots take 2^(256·24 − f) to its 256th root, and ⌊√⌊x⌋⌋ = ⌊√x⌋.
    roots = np.empty(256, dtype=np.int64)
    for part in range(256):
        roots[part] = _repeated_isqrt(1 << (256 * TABLE_BITS - part), 8)
    return roots


def power_of_two(x: Integers) -> Integers:
    """Return ⌊2^(24 − x/256)⌋ up to the rounding of a shift, for ``x`` ≥ 0."""
    # x in 1/256 bit:  whole bits | 256ths     the lower byte picks the root, the rest shifts it
    power: Integers = _roots()[x & 255] >> np.minimum(x >> 8, TABLE_BITS + 1)
    return power


def normalise(weight_H: Integers) -> Integers:
    """Return the table in proportion to ``weight_H`` (≥ 0, not all 0, below 2³⁹)."""
    # Every entry gets 1, so that every symbol can be coded; the rest is shared out, and what rounding down
    # leaves over goes to the largest.
    free = TABLE_SUM - weight_H.shape[0]
    table_H: Integers = 1 + weight_H * free // int(weight_H.sum())
    table_H[int(weight_H.argmax())] += TABLE_SUM - int(table_H.sum())
    return table_H


def normalise_rows(weight_BH: Integers) -> Integers:
    """Return the table of :func:`normalise` for each row."""
    free = TABLE_SUM - weight_BH.shape[1]
    table_BH: Integers = 1 + weight_BH * free // weight_BH.sum(axis=1, keepdims=True)
    table_BH[np.arange(len(table_BH)), weight_BH.argmax(axis=1)] += TABLE_SUM - table_BH.sum(axis=1)
    return table_BH


def bell_table(num_entries: int, bell: Bell) -> Integers:
    """Return the table of ``num_entries`` entries for ``bell``."""
    distance_H = np.abs(np.arange(num_entries, dtype=np.int64) - bell.centre)
    # 2^(28 − scale/8): three square roots of 2^(8·28 − scale). t is the distance in 1/256 bit of a Laplace
    # distribution that is half as probable every 2^(scale/8) / 16 entries.
    t_H = distance_H * _repeated_isqrt(1 << (8 * 28 - bell.scale), 3) >> 16
    if bell.shape == 1:
        t_H = t_H * t_H // (t_H + 256)  # round at the top, straight flanks
    elif bell.shape == 2:
        t_H = t_H * t_H >> 8  # Gauss
    return normalise(np.maximum(power_of_two(t_H), TABLE_SUM >> TAIL_SHIFTS[bell.tail]))


def level_table(level_H: Integers) -> Integers:
    """Return the table of a histogram given by its levels, 0 … 95: quarters of an octave."""
    return normalise(power_of_two(64 * (MAX_LEVEL - level_H)))


def uniform_table(num_bits: int) -> Integers:
    """Return the table in which 2^``num_bits`` symbols are equally probable."""
    return np.full(1 << num_bits, TABLE_SUM >> num_bits, dtype=np.int64)


class Counts:
    """State of an adaptive model: what has been coded so far, on top of a bell that counts 2^``weight``."""

    def __init__(self, bell_H: Integers, weight: int) -> None:
        self._prior_H = (bell_H << weight) >> 8
        self._count_H = np.zeros_like(bell_H)
        self._num_coded = 0

    def block(self) -> tuple[int, Integers]:
        """Return the length of the next block at most, and its table."""
        # A symbol counts 2^16, the bell as much as 2^weight symbols: its sum of 2^24 becomes 2^(16 + weight).
        num_symbols = min(LARGEST_BLOCK, max(LEAST_BLOCK, self._num_coded >> 3))
        return num_symbols, normalise((self._count_H << 16) + self._prior_H)

    def counted(self) -> tuple[Integers, Integers]:
        """Return the counts so far and those of the bell, as :meth:`block` adds them."""
        return self._count_H << 16, self._prior_H

    def update(self, symbol_S: NDArray[np.int32]) -> None:
        """Count the symbols of a block that has been coded."""
        self._num_coded += symbol_S.shape[0]
        self._count_H += np.bincount(symbol_S, minlength=self._count_H.shape[0])
        if int(self._count_H.sum()) >= HALVE_AT:
            self._count_H >>= 1
