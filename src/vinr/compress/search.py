"""The encoder's choice of models. Any choice decodes; this one looks for the shortest.

Floats are used freely here: a decoder never repeats what this file does.

Axes: H entries of a table, S symbols.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import e, log2
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vinr.compress.entropy import MAX_SHIFT, MAX_SIZE, Kind, StreamWriter, SymbolModel, Symbols
from vinr.compress.tables import (
    MAX_LEVEL,
    MAX_SCALE,
    MAX_SHAPE,
    MAX_TABLE,
    MAX_TAIL,
    MAX_WEIGHT,
    TABLE_BITS,
    TABLE_SUM,
    Bell,
    Counts,
    bell_table,
    normalise_rows,
)

Counted = NDArray[np.int64]

# Symbols on which an adaptive model's start is tried; later symbols hardly depend on it.
TRIAL_SYMBOLS: Final = 16_384
START_TAIL: Final = 2
# A group is worth its while only for arrays whose definition weighs against their symbols.
SMALL_ARRAY: Final = 4096
MODEL_BITS: Final = 72


@dataclass(frozen=True)
class PricedModel:
    """A model, the bits that certain symbols take with it, and those that its own definition takes."""

    model: SymbolModel
    symbol_bits: float
    definition_bits: float

    @property
    def num_bits(self) -> float:
        """All bits together."""
        return self.symbol_bits + self.definition_bits


def choose_model(symbol_S: Symbols, *, static: bool = False) -> SymbolModel:
    """Return the model that codes ``symbol_S`` shortest, its own definition included.

    ``static``: leave out adaptive models, so that parts of ``symbol_S`` can be decoded alone.
    """
    return price_model(symbol_S, static=static).model


def price_model(symbol_S: Symbols, *, static: bool = False) -> PricedModel:
    """Return the model of :func:`choose_model` with what it takes to code ``symbol_S``."""
    if not symbol_S.shape[0]:
        return _priced(SymbolModel(0, 1), 0.0)
    low = int(symbol_S.min())
    size = int(symbol_S.max()) - low + 1
    model = SymbolModel(low, size)
    if model.is_constant:
        return _priced(model, 0.0)
    found = [
        candidate
        for shift in _shifts(symbol_S, size)
        for candidate in _candidates(replace(model, shift=shift), symbol_S, static)
    ]
    return min(found, key=lambda candidate: candidate.num_bits)


def _priced(model: SymbolModel, symbol_bits: float) -> PricedModel:
    return PricedModel(model, symbol_bits, 8 * len(model.pack()) + StreamWriter().write_levels(model))


def _shifts(symbol_S: Symbols, size: int) -> list[int]:
    """Return shifts to try: the least one allowed, and the largest that keeps the shape (σ of 8 entries)."""
    least = next(shift for shift in range(MAX_SHIFT + 1) if (size - 1) >> shift < MAX_TABLE)
    smooth = int(log2(max(float(symbol_S.std()) / 8, 1.0)))
    return sorted({least, min(max(least, smooth), MAX_SHIFT)})


def _candidates(model: SymbolModel, symbol_S: Symbols, static: bool) -> Iterator[PricedModel]:
    high_S = (symbol_S - np.int32(model.low)) >> model.shift
    count_H = np.bincount(high_S, minlength=model.num_entries)
    low_bits = model.shift * symbol_S.shape[0]
    bells = [_fit_bell(count_H, shape) for shape in range(MAX_SHAPE + 1)]
    for num_bits, bell in bells:
        fixed = replace(model, kind=Kind.BELL, bell=bell)
        yield _priced(fixed, num_bits + low_bits)
    _, bell = min(bells, key=lambda pair: pair[0])
    for share in (4, 64):
        histogram = _histogram(model, count_H, bell, share)
        yield _priced(histogram, _price(histogram.table(), count_H) + low_bits)
    if static:
        return
    starts = (
        replace(model, bell=bell, weight=weight)
        for (_, bell), weight in product(bells, range(MAX_WEIGHT, 2, -2))
    )
    trial = _AdaptiveTrial(high_S[:TRIAL_SYMBOLS], model.num_entries)
    best = min(starts, key=trial.num_bits)
    yield _priced(best, StreamWriter().write(best, symbol_S))


class _AdaptiveTrial:
    """Symbols on which starts of an adaptive model are tried: its blocks are the same for all of them.

    Axes: B blocks.
    """

    def __init__(self, high_S: Symbols, num_entries: int) -> None:
        counts = Counts(np.full(num_entries, TABLE_SUM, dtype=np.int64), 0)
        before, inside, start = [], [], 0
        while start < high_S.shape[0]:
            length, _ = counts.block()
            block_S = high_S[start : start + length]
            before.append(counts.counted()[0])
            inside.append(np.bincount(block_S, minlength=num_entries))
            counts.update(block_S)
            start += length
        self._before_BH, self._inside_BH = np.stack(before), np.stack(inside)

    def num_bits(self, start: SymbolModel) -> float:
        """Return the bits that the tables of all blocks assign to the symbols; nothing is coded."""
        _, prior_H = Counts(start.table(), start.weight).counted()
        table_BH = normalise_rows(self._before_BH + prior_H)
        return float((self._inside_BH * (TABLE_BITS - np.log2(table_BH))).sum())


def _price(table_H: Counted, count_H: Counted) -> float:
    return float(count_H @ (TABLE_BITS - np.log2(table_H)))


def _fit_bell(count_H: Counted, shape: int) -> tuple[float, Bell]:
    """Return the best bell of one ``shape`` and the bits it needs: scale first, then tail."""
    entry_H = np.arange(count_H.shape[0])
    centre = int(np.searchsorted(count_H.cumsum(), count_H.sum() / 2))
    spread = max(float(count_H @ np.abs(entry_H - centre)) / int(count_H.sum()), 0.05)
    start = Bell(centre, min(max(round(8 * log2(16 * spread)), 0), MAX_SCALE), shape, START_TAIL)
    best = _price(bell_table(count_H.shape[0], start), count_H), start

    def better(field: str, values: Sequence[int]) -> tuple[float, Bell]:
        bells = [replace(best[1], **{field: value}) for value in values]
        tried = ((_price(bell_table(count_H.shape[0], bell), count_H), bell) for bell in bells)
        return min([best, *tried], key=lambda pair: pair[0])

    for step in (8, 4, 2, 1):
        middle = best[1].scale
        near = {min(max(middle + side * step, 0), MAX_SCALE) for side in (-2, -1, 1, 2)}
        best = better("scale", sorted(near))
    return better("tail", [tail for tail in range(MAX_TAIL + 1) if tail != START_TAIL])


def _histogram(model: SymbolModel, count_H: Counted, bell: Bell, share: int) -> SymbolModel:
    """Return a histogram of what was counted plus ``share`` symbols spread like ``bell``."""
    smooth_H = count_H + share * bell_table(model.num_entries, bell) / 2**TABLE_BITS
    level_H = MAX_LEVEL + np.rint(4 * np.log2(smooth_H / smooth_H.max()))
    levels = tuple(int(level) for level in level_H.clip(0, MAX_LEVEL))
    return replace(model, kind=Kind.HISTOGRAM, levels=levels)


def group_small(arrays: Sequence[Symbols]) -> list[list[int]]:
    """Return groups of indices of ``arrays`` that are best coded with one model; large arrays stay alone.

    Arrays are joined while an estimate says that the definition saved weighs more than the symbols lose: the
    entropy of a Laplace distribution, log2(2e · mean |q − median|) bits a symbol.
    """
    groups: list[list[int]] = []
    joined: list[Symbols] = []
    for number, symbol_S in enumerate(arrays):
        gains = [
            _estimate(other_S) + _estimate(symbol_S) - _estimate(np.concatenate([other_S, symbol_S]))
            if _fits(other_S, symbol_S)
            else 0.0
            for other_S in joined
        ]
        if gains and max(gains) > 0:
            best = gains.index(max(gains))
            groups[best].append(number)
            joined[best] = np.concatenate([joined[best], symbol_S])
        else:
            groups.append([number])
            joined.append(symbol_S)
    return groups


def _fits(one_S: Symbols, other_S: Symbols) -> bool:
    if max(one_S.shape[0], other_S.shape[0]) > SMALL_ARRAY or not min(one_S.shape[0], other_S.shape[0]):
        return False
    low = min(int(one_S.min()), int(other_S.min()))
    return max(int(one_S.max()), int(other_S.max())) - low < MAX_SIZE


def _estimate(symbol_S: Symbols) -> float:
    """Return roughly how many bits an array takes with a model of its own."""
    spread = float(np.abs(symbol_S - np.median(symbol_S)).mean())
    constant = int(symbol_S.min()) == int(symbol_S.max())
    return MODEL_BITS + (0.0 if constant else symbol_S.shape[0] * log2(2 * e * spread + 1))
