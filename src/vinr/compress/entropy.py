"""Entropy coding of integer symbols: models, and a range coder on integer tables (docs/format.md, 5).

::

    symbol − low ──┬─> high part ── table of ≤ 4096 entries (adaptive, bell or histogram) ──┐
                   └─> low bits  ── equally probable ───────────────────────────────────────┴─> range coder

The coder is constriction's. It takes float64 probabilities, which it turns into 24-bit integers; given the
entries of a table less one, whose sum is 2²⁴ less the number of entries, that conversion is exact.

Tables are integers (docs/format.md, 5.1): every decoder gets the same ones. A table has H entries ≥ 1 with
sum 2²⁴; entry i is the probability of symbol i in units of 2⁻²⁴.

Axes: H entries of a table, S symbols, T steps of time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cache
from math import isqrt
from typing import Any, Final

import constriction
import numpy as np
from numpy.typing import NDArray

from vinr.bitstream import ByteReader, pack_varint, pack_zigzag
from vinr.errors import BitstreamError

# -- tables --------------------------------------------------------------------------------------------------

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


# -- symbols and their models --------------------------------------------------------------------------------

Symbols = NDArray[np.int32]

# float32 holds every whole number up to here, so that a symbol times its step is rounded once.
LARGEST_SYMBOL: Final = 1 << 24
# Symbols of a model, and low bits that are coded apart: a table has at most 2^17 >> 5 = 4096 entries.
MAX_SIZE: Final = 1 << 17
MAX_SHIFT: Final = 5
WORD_BYTES: Final = 4

FLAT: Final = Bell(centre=0, scale=0, shape=0, tail=0)


class Kind(IntEnum):
    """Where the table of the high parts comes from; the value is the one in the file."""

    ADAPTIVE = 0
    BELL = 1
    HISTOGRAM = 2


@dataclass(frozen=True)
class SymbolModel:
    """Which symbols there are (``low`` … ``low + size − 1``) and how probable they are.

    ``levels`` belong to a histogram, whose ``bell`` and ``weight`` mean nothing. With ``size`` 1 nothing but
    ``low`` means anything.
    """

    low: int
    size: int
    shift: int = 0
    kind: Kind = Kind.ADAPTIVE
    bell: Bell = FLAT
    weight: int = 0
    levels: tuple[int, ...] = ()

    @property
    def num_entries(self) -> int:
        """Entries of the table of high parts."""
        return ((self.size - 1) >> self.shift) + 1

    @property
    def is_constant(self) -> bool:
        """Whether there is one symbol only, which takes no room in a stream."""
        return self.size == 1

    @property
    def is_static(self) -> bool:
        """Whether symbols can be decoded without those before them."""
        return self.is_constant or self.kind is not Kind.ADAPTIVE

    def table(self) -> Integers:
        """Return the table of high parts; for an adaptive model, the bell it starts from."""
        if self.kind is Kind.HISTOGRAM:
            return level_table(np.array(self.levels, dtype=np.int64))
        return bell_table(self.num_entries, self.bell)

    def pack(self) -> bytes:
        """Return the definition for a record; the levels of a histogram are not part of it."""
        packed = pack_zigzag(self.low) + pack_varint(self.size)
        if self.is_constant:
            return packed
        packed += bytes([self.shift | self.kind << 4])  # 0 0 k k s s s s
        if self.kind is Kind.HISTOGRAM:
            return packed
        # w w w w t t s s: weight, tail, shape
        form = self.bell.shape | self.bell.tail << 2 | self.weight << 4
        return packed + pack_varint(self.bell.centre) + bytes([self.bell.scale, form])

    @classmethod
    def unpack(cls, reader: ByteReader) -> SymbolModel:
        """Read what :meth:`pack` wrote.

        Raises
        ------
        BitstreamError
            If the definition is outside the limits of the format.
        """
        low, size = reader.zigzag(LARGEST_SYMBOL), reader.varint(MAX_SIZE)
        if size < 1 or low + size - 1 > LARGEST_SYMBOL:
            raise BitstreamError(f"a model has {size} symbols from {low}, the last may be {LARGEST_SYMBOL}")
        model = cls(low, size)
        if model.is_constant:
            return model
        layout = reader.fixed(1)
        shift, kind = layout & 15, layout >> 4
        if kind not in set(Kind) or shift > MAX_SHIFT or (size - 1) >> shift >= MAX_TABLE:
            raise BitstreamError(f"a model of {size} symbols has layout {layout:#04x}, which is not allowed")
        model = replace(model, shift=shift, kind=Kind(kind))
        if model.kind is Kind.HISTOGRAM:
            return model
        centre, scale, form = reader.varint(model.num_entries - 1), reader.fixed(1), reader.fixed(1)
        bell = Bell(centre, scale, form & 3, form >> 2 & 3)
        weight = form >> 4
        if scale > MAX_SCALE or bell.shape > MAX_SHAPE or (weight and model.kind is Kind.BELL):
            raise BitstreamError(f"a model has scale {scale} and form {form:#04x}, which is not allowed")
        return replace(model, bell=bell, weight=weight)


# The model of the differences between neighbouring levels of a histogram, −95 … 95, stored as 0 … 190.
LEVEL_DELTAS: Final = SymbolModel(
    low=0,
    size=2 * MAX_LEVEL + 1,
    bell=Bell(centre=MAX_LEVEL, scale=40, shape=0, tail=2),
    weight=4,
)


def _categorical(table_H: Integers) -> Any:
    # constriction adds 1 to each entry itself, so that none is 0 (see the module).
    return constriction.stream.model.Categorical((table_H - 1).astype(np.float64), perfect=False)


class StreamWriter:
    """Writes symbols to one range-coded stream."""

    def __init__(self) -> None:
        self._encoder = constriction.stream.queue.RangeEncoder()

    def write_levels(self, model: SymbolModel) -> float:
        """Write the levels of a histogram; nothing for other models. Return the ideal number of bits."""
        if model.is_constant or model.kind is not Kind.HISTOGRAM:
            return 0.0
        # levels L0 L1 L2 …  ->  L0 − 0, L1 − L0, L2 − L1, …  each + 95
        delta_H = np.diff(np.array(model.levels, dtype=np.int32), prepend=np.int32(0)) + MAX_LEVEL
        return self.write(LEVEL_DELTAS, delta_H.astype(np.int32))

    def write(self, model: SymbolModel, symbol_S: Symbols) -> float:
        """Write ``symbol_S``, all in the range of ``model``. Return the bits the tables assign to them."""
        return float(self.write_priced(model, symbol_S).sum())

    def write_priced(self, model: SymbolModel, symbol_S: Symbols) -> NDArray[np.float64]:
        """Write as :meth:`write` does; return the bits of each symbol."""
        if model.is_constant or not symbol_S.shape[0]:
            return np.zeros(symbol_S.shape[0])
        offset_S = symbol_S - np.int32(model.low)
        # offset  hhhhhlll: the high part by the table, `shift` low bits by a flat table; all high parts of
        # the sequence come first, then all its low bits.
        bits_S = self._write_high(model, offset_S >> model.shift)
        if model.shift:
            low_S = offset_S & np.int32((1 << model.shift) - 1)
            self._encoder.encode(low_S, _categorical(uniform_table(model.shift)))
            bits_S += model.shift
        return bits_S

    def _write_high(self, model: SymbolModel, high_S: Symbols) -> NDArray[np.float64]:
        if model.num_entries == 1:
            return np.zeros(high_S.shape[0])
        if model.kind is not Kind.ADAPTIVE:
            return self._write_block(model.table(), high_S)
        # The table of a block comes from the blocks before it, which a reader has by then.
        counts = Counts(model.table(), model.weight)
        bits_S, start = np.empty(high_S.shape[0]), 0
        while start < high_S.shape[0]:
            length, table_H = counts.block()
            block_S = high_S[start : start + length]
            bits_S[start : start + length] = self._write_block(table_H, block_S)
            counts.update(block_S)
            start += length
        return bits_S

    def _write_block(self, table_H: Integers, symbol_S: Symbols) -> NDArray[np.float64]:
        self._encoder.encode(symbol_S, _categorical(table_H))
        bits_S: NDArray[np.float64] = (TABLE_BITS - np.log2(table_H))[symbol_S]
        return bits_S

    def finish(self) -> bytes:
        """Return the stream, as short as it can be: zero bytes at its end are left out."""
        sealed = self._encoder.get_compressed()
        position, (lower, width) = self._encoder.pos()
        if not sealed.shape[0]:
            return b""
        # The coder's interval, as a number of num_words words of 32 bits, is [first, first + width):
        #   words   w0 w1 … | two words of `lower`, which may have carried into those before
        # The sealed words lie in it; how far above its start, `lower` tells modulo 2^64.
        num_words = int(position) + 2
        words = np.zeros(num_words, dtype=">u4")
        words[: sealed.shape[0]] = sealed
        value = int.from_bytes(words.tobytes(), "big")
        first = value - ((value - int(lower)) % 2**64)
        # The multiple of the largest power of 256 that is still inside: most zero bytes at its end.
        for num_zeros in range(8, -1, -1):
            unit = 1 << 8 * num_zeros
            shortest = -(-first // unit) * unit
            if shortest < first + int(width):
                break
        # Rounding up may carry past the first word only if the interval reaches there, which it never does.
        return shortest.to_bytes(WORD_BYTES * num_words, "big").rstrip(b"\0")


class StreamReader:
    """Reads the symbols of one range-coded stream; ``what`` names it in errors.

    Raises :class:`BitstreamError` if the stream cannot have been written with these models.
    """

    def __init__(self, payload: bytes, what: str) -> None:
        self._what = what
        # The writer left out zero bytes at the end; the coder reads whole words, the highest byte first.
        padded = payload + bytes(-len(payload) % WORD_BYTES)
        words = np.frombuffer(padded, dtype=">u4").astype(np.uint32)
        self._decoder = constriction.stream.queue.RangeDecoder(words)

    def read_levels(self, model: SymbolModel) -> SymbolModel:
        """Return ``model`` with its levels, if it is a histogram."""
        if model.is_constant or model.kind is not Kind.HISTOGRAM:
            return model
        level_H = (self.read(LEVEL_DELTAS, model.num_entries) - MAX_LEVEL).cumsum()
        if level_H.min() < 0 or level_H.max() > MAX_LEVEL:
            raise BitstreamError(f"{self._what} has a histogram with levels outside 0 … {MAX_LEVEL}")
        return replace(model, levels=tuple(level_H.tolist()))

    def read(self, model: SymbolModel, num_symbols: int) -> Symbols:
        """Return the next ``num_symbols`` symbols."""
        if model.is_constant or not num_symbols:
            return np.full(num_symbols, model.low, dtype=np.int32)
        offset_S = self._read_high(model, num_symbols) << model.shift
        if model.shift:
            offset_S |= self._decode(uniform_table(model.shift), num_symbols)
            if int(offset_S.max()) >= model.size:
                raise BitstreamError(f"{self._what} has a symbol outside its range; it is damaged")
        return offset_S + np.int32(model.low)

    def _read_high(self, model: SymbolModel, num_symbols: int) -> Symbols:
        if model.num_entries == 1:
            return np.zeros(num_symbols, dtype=np.int32)
        if model.kind is not Kind.ADAPTIVE:
            return self._decode(model.table(), num_symbols)
        counts = Counts(model.table(), model.weight)
        high_S = np.empty(num_symbols, dtype=np.int32)
        start = 0
        while start < num_symbols:
            length, table_H = counts.block()
            block_S = self._decode(table_H, min(length, num_symbols - start))
            high_S[start : start + block_S.shape[0]] = block_S
            counts.update(block_S)
            start += length
        return high_S

    def _decode(self, table_H: Integers, num_symbols: int) -> Symbols:
        try:
            symbol_S: Symbols = self._decoder.decode(_categorical(table_H), num_symbols)
        except AssertionError:
            # This is how constriction reports data that no encoder can have written.
            raise BitstreamError(f"{self._what} is not a stream of the range coder; it is damaged") from None
        return symbol_S


def differences(symbol_TS: Symbols) -> tuple[Symbols, Symbols]:
    """Return the symbols of the first step of time, and the differences of each later step to the one before.

    Both are flat; :func:`accumulate` is the way back. Axis S may be several, or none.
    """
    return symbol_TS[0].ravel(), np.diff(symbol_TS, axis=0).ravel()


def accumulate(parts: Sequence[Symbols], num_steps: int, what: str) -> Symbols:
    """Return the symbols of all ``num_steps`` steps of time, flat, from what :func:`differences` returned.

    Raises
    ------
    BitstreamError
        If a sum is not a symbol of the format; ``what`` names the section.
    """
    coded_S = np.concatenate(parts)
    # step 0          a0 a1 a2    a          rows are steps of time; sums down the columns undo this
    # differences     b0 b1 b2    b − a
    #                 c0 c1 c2    c − b
    # Sums of 64 bits do not wrap: there would have to be 2³⁹ steps.
    symbol_TS = coded_S.reshape(num_steps, coded_S.shape[0] // max(num_steps, 1)).cumsum(0, dtype=np.int64)
    if symbol_TS.size and max(-int(symbol_TS.min()), int(symbol_TS.max())) > LARGEST_SYMBOL:
        reason = f"differences that add up to more than ±{LARGEST_SYMBOL}"
        raise BitstreamError(f"{what} has {reason}; it is damaged")
    flat: Symbols = symbol_TS.astype(np.int32).ravel()
    return flat
