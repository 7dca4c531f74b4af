"""Encodings of time and place by sines and cosines, and the settings of decoders that start from them.

A position t is described by sin and cos of ``base^l · π · t`` for l = 0 … levels − 1 (NeRV, NeurIPS 2021).
With 80 levels of base 1.25 the fastest wave turns 2·10⁷ times from t = 0 to 1, so the order of roundings
decides its value: float32 and float64 disagree completely. A file must decode alike everywhere, hence the
default keeps the angle an exact fraction until it lies below a right angle; the float32 modes repeat what
published checkpoints were trained with.

Axes: N frames of a batch, P cells of a grid in row-major order, F features.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Final, Literal, ParamSpec, Self, TypeVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from vinr.errors import UsageError
from vinr.models.layers.blocks import StagesConfig, grid_size
from vinr.sharing import LruCache
from vinr.sizing.strides import MAX_CELLS
from vinr.video.spec import VideoSpec

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
EncodingOrder = Literal["interleaved", "blocks"]
EncodingPrecision = Literal["exact", "float32", "float32_bases"]
TimeNorm = Literal["i/T", "i/(T-1)", "(i+1)/T"]
Levels = Annotated[int, Field(ge=1, le=256)]
WaveOrder = Annotated[
    EncodingOrder,
    Field(
        description="interleaved: sine and cosine one after the other; blocks: all sines, then all cosines"
    ),
]

# What is called in the place of functions that are no graph, by thread.
_REPLACEMENT: Final[ContextVar[Callable[..., Any] | None]] = ContextVar("replacement", default=None)
# Highest frequency: beyond it angles of a float32 encoding would overflow.
MAX_FREQUENCY_DIGITS = 30
# PyTorch's float32 power gives 1.25^45 one unit below the nearest float32, and the nearest at levels 0 … 79
# otherwise.
_ROUNDED_DOWN = {(1.25, 45)}


# -- one position --------------------------------------------------------------------------------------------


def normalise_time(time: float, num_frames: int, rule: TimeNorm) -> Fraction:
    """Return the normalised time of ``time`` (in frames, may lie between two) as an exact fraction.

    Under ``i/(T-1)`` the only frame of a one-frame video has time 0.
    """
    exact = Fraction(time)
    if rule == "i/T":
        return exact / num_frames
    if rule == "(i+1)/T":
        return (exact + 1) / num_frames
    return exact / max(num_frames - 1, 1)


@functools.lru_cache(maxsize=4096)
def encode_position(
    position: Fraction,
    *,
    base: float,
    levels: int,
    order: EncodingOrder = "blocks",
    precision: EncodingPrecision = "exact",
) -> tuple[float, ...]:
    """Return the 2 · ``levels`` numbers that describe ``position``; they are cached.

    Parameters
    ----------
    position
        Normalised time or coordinate, usually in [0, 1].
    base
        Ratio of neighbouring frequencies. ``exact`` reads it as the decimal it prints as (1.05 = 21/20).
    order
        ``interleaved``: sin, cos of level 0, then of level 1, …; ``blocks``: all sines, then all cosines.
    precision
        ``exact``: no rounding of the angle before it lies below a right angle. ``float32``: the position, the
        bases and their product rounded to float32 as the references do (interleaved: (t · base^l) · π;
        blocks: t · (base^l · π)). ``float32_bases``: t · (base^l · π) with rounded bases, but t and the
        product in float64.
    """
    if precision == "exact":
        pairs = list(_exact_waves(position, Fraction(str(base)), levels))
    else:
        angles = _rounded_angles(position, base, levels, order, precision)
        pairs = [(math.sin(angle), math.cos(angle)) for angle in angles]
    if order == "interleaved":
        return tuple(itertools.chain.from_iterable(pairs))
    sines, cosines = zip(*pairs, strict=True)
    return (*sines, *cosines)


def float32_bases(base: float, levels: int) -> tuple[float, ...]:
    """Return ``base^l · π`` as the references hold it: power and π rounded to float32, then their product."""
    bases = []
    for level, power in enumerate(_rounded_powers(base, levels)):
        stepped = np.nextafter(power, np.float32(0)) if (base, level) in _ROUNDED_DOWN else power
        bases.append(float(stepped * np.float32(math.pi)))
    return tuple(bases)


def _rounded_powers(base: float, levels: int) -> list[np.float32]:
    """Return the powers 0 … ``levels`` − 1 of ``base``, each rounded once."""
    return [np.float32(float(Fraction(base) ** level)) for level in range(levels)]


def _exact_waves(position: Fraction, base: Fraction, levels: int) -> Iterator[tuple[float, float]]:
    numerator, denominator = position.numerator, position.denominator
    for _ in range(levels):
        # position · base^l in half turns = (quadrant + rest / denominator) right angles, in whole numbers:
        # what is rounded is below a right angle, and its sine is good to the last digits of a float64.
        quadrant, rest = divmod(2 * numerator, denominator)
        angle = math.pi / 2 * (rest / denominator)
        sine, cosine = math.sin(angle), math.cos(angle)
        # A right angle more: sin becomes cos, cos becomes −sin.
        for _ in range(quadrant % 4):
            sine, cosine = cosine, -sine
        yield sine, cosine
        numerator *= base.numerator
        denominator *= base.denominator


def _rounded_angles(
    position: Fraction, base: float, levels: int, order: EncodingOrder, precision: EncodingPrecision
) -> list[float]:
    time = float(position)
    if precision == "float32_bases":
        return [time * step for step in float32_bases(base, levels)]
    time32 = np.float32(time)
    if order == "blocks":
        return [float(time32 * np.float32(step)) for step in float32_bases(base, levels)]
    return [float((time32 * power) * np.float32(math.pi)) for power in _rounded_powers(base, levels)]


# -- all frames, all cells -----------------------------------------------------------------------------------


def no_graph(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Mark a method that computes exactly, or remembers: compilers call it as it is, and do not trace it.

    As ``torch.compiler.disable``, which loads the whole compiler where the method is defined: two seconds of
    every program that decodes, though few compile. Other tracers put something in its place
    (:func:`no_graph_replaced`).
    """
    untraced: list[Callable[Arguments, Result]] = []

    def replaceable(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        replacement = _REPLACEMENT.get()
        if replacement is None:
            return function(*args, **kwargs)
        result: Result = replacement(function, *args, **kwargs)
        return result

    @functools.wraps(function)
    def called(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if "torch._dynamo" not in sys.modules:
            return replaceable(*args, **kwargs)  # nothing can be compiling
        if not untraced:
            untraced.append(torch.compiler.disable(replaceable))  # type: ignore[no-untyped-call]
        return untraced[0](*args, **kwargs)

    return called


@contextmanager
def no_graph_replaced(replacement: Callable[..., Any] | None) -> Iterator[None]:
    """Call ``replacement(function, *arguments)`` in the place of each :func:`no_graph`, in this thread alone.

    None: call the functions themselves.
    """
    token = _REPLACEMENT.set(replacement)
    try:
        yield
    finally:
        _REPLACEMENT.reset(token)


@dataclass(frozen=True)
class TimeEncoding:
    """Encodes frame numbers, see :func:`encode_position` and :func:`normalise_time`."""

    num_frames: int
    base: float
    levels: int
    order: EncodingOrder = "blocks"
    time_norm: TimeNorm = "i/T"
    precision: EncodingPrecision = "exact"

    @property
    def num_features(self) -> int:
        """Numbers that describe one time."""
        return 2 * self.levels

    @no_graph  # exact integers are no graph
    def __call__(self, time_N: Tensor) -> Tensor:
        """Return float64 features (N, 2 · levels), on the CPU, of ``time_N`` in frames."""
        rows = list(map(self._row, time_N.tolist()))
        return torch.tensor(rows, dtype=torch.float64).view(-1, self.num_features)

    def _row(self, time: float) -> tuple[float, ...]:
        return encode_position(
            normalise_time(time, self.num_frames, self.time_norm),
            base=self.base,
            levels=self.levels,
            order=self.order,
            precision=self.precision,
        )


class GridEncoding:
    """Encodings of the cells of a grid: those of row y / height, then those of column x / width.

    They carry no information of the video, so they are computed, not stored: when first asked for, since
    counting a network's parameters does not take them.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        *,
        base: float,
        levels: int,
        order: EncodingOrder,
        precision: EncodingPrecision = "exact",
    ) -> None:
        self.num_features = 4 * levels
        self._grid = grid
        self._encode = functools.partial(
            encode_position, base=base, levels=levels, order=order, precision=precision
        )
        self._used: LruCache[tuple[torch.dtype, torch.device], Tensor] = LruCache(2)

    def _exact(self) -> Tensor:
        height, width = self._grid
        rows = [self._encode(Fraction(place, height)) for place in range(height)]
        columns = [self._encode(Fraction(place, width)) for place in range(width)]
        # Row-major: the columns of row 0, then those of row 1, …
        cells = [(*row, *column) for row, column in itertools.product(rows, columns)]
        return torch.tensor(cells, dtype=torch.float64)

    @no_graph  # remembers a copy, which is no graph
    def like(self, weight: Tensor) -> Tensor:
        """Return the encodings (P, 4 · levels) in the type and on the device of ``weight``."""

        def make() -> Tensor:
            # What is remembered from decoding must serve fitting too.
            with torch.inference_mode(False):
                return self._exact().to(weight.device, weight.dtype)

        return self._used.get((weight.dtype, weight.device), make)


# -- settings ------------------------------------------------------------------------------------------------


def check_frequencies(base: float, levels: int) -> None:
    """Raise ValueError if the fastest wave of an encoding lies beyond 1e30."""
    if levels * math.log10(base) > MAX_FREQUENCY_DIGITS:
        raise ValueError(f"base {base} to the power of levels {levels} exceeds 1e{MAX_FREQUENCY_DIGITS}")


def cover_frame(
    height: int, width: int, strides: Sequence[int], grid: tuple[int | None, int | None]
) -> tuple[int, int]:
    """Return rows and columns of the first grid: those of ``grid``, where None as many as are needed.

    ``height`` and ``width`` are the pixels that the grid, enlarged by ``strides``, must cover.

    Raises
    ------
    UsageError
        If the given grid is too small, or the grid has more than 4096 cells.
    """
    needed = grid_size(height, width, strides)
    chosen = grid[0] or needed[0], grid[1] or needed[1]
    if chosen[0] < needed[0] or chosen[1] < needed[1]:
        raise UsageError(
            f"a stem grid of {chosen[0]}×{chosen[1]} is too small for {height}×{width} pixels, which need "
            f"{needed[0]}×{needed[1]}; leave stem_height and stem_width out"
        )
    # Small whatever a file asks for: transformers compare each cell with each.
    if math.prod(chosen) > MAX_CELLS:
        raise UsageError(
            f"a stem grid of {chosen[0]}×{chosen[1]} has more than {MAX_CELLS} cells; take larger strides"
        )
    return chosen


class StemGridConfig(StagesConfig):
    """Settings of decoders that start from a grid which need not fit the frame exactly."""

    stem_height: int | None = Field(None, ge=1, le=512, description="rows of the first grid; none: as needed")
    stem_width: int | None = Field(
        None, ge=1, le=512, description="columns of the first grid; none: as needed"
    )

    def first_grid(self, video: VideoSpec) -> tuple[int, int]:
        """Return rows and columns of the first grid for ``video``, see :func:`cover_frame`."""
        return cover_frame(video.height, video.width, self.strides, (self.stem_height, self.stem_width))


class EncodedGridConfig(StemGridConfig):
    """Settings of decoders that start from a grid and describe time by sines and cosines."""

    base: float = Field(1.25, gt=1, le=10, description="ratio of neighbouring frequencies of the encodings")
    levels: Levels = Field(80, description="frequencies of the encodings")
    encoding_order: WaveOrder = "interleaved"
    time_norm: TimeNorm = Field("i/T", description="time of frame i of T frames")

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        check_frequencies(self.base, self.levels)
        return self

    def time_encoding(self, num_frames: int, precision: EncodingPrecision = "exact") -> TimeEncoding:
        """Return the encoding of time for a video of ``num_frames``."""
        return TimeEncoding(
            num_frames, self.base, self.levels, self.encoding_order, self.time_norm, precision
        )
