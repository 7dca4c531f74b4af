"""Float tensor → integer symbols: the one quantiser (docs/format.md, section 5).

Uniform and mid-tread: q = round(x / step), x̂ = q · step, so zero stays zero. The step follows from the range
of the values, and is rounded up to a code of the format before it is used.

Axes: R rows (channels, or one row for the whole tensor), E elements of a row.
"""

from __future__ import annotations

from math import frexp, inf
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, float64

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


def step_code(step: float, unit: int = 1) -> int:
    """Return the smallest code, a multiple of ``unit``, with at least ``step`` > 0; the last if none has.

    Raises
    ------
    FitError
        If ``step`` is not a positive number.
    """
    if not 0 < step < inf:
        raise FitError(f"a quantisation step of {step} cannot be stored; fit again with another seed")
    # A code is a float with 7 bits of mantissa:  code = exponent field << 7 | mantissa field
    #   step = 1.mmmmmmm · 2^e                           e + 7 + 100         mmmmmmm
    # frexp gives 0.1mmmmmmm… · 2^(e + 1): eight bits of the fraction, rounded up, are 128 + mmmmmmm. Rounding
    # up to 256 carries into the exponent field, which is the next power of two.
    fraction, exponent = frexp(step)
    mantissa = int(np.ceil(fraction * 2 ** (MANTISSA_BITS + 1)))
    code = (exponent - MANTISSA_BITS - 1 + EXPONENT_BIAS << MANTISSA_BITS) + mantissa - (1 << MANTISSA_BITS)
    return min(max(-(-code // unit) * unit, 0), MAX_STEP_CODE // unit * unit)


def quantize(value: Tensor, bits: int, *, name: str, by_channel: bool = False) -> QuantizedTensor:
    """Return symbols and steps of ``value`` (any shape and float type).

    The step is (max − min) / (2^bits − 1), rounded up to the next one that can be stored; ``by_channel``: one
    for each index of the first axis. ``name`` names the tensor in errors.

    Raises
    ------
    FitError
        If a value is not finite, or too large for the format.
    """
    flat = value.detach().to("cpu", float64).numpy()
    if not np.isfinite(flat).all():
        raise FitError(f"{name}: not all values are finite; fit again with a lower learning rate")
    unit = CHANNEL_CODE_UNIT if by_channel else 1
    max_symbol = MAX_CHANNEL_SYMBOL if by_channel else MAX_SYMBOL
    row_RE = flat.reshape(flat.shape[0], -1) if by_channel else flat.reshape(1, -1)
    code_R = np.full(len(row_RE), -1)
    for number, row_E in enumerate(row_RE):
        largest = float(np.abs(row_E).max(initial=0))
        if largest > 0:
            step = max(float(row_E.max() - row_E.min()) / (2**bits - 1), largest / max_symbol)
            code_R[number] = step_code(step, unit)
            if step_of(int(code_R[number])) < step:
                raise FitError(f"{name}: values up to {np.abs(flat).max():.3g} are too large to store")
    # Rows of zeros need no step of their own; the smallest one in use keeps the codes close together.
    is_zero_R = code_R < 0
    code_R[is_zero_R] = 0 if is_zero_R.all() else code_R[~is_zero_R].min()
    codes = tuple(code_R.tolist())
    symbol_RE = np.rint(row_RE / _steps(codes)).astype(np.int32)
    return QuantizedTensor(symbol_RE.reshape(flat.shape), codes)


def quantize_to_steps(value: Tensor, steps: Tensor, *, name: str) -> QuantizedTensor:
    """Return symbols of ``value`` under ``steps``: one, or one for each index of the first axis.

    Steps that no file can hold exactly are rounded up.

    Raises
    ------
    FitError
        If a value is not finite, or too large for its step.
    """
    flat = value.detach().to("cpu", float64).numpy()
    by_channel = len(steps) > 1
    unit = CHANNEL_CODE_UNIT if by_channel else 1
    codes = tuple(step_code(step, unit) for step in steps.detach().cpu().tolist())
    scaled_RE = flat.reshape(len(codes), -1) / _steps(codes)
    limit = MAX_CHANNEL_SYMBOL if by_channel else MAX_SYMBOL
    # Half a symbol beyond the limit still rounds to the limit.
    if not np.isfinite(scaled_RE).all() or np.abs(scaled_RE).max(initial=0) > limit + 0.5:
        raise FitError(f"{name}: values are not finite or too large for their steps; fit again")
    return QuantizedTensor(np.rint(scaled_RE).astype(np.int32).reshape(flat.shape), codes)


def _steps(codes: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the steps of ``codes`` as a column, float64 (R, 1)."""
    return np.array([step_of(code) for code in codes])[:, None]
