"""Rounding that weighs bits against error, for numbers that are rounded once and not trained any further.

An element lies between two symbols. The nearer one has the smaller error; the other one may be so much
cheaper to code that it is the better choice. Both are priced with the table that the coder would choose for
the symbols of the tensor, and the table is chosen anew for the symbols that come out, until nothing changes::

    nearest symbols ─> table ─> bits of both neighbours ─> symbols ─┐
                         └───────────────<──────────────────────────┘

An element that is q symbols costs (x/step − q)² + ``rdo_weight`` · bits(q). Error counts in squared steps,
whatever the tensor, as if an error of one step hurt equally everywhere; steps that were learned against a
rate come to just that. Then there is a right weight: steps larger by a factor f save log2(f) bits a number
and make its error f²/12, so that around f = 1 a bit costs ln 2 / 6 ≈ 0.12 squared steps. With a greater
weight, rounding saves bits at more error than larger steps would.

Source of the idea: rate-distortion optimised quantisation as video encoders do it to transform coefficients
(Karczewicz et al., VCEG-AH21, 2008).

Axes: S symbols, A symbols of the alphabet from the least to the greatest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vinr.compress.entropy import StreamWriter, SymbolModel, Symbols
from vinr.compress.quantize import nearest
from vinr.compress.search import choose_model
from vinr.compress.tables import TABLE_BITS

# Rounds after which hardly a symbol changes any more, and the gain that is worth another one.
MOST_ROUNDS: Final = 8
LEAST_GAIN: Final = 1e-4


@dataclass(frozen=True)
class _Alphabet:
    """The symbols ``low`` … ``high`` that a tensor has when all are nearest."""

    low: int
    high: int

    def prices(self, symbol_S: Symbols) -> tuple[NDArray[np.float64], float]:
        """Return the bits of each symbol of the alphabet, infinite where ``symbol_S`` does not reach, and in
        all: those of ``symbol_S`` with the definition of the model.
        """
        model = choose_model(symbol_S, static=True)
        bits_A = np.full(self.high - self.low + 1, np.inf)
        bits_A[model.low - self.low :][: model.size] = _bits_of_symbols(model)
        num_bits = float(bits_A[symbol_S - self.low].sum()) + _definition_bits(model)
        return bits_A, num_bits


def _bits_of_symbols(model: SymbolModel) -> NDArray[np.float64]:
    if model.is_constant:
        return np.zeros(1)
    bits_H = TABLE_BITS - np.log2(model.table()) if model.num_entries > 1 else np.zeros(1)
    bits: NDArray[np.float64] = bits_H[np.arange(model.size) >> model.shift] + model.shift
    return bits


def _definition_bits(model: SymbolModel) -> float:
    return 8 * len(model.pack()) + StreamWriter().write_levels(model)


def round_for_rate(code: NDArray[np.float64], *, rdo_weight: float) -> Symbols:
    """Return the symbols (int32, shaped as ``code``) that elements in units of their step are rounded to.

    An element takes one of the two symbols it lies between, and none beyond the least and the greatest of the
    nearest symbols; a whole number stays. ``rdo_weight`` ≥ 0 is what a bit is worth in squared steps; 0 is
    nearest rounding. With the static model that :func:`~vinr.compress.search.choose_model` finds for it, its
    definition included, the result never takes more bits than nearest rounding does.
    """
    nearest_S = nearest(code).ravel()
    if rdo_weight == 0 or not nearest_S.shape[0] or nearest_S.min() == nearest_S.max():
        return nearest_S.reshape(code.shape)
    alphabet = _Alphabet(int(nearest_S.min()), int(nearest_S.max()))
    distance_S = code.ravel() - nearest_S
    other_S = (nearest_S + np.sign(distance_S).astype(np.int32)).clip(alphabet.low, alphabet.high)
    # (1 − |d|)² − d²: squared error of the other symbol, less that of the nearest. Never negative, which is
    # why a smaller sum of error and price always means fewer bits than at the start.
    more_error_S = 1 - 2 * np.abs(distance_S)
    nearest_A, other_A = nearest_S - alphabet.low, other_S - alphabet.low
    best_S = nearest_S
    bits_A, num_bits = alphabet.prices(nearest_S)
    best_cost = rdo_weight * num_bits
    for _ in range(MOST_ROUNDS):
        price_A = rdo_weight * bits_A
        moves_S = more_error_S < price_A[nearest_A] - price_A[other_A]
        symbol_S = np.where(moves_S, other_S, nearest_S)
        bits_A, num_bits = alphabet.prices(symbol_S)
        cost = rdo_weight * num_bits + float(more_error_S[moves_S].sum())
        if cost > (1 - LEAST_GAIN) * best_cost:
            break
        best_S, best_cost = symbol_S, cost
    return best_S.reshape(code.shape)
