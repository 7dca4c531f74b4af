"""Float tensor → integer symbols: the one quantiser (docs/format.md, section 5).

Uniform and mid-tread: q = round(x / step), x̂ = q · step, so zero stays zero. The step follows from the range
of the values, or is the one with the least squared error; it is rounded to a code of the format before it is
used.

Axes: R rows (channels, or one row for all), E elements of a row, A symbols from its least to its greatest,
W windows of 2^bits consecutive symbols among them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import frexp, inf
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vinr.compress.unpack import (
    CHANNEL_CODE_UNIT,
    EXPONENT_BIAS,
    MANTISSA_BITS,
    MAX_STEP_CODE,
    QuantizedTensor,
    step_of,
)
from vinr.errors import FitError

# Largest |symbol|; it bounds the step from below, so that symbols stay exact in float32 however far the
# values lie from zero, and so that all channels of a tensor fit one alphabet.
MAX_SYMBOL: Final = 2**20
MAX_CHANNEL_SYMBOL: Final = 2**15
# Steps of least error are looked for from twice the range's step down, an eighth of an octave at a time.
OCTAVE: Final = 2**MANTISSA_BITS
SEARCH_STRIDE: Final = CHANNEL_CODE_UNIT

StepRule = Literal["range", "mse"]
# From elements in units of their step to symbols.
Rounding = Callable[[NDArray[np.float64]], NDArray[np.int32]]


def step_code(step: float, unit: int = 1) -> int:
    """Return the least code, a multiple of ``unit``, with at least ``step`` > 0; the last if none has.

    Raises
    ------
    FitError
        If ``step`` is not a positive number.
    """
    if not 0 < step < inf:
        raise FitError(f"a quantisation step of {step} cannot be stored; fit again with another seed")
    fraction, exponent = frexp(step)
    mantissa = int(np.ceil(fraction * 2 ** (MANTISSA_BITS + 1)))
    code = (exponent - MANTISSA_BITS - 1 + EXPONENT_BIAS << MANTISSA_BITS) + mantissa - (1 << MANTISSA_BITS)
    return min(max(-(-code // unit) * unit, 0), MAX_STEP_CODE // unit * unit)


def nearest(code: NDArray[np.float64]) -> NDArray[np.int32]:
    """Return the nearest symbols (int32) of elements in units of their step; ties go to the even one."""
    return np.rint(code).astype(np.int32)


def quantize(
    value: Tensor,
    bits: int,
    *,
    name: str,
    by_channel: bool = False,
    steps: StepRule = "range",
    rounding: Rounding = nearest,
) -> QuantizedTensor:
    """Return symbols and steps of ``value``.

    Parameters
    ----------
    value
        Any shape and float type.
    bits
        Bits that would index the symbols.
    name
        Names the tensor in errors.
    by_channel
        A step for each index of the first axis instead of one.
    steps
        ``range``: (max − min) / (2^bits − 1), rounded up to the next step that can be stored. ``mse``: the
        step, and the 2^bits consecutive symbols, with the least squared error of the nearest symbols; values
        beyond the outermost symbols take those. The error is never larger than under ``range``.
    rounding
        From elements in units of their step, within the outermost symbols, to symbols.

    Raises
    ------
    FitError
        If a value is not finite, or too large for the format.
    """
    flat = value.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(flat).all():
        raise FitError(f"{name}: not all values are finite; fit again with a lower learning rate")
    unit = CHANNEL_CODE_UNIT if by_channel else 1
    rows = flat.reshape(flat.shape[0], -1) if by_channel else flat.reshape(1, -1)
    try:
        grids = [_grid_of_row(row, bits, unit, steps) for row in rows]
    except OverflowError:
        raise FitError(f"{name}: values up to {np.abs(flat).max():.3g} are too large to store") from None
    # Rows of zeros need no step of their own; the least one in use keeps the codes close together.
    least = min((grid.code for grid in grids if grid is not None), default=0)
    grids_R = [_Grid(least) if grid is None else grid for grid in grids]
    step_codes = tuple(grid.code for grid in grids_R)
    low_R1 = np.array([[grid.low] for grid in grids_R])
    high_R1 = np.array([[grid.high] for grid in grids_R])
    code_RE = np.clip(_in_steps(rows, step_codes), low_R1, high_R1)
    return QuantizedTensor(rounding(code_RE).reshape(flat.shape), step_codes)


def quantize_to_steps(
    value: Tensor, steps: Tensor, *, name: str, rounding: Rounding = nearest
) -> QuantizedTensor:
    """Return symbols of ``value`` under given ``steps``: one, or one for each index of the first axis.

    Steps that no file can hold exactly are rounded up. ``rounding`` as of :func:`quantize`.

    Raises
    ------
    FitError
        If a value is not finite, or too large for its step.
    """
    flat = value.detach().to("cpu", torch.float64).numpy()
    unit = CHANNEL_CODE_UNIT if len(steps) > 1 else 1
    step_codes = tuple(step_code(step, unit) for step in steps.detach().cpu().tolist())
    rows = flat.reshape(len(step_codes), -1)
    code_RE = _in_steps(rows, step_codes)
    limit = MAX_SYMBOL if unit == 1 else MAX_CHANNEL_SYMBOL
    if not np.isfinite(code_RE).all() or np.abs(code_RE).max(initial=0) > limit + 0.5:
        raise FitError(f"{name}: values are not finite or too large for their steps; fit again")
    return QuantizedTensor(rounding(code_RE).reshape(flat.shape), step_codes)


def _in_steps(rows: NDArray[np.float64], step_codes: tuple[int, ...]) -> NDArray[np.float64]:
    code_RE: NDArray[np.float64] = rows / np.array([step_of(code) for code in step_codes])[:, None]
    return code_RE


@dataclass(frozen=True)
class _Grid:
    """The values a row may be rounded to: ``low`` … ``high`` times the step of ``code``."""

    code: int
    low: float = -inf
    high: float = inf


def _grid_of_row(row: NDArray[np.float64], bits: int, unit: int, steps: StepRule) -> _Grid | None:
    """Return the grid of ``row``; None if all its elements are 0, which any grid has."""
    largest = float(np.abs(row).max(initial=0))
    if largest == 0:
        return None
    span = float(row.max() - row.min())
    finest = largest / (MAX_SYMBOL if unit == 1 else MAX_CHANNEL_SYMBOL)
    least = max(span / (2**bits - 1), finest)
    grid = _Grid(step_code(least, unit))
    if step_of(grid.code) < least:
        raise OverflowError
    if steps == "range" or span == 0:
        return grid
    found = _LeastError(row, bits).search(grid.code, step_code(finest, unit), unit)
    # The search adds in another order than this; the promise is about what comes out.
    return min(grid, found, key=lambda candidate: _squared_error(row, candidate))


def _squared_error(row: NDArray[np.float64], grid: _Grid) -> float:
    step = step_of(grid.code)
    return float(np.square(row - step * np.rint(np.clip(row / step, grid.low, grid.high))).sum())


@dataclass(frozen=True)
class _Found:
    """A grid with the squared error of a row on it, and the part that comes from saturated elements."""

    grid: _Grid
    error: float
    saturated: float


class _LeastError:
    """Squared errors of one row under any step, from its sorted elements and sums over them.

    The elements between two bounds take one symbol each, and their error is Σx² − 2·t·Σx + n·t², where t is
    the value of the symbol: a step costs a look-up a symbol, not a pass over the elements.
    """

    def __init__(self, row: NDArray[np.float64], bits: int) -> None:
        self.num_symbols = 2**bits
        # Relative to the mean: sums of squares would lose the digits of elements far from zero.
        self.centre = float(row.mean())
        self.value_E = np.sort(row)
        shifted_E = self.value_E - self.centre
        self.sum_E = np.concatenate([[0.0], shifted_E.cumsum()])
        self.square_E = np.concatenate([[0.0], np.square(shifted_E).cumsum()])

    def search(self, start: int, last: int, unit: int) -> _Grid:
        """Return the best grid with a code, a multiple of ``unit``, of ``last`` at least.

        ``start`` is the code whose step covers the range. Below it values saturate, the more the smaller the
        step; once they alone cost more than the best step does, smaller ones need not be tried.
        """
        first = min(start + OCTAVE, MAX_STEP_CODE) // SEARCH_STRIDE * SEARCH_STRIDE
        best = self._best(first)
        for code in range(first - SEARCH_STRIDE, last - 1, -SEARCH_STRIDE):
            tried = self._best(code)
            best = min(best, tried, key=lambda found: found.error)
            if tried.saturated >= best.error:
                break
        # Where elements lie far from zero, the error swings with every code.
        near = range(best.grid.code - SEARCH_STRIDE + unit, best.grid.code + SEARCH_STRIDE, unit)
        tries = [self._best(code) for code in near if last <= code <= MAX_STEP_CODE]
        return min([best, *tries], key=lambda found: found.error).grid

    def _best(self, code: int) -> _Found:
        """Return the best window of symbols under the step of ``code``."""
        step = step_of(code)
        low, high = (int(np.rint(self.value_E[end] / step)) for end in (0, -1))
        symbol_A = np.arange(low, high + 1)
        middles = (symbol_A[1:] - 0.5) * step
        bound_A = np.concatenate([[0], self.value_E.searchsorted(middles), [self.value_E.shape[0]]])
        level_A = symbol_A.astype(np.float64) * step - self.centre
        error_A = self._error(bound_A[:-1], bound_A[1:], level_A)
        if symbol_A.shape[0] <= self.num_symbols:
            return _Found(_Grid(code), float(error_A.sum()), 0.0)
        sum_A = np.concatenate([[0.0], error_A.cumsum()])
        num_windows = symbol_A.shape[0] - self.num_symbols + 1
        inside_W = sum_A[self.num_symbols :] - sum_A[:num_windows]
        below_W = self._error(bound_A[0], bound_A[:num_windows], level_A[:num_windows])
        above_W = self._error(bound_A[self.num_symbols :], bound_A[-1], level_A[self.num_symbols - 1 :])
        best = int((inside_W + below_W + above_W).argmin())
        first = low + best
        grid = _Grid(code, first, first + self.num_symbols - 1)
        saturated = float(below_W[best] + above_W[best])
        return _Found(grid, float(inside_W[best]) + saturated, saturated)

    def _error(self, first: Any, stop: Any, level: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return Σ(x − level)² over the sorted elements from ``first`` until before ``stop``."""
        square = self.square_E[stop] - self.square_E[first]
        linear = self.sum_E[stop] - self.sum_E[first]
        error: NDArray[np.float64] = square - 2 * level * linear + (stop - first) * level**2
        return np.maximum(error, 0.0)
