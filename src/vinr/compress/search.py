"""The encoder's choice of models. Any choice decodes; this one looks for the shortest.

Floats are used freely here: a decoder never repeats what this file does.

Axes: H entries of a table, S symbols.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import e, inf, log2
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vinr.compress.entropy import (
    MAX_LEVEL,
    MAX_SCALE,
    MAX_SHAPE,
    MAX_SHIFT,
    MAX_SIZE,
    MAX_TABLE,
    MAX_TAIL,
    MAX_WEIGHT,
    TABLE_BITS,
    TABLE_SUM,
    Bell,
    Counts,
    Kind,
    StreamWriter,
    SymbolModel,
    Symbols,
    bell_table,
    normalise_rows,
)
from vinr.errors import FitError

Counted = NDArray[np.int64]

# Symbols on which an adaptive model's start is tried; later symbols hardly depend on it.
TRIAL_SYMBOLS: Final = 16_384
START_TAIL: Final = 2
# Grouping pays only for arrays whose model's definition, of about MODEL_BITS, weighs against their symbols.
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
    """Return the model of :func:`choose_model` and what coding ``symbol_S`` with it takes.

    Raises
    ------
    FitError
        If the symbols lie too far apart for any model.
    """
    if not symbol_S.shape[0]:
        return _priced(SymbolModel(0, 1), 0.0)
    low = int(symbol_S.min())
    model = SymbolModel(low, int(symbol_S.max()) - low + 1)
    if model.is_constant:
        return _priced(model, 0.0)
    if model.size > MAX_SIZE:
        raise FitError(f"values spread over {model.size} steps; at most {MAX_SIZE} can be coded; fit again")
    candidates: list[PricedModel] = []
    for shift in _shifts(symbol_S, model.size):
        candidates += _candidates(replace(model, shift=shift), symbol_S, static)
    return min(candidates, key=lambda candidate: candidate.num_bits)


def _priced(model: SymbolModel, symbol_bits: float) -> PricedModel:
    return PricedModel(model, symbol_bits, 8 * len(model.pack()) + StreamWriter().write_levels(model))


def _shifts(symbol_S: Symbols, size: int) -> list[int]:
    """Return shifts to try: the smallest allowed, and the largest that keeps the shape (σ of 8 entries)."""
    smallest = 0
    while (size - 1) >> smallest >= MAX_TABLE:
        smallest += 1
    smooth = int(log2(max(float(symbol_S.std()) / 8, 1.0)))
    return sorted({smallest, min(max(smallest, smooth), MAX_SHIFT)})


def _candidates(model: SymbolModel, symbol_S: Symbols, static: bool) -> Iterator[PricedModel]:
    """Yield models of all kinds with the ``shift`` of ``model``, priced for ``symbol_S``."""
    high_S = (symbol_S - np.int32(model.low)) >> model.shift
    count_H = np.bincount(high_S, minlength=model.num_entries)
    low_bits = model.shift * symbol_S.shape[0]
    bells = [_fit_bell(count_H, shape) for shape in range(MAX_SHAPE + 1)]
    for num_bits, bell in bells:
        yield _priced(replace(model, kind=Kind.BELL, bell=bell), num_bits + low_bits)
    _, best_bell = min(bells, key=lambda pair: pair[0])
    for share in (4, 64):
        histogram = _histogram(model, count_H, best_bell, share)
        yield _priced(histogram, _price(histogram.table(), count_H) + low_bits)
    if static:
        return
    # What an adaptive model takes depends on the order of the symbols, here of the first of them.
    trial = _AdaptiveTrial(high_S[:TRIAL_SYMBOLS], model.num_entries)
    best, best_bits = model, inf
    for _, bell in bells:
        for weight in range(MAX_WEIGHT, 2, -2):
            start = replace(model, bell=bell, weight=weight)
            trial_bits = trial.num_bits(start)
            if trial_bits < best_bits:
                best, best_bits = start, trial_bits
    yield _priced(best, StreamWriter().write(best, symbol_S))


class _AdaptiveTrial:
    """Symbols on which starts of an adaptive model are tried: its blocks are the same for all of them.

    Axes: B blocks.
    """

    # block       0     1     2  …     before_BH: counts of all earlier blocks, on which its table rests
    # symbols  | 64  | 64  | 64  …     inside_BH: counts of its own symbols, which that table prices
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
        """Return the bits that the tables of all blocks assign to the symbols, without coding them."""
        _, prior_H = Counts(start.table(), start.weight).counted()
        table_BH = normalise_rows(self._before_BH + prior_H)
        return float((self._inside_BH * (TABLE_BITS - np.log2(table_BH))).sum())


def _price(table_H: Counted, count_H: Counted) -> float:
    return float(count_H @ (TABLE_BITS - np.log2(table_H)))


def _fit_bell(count_H: Counted, shape: int) -> tuple[float, Bell]:
    """Return the best bell of one ``shape`` and the bits it needs: scale first, then tail."""
    # A Laplace distribution of mean deviation d is half as probable every d·ln 2 entries, which the format's
    # scale has as 2^(scale/8) / 16; starting at d itself is near enough.
    entry_H = np.arange(count_H.shape[0])
    centre = int(np.searchsorted(count_H.cumsum(), count_H.sum() / 2))
    deviation = max(float(count_H @ np.abs(entry_H - centre)) / int(count_H.sum()), 0.05)
    scale = min(max(round(8 * log2(16 * deviation)), 0), MAX_SCALE)
    best_bits, best = inf, Bell(centre, scale, shape, START_TAIL)

    def try_all(bells: Iterable[Bell]) -> None:
        nonlocal best_bits, best
        for bell in bells:
            num_bits = _price(bell_table(count_H.shape[0], bell), count_H)
            if num_bits < best_bits:
                best_bits, best = num_bits, bell

    try_all([best])
    # Scales around the best one so far, ever closer: ±16, ±8, then ±8, ±4, …
    for step in (8, 4, 2, 1):
        middle = best.scale
        scales = {min(max(middle + side * step, 0), MAX_SCALE) for side in (-2, -1, 1, 2)}
        try_all(replace(best, scale=scale) for scale in sorted(scales))
    try_all(replace(best, tail=tail) for tail in range(MAX_TAIL + 1) if tail != START_TAIL)
    return best_bits, best


def _histogram(model: SymbolModel, count_H: Counted, bell: Bell, share: int) -> SymbolModel:
    """Return a histogram of what was counted plus ``share`` symbols spread like ``bell``."""
    # Levels are quarters of an octave below the most frequent entry, which has the highest level.
    smooth_H = count_H + share * bell_table(model.num_entries, bell) / 2**TABLE_BITS
    level_H = MAX_LEVEL + np.rint(4 * np.log2(smooth_H / smooth_H.max()))
    levels = level_H.clip(0, MAX_LEVEL).astype(np.int64).tolist()
    return replace(model, kind=Kind.HISTOGRAM, levels=tuple(levels))


def group_small(arrays: Sequence[Symbols]) -> list[list[int]]:
    """Return groups of indices of ``arrays`` that are best coded with one model; large arrays stay alone.

    Arrays are joined while an estimate says that the definition saved weighs more than the symbols lose: the
    entropy of a Laplace distribution, log2(2e · mean |q − median|) bits per symbol.
    """
    groups: list[list[int]] = []
    joined: list[Symbols] = []
    for number, symbol_S in enumerate(arrays):
        best_gain, best = 0.0, len(groups)
        for group, other_S in enumerate(joined):
            if _fits(other_S, symbol_S):
                both_S = np.concatenate([other_S, symbol_S])
                gain = _estimate(other_S) + _estimate(symbol_S) - _estimate(both_S)
                if gain > best_gain:
                    best_gain, best = gain, group
        if best == len(groups):
            groups.append([number])
            joined.append(symbol_S)
        else:
            groups[best].append(number)
            joined[best] = np.concatenate([joined[best], symbol_S])
    return groups


def _fits(one_S: Symbols, other_S: Symbols) -> bool:
    """Return whether two arrays are small, not empty, and near enough for one alphabet."""
    if max(one_S.shape[0], other_S.shape[0]) > SMALL_ARRAY or not min(one_S.shape[0], other_S.shape[0]):
        return False
    low = min(int(one_S.min()), int(other_S.min()))
    return max(int(one_S.max()), int(other_S.max())) - low < MAX_SIZE


def _estimate(symbol_S: Symbols) -> float:
    """Return roughly how many bits an array takes with a model of its own."""
    if int(symbol_S.min()) == int(symbol_S.max()):
        return MODEL_BITS
    deviation = float(np.abs(symbol_S - np.median(symbol_S)).mean())
    return MODEL_BITS + int(symbol_S.shape[0]) * log2(2 * e * deviation + 1)
