"""Float tensor ↔ integer symbols: the one quantiser (docs/format.md, section 5).

Uniform and mid-tread: q = round(x / step), x̂ = q · step, so zero stays zero. The step follows from the range
of the values and is rounded to a code of the format before it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vinr.errors import FitError

__all__ = [
    "CHANNEL_CODE_UNIT",
    "MAX_STEP_CODE",
    "QuantizedTensor",
    "dequantize",
    "quantize",
    "quantize_to_steps",
    "step_code",
    "step_of",
]

MANTISSA_BITS: Final = 7
EXPONENT_BIAS: Final = 100
MAX_STEP_CODE: Final = 2**14 - 1
# Steps a channel are stored to an eighth of an octave: coarser steps lose quality and bits alike.
CHANNEL_CODE_UNIT: Final = 16
# Largest |symbol|; it bounds the step from below, so that symbols stay exact in float32 however far the
# values lie from zero, and so that all channels of a tensor fit one alphabet.
MAX_SYMBOL: Final = 2**20
MAX_CHANNEL_SYMBOL: Final = 2**15


@dataclass(frozen=True)
class QuantizedTensor:
    """``symbols``: int32, shaped as the tensor. ``step_codes``: one, or one for each index of axis 0."""

    symbols: NDArray[np.int32]
    step_codes: tuple[int, ...]

    @property
    def is_channelwise(self) -> bool:
        """Whether there is a step for each index of the first axis."""
        return len(self.step_codes) > 1


def step_of(code: int) -> float:
    """Return the step that ``code`` (0 … 2¹⁴ − 1) stands for; exact in float32."""
    mantissa = (1 << MANTISSA_BITS) + (code & (1 << MANTISSA_BITS) - 1)
    return mantissa * 2.0 ** ((code >> MANTISSA_BITS) - EXPONENT_BIAS)


def step_code(step: float, unit: int = 1) -> int:
    """Return the least code, a multiple of ``unit``, with at least ``step`` > 0; the last if none has."""
    fraction, exponent = frexp(step)
    mantissa = int(np.ceil(fraction * 2 ** (MANTISSA_BITS + 1)))
    code = (exponent - MANTISSA_BITS - 1 + EXPONENT_BIAS << MANTISSA_BITS) + mantissa - (1 << MANTISSA_BITS)
    return min(max(-(-code // unit) * unit, 0), MAX_STEP_CODE // unit * unit)


def quantize(value: Tensor, bits: int, *, name: str, by_channel: bool = False) -> QuantizedTensor:
    """Return symbols and steps of ``value``.

    Parameters
    ----------
    value
        Any shape and float type.
    bits
        Bits that would index the range of the values: step = (max − min) / (2^bits − 1), rounded up to the
        next step that can be stored.
    name
        Names the tensor in errors.
    by_channel
        A step for each index of the first axis instead of one.

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
        codes = [_code_of_row(row, bits, unit) for row in rows]
    except OverflowError:
        raise FitError(f"{name}: values up to {np.abs(flat).max():.3g} are too large to store") from None
    used = [code for code in codes if code is not None]
    # Rows of zeros need no step of their own; the least one in use keeps the codes close together.
    step_codes = tuple(min(used, default=0) if code is None else code for code in codes)
    steps = np.array([step_of(code) for code in step_codes])
    symbols = np.rint(rows / steps[:, None])
    return QuantizedTensor(symbols.astype(np.int32).reshape(flat.shape), step_codes)


def quantize_to_steps(value: Tensor, steps: Tensor, *, name: str) -> QuantizedTensor:
    """Return symbols of ``value`` under given ``steps``: one, or one for each index of the first axis.

    Steps that no file can hold exactly are rounded up.

    Raises
    ------
    FitError
        If a value is not finite, or too large for its step.
    """
    flat = value.detach().to("cpu", torch.float64).numpy()
    unit = CHANNEL_CODE_UNIT if len(steps) > 1 else 1
    step_codes = tuple(step_code(step, unit) for step in steps.detach().cpu().tolist())
    rows = flat.reshape(len(step_codes), -1)
    symbols = np.rint(rows / np.array([step_of(code) for code in step_codes])[:, None])
    limit = MAX_SYMBOL if unit == 1 else MAX_CHANNEL_SYMBOL
    if not np.isfinite(symbols).all() or np.abs(symbols).max(initial=0) > limit:
        raise FitError(f"{name}: values are not finite or too large for their steps; fit again")
    return QuantizedTensor(symbols.astype(np.int32).reshape(flat.shape), step_codes)


def _code_of_row(row: NDArray[np.float64], bits: int, unit: int) -> int | None:
    largest = float(np.abs(row).max(initial=0))
    if largest == 0:
        return None
    span = float(row.max() - row.min())
    least = max(span / (2**bits - 1), largest / (MAX_SYMBOL if unit == 1 else MAX_CHANNEL_SYMBOL))
    code = step_code(least, unit)
    if step_of(code) < least:
        raise OverflowError
    return code


def dequantize(quantized: QuantizedTensor) -> Tensor:
    """Return the float32 tensor a decoder sees: one exact conversion and one multiplication an element."""
    steps = np.array([step_of(code) for code in quantized.step_codes], dtype=np.float32)
    shape = (-1,) + (1,) * (quantized.symbols.ndim - 1) if quantized.is_channelwise else ()
    return torch.from_numpy(np.asarray(quantized.symbols.astype(np.float32) * steps.reshape(shape)))
