"""What a video is, when its frames are shown, and which of its pixels a model is asked for.

Axes in names: N frames (or patches) of a batch, C colour channels (red, green, blue), H rows, W columns.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import BinaryIO, Final, Literal, Protocol, overload, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vinr.errors import UsageError

ColorMatrix = Literal["bt601", "bt709", "bt2020", "fcc", "smpte240m"]
ColorRange = Literal["limited", "full"]
BitDepth = Literal[8, 10]


# -- levels ------------------------------------------------------------------------------------------------
# Colours are kept as whole numbers:    8 bits     uint8     0 …  255        to_levels: [0, 1] ──> levels
#                                       10 bits    uint16    0 … 1023        to_unit:   levels ──> [0, 1]

TYPES: Final[dict[BitDepth, torch.dtype]] = {8: torch.uint8, 10: torch.uint16}
DEPTHS: Final[dict[torch.dtype, BitDepth]] = {torch.uint8: 8, torch.uint16: 10}


def max_level(bit_depth: int) -> int:
    """Return the level of the brightest colour: 255 for 8 bits, 1023 for 10."""
    return (1 << bit_depth) - 1


def depth_of(levels: Tensor) -> BitDepth:
    """Return the bit depth of frames by their type; ValueError if they are neither uint8 nor uint16."""
    if levels.dtype not in DEPTHS:
        raise ValueError(f"frames are torch.uint8 (8 bits) or torch.uint16 (10 bits), not {levels.dtype}")
    return DEPTHS[levels.dtype]


def computable(levels: Tensor) -> Tensor:
    """Return the same memory as a type that torch computes with on every device; ``view`` turns it back.

    Of uint16 torch has the type, but few operations: not even indexing on GPUs. 10 bits fit into int16.
    """
    return levels.view(torch.int16) if levels.dtype == torch.uint16 else levels


def to_unit(levels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return levels as colours in [0, 1] of type ``dtype``."""
    return computable(levels).to(dtype) / max_level(depth_of(levels))


def to_levels(colors: Tensor, bit_depth: BitDepth) -> Tensor:
    """Round colours in [0, 1] to levels; colours outside are clipped."""
    return round_to_levels(colors.float() * max_level(bit_depth), bit_depth)


def round_to_levels(values: Tensor, bit_depth: BitDepth) -> Tensor:
    """Round float ``values``, in units of a level, to levels, in place; values outside are clipped."""
    rounded = values.round_().clamp_(0, max_level(bit_depth))
    return rounded.to(torch.uint8) if bit_depth == 8 else rounded.to(torch.int16).view(torch.uint16)


@dataclass(frozen=True)
class ColorTags:
    """What a file says of its colours, for players: numbers of ISO/IEC 23091-2 (H.273), 2 where it is silent.

    ``range`` is libav's AVColorRange: 0 silent, 1 limited, 2 full.
    """

    primaries: int = 2
    transfer: int = 2
    matrix: int = 2
    range: int = 0


@dataclass(frozen=True)
class Hdr:
    """HDR metadata, in the units of H.265's SEI messages (ITU-T H.265, D.3.28 and D.3.35); parts may lack.

    ``mastering`` is green, blue, red and white as x, y in 0.00002, then the highest and the lowest luminance
    in 0.0001 cd/m². ``light`` is the highest light level of a pixel and of a frame's mean, in cd/m².
    """

    mastering: tuple[int, ...] | None = None
    light: tuple[int, int] | None = None


@dataclass(frozen=True)
class ColorSpec:
    """How the RGB frames relate to the Y'CbCr of the original file.

    ``matrix`` and ``range`` are those the input was converted with; output is converted back with the same.
    ``bit_depth`` is the input's (8, or 10 for more than 8), kept for information. ``tags`` are what the input
    said and the output says too; None, as for files of format 1, says ``matrix`` and ``range``.
    """

    matrix: ColorMatrix = "bt601"
    range: ColorRange = "limited"
    bit_depth: BitDepth = 8
    tags: ColorTags | None = None
    hdr: Hdr = Hdr()


@dataclass(frozen=True)
class VideoSpec:
    """Size and rate of a video, as fitted (after crop, resize and frame selection).

    It has ``num_frames`` of ``height`` rows and ``width`` columns, ``frame_rate`` per second. ``color`` says
    how its colours came and how they are to be written. Frames are uint8 (0 … 255), or with a ``bit_depth``
    of 10 uint16 (0 … 1023). ``pixel_aspect`` is the width of a pixel as shown, over its height.
    ``span_lengths`` gives the number of frames of each clip when one network represents several clips, whose
    frames are then numbered one after another; it is ``(num_frames,)`` for the ordinary single clip.
    """

    num_frames: int
    height: int
    width: int
    frame_rate: Fraction = Fraction(30)
    color: ColorSpec = field(default_factory=ColorSpec)
    span_lengths: tuple[int, ...] = ()
    pixel_aspect: Fraction = Fraction(1)
    bit_depth: BitDepth = 8

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.height < 1 or self.width < 1 or self.frame_rate <= 0:
            raise ValueError(f"a video needs at least one frame of one pixel and a positive rate, got {self}")
        if self.pixel_aspect <= 0:
            raise ValueError(f"pixel aspect {self.pixel_aspect}; it must be above 0")
        if not self.span_lengths:
            object.__setattr__(self, "span_lengths", (self.num_frames,))
        if sum(self.span_lengths) != self.num_frames or min(self.span_lengths) < 1:
            raise ValueError(f"span lengths {self.span_lengths} do not add up to {self.num_frames} frames")

    @property
    def fps(self) -> float:
        """Nominal frames per second."""
        return float(self.frame_rate)

    @property
    def num_pixels(self) -> int:
        """Pixels of the whole video: frames × rows × columns, no factor for colour channels."""
        return self.num_frames * self.height * self.width


class Ticks(Sequence[int]):
    """Presentation times of many frames, eight bytes each, in units of a time base.

    ``scale`` − 1 frames are evenly spaced between each two of ``values``; a tick is ``scale`` times shorter.
    """

    def __init__(self, values: Iterable[int] | NDArray[np.int64], scale: int = 1) -> None:
        self.values = np.asarray(values if isinstance(values, np.ndarray) else list(values), dtype=np.int64)
        self.scale = scale

    def __len__(self) -> int:
        return (len(self.values) - 1) * self.scale + 1 if len(self.values) else 0

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> Ticks: ...

    def __getitem__(self, index: int | slice) -> int | Ticks:
        """Return a time, or several; indices and slices as in Python."""
        if isinstance(index, slice):
            if self.scale == 1:
                return Ticks(self.values[index])
            return Ticks([self[number] for number in range(len(self))[index]])
        if not -len(self) <= index < len(self):
            raise IndexError(f"time {index} of {len(self)}")
        # values    0        40             scale 4: three frames between each two, in ticks of a quarter
        # index     0 1 2 3  4 5 6 7  8     9 = 4 · 2 + 1: values[2] · 4 + 1 · (values[3] − values[2])
        whole, part = divmod(index % len(self), self.scale)
        tick = int(self.values[whole]) * self.scale
        return tick + part * (int(self.values[whole + 1]) - int(self.values[whole])) if part else tick

    def rise(self) -> bool:
        """Return whether each time is greater than the one before."""
        return bool((self.values[1:] > self.values[:-1]).all())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        if isinstance(other, Ticks) and self.scale == other.scale:
            return bool(np.array_equal(self.values, other.values))
        return len(self) == len(other) and all(map(int.__eq__, self, other))

    def __hash__(self) -> int:
        return hash((self.scale, self.values.tobytes()))

    def __repr__(self) -> str:
        return f"Ticks({len(self)} from {self[0] if len(self) else None})"


@dataclass(frozen=True)
class Timeline:
    """When each frame is shown.

    ``pts`` are presentation times in units of ``time_base`` seconds, strictly rising, the first one 0;
    ``None`` stands for a constant rate of one frame every ``1 / frame_rate`` seconds. If frames of a video
    are missing, ``numbers`` are those of the other frames, and the first time may be later. ``last_seconds``
    is how long the last frame is held; ``None`` stands for ``1 / frame_rate``.
    """

    num_frames: int
    frame_rate: Fraction
    time_base: Fraction = Fraction(1, 90_000)
    pts: Sequence[int] | None = None
    numbers: tuple[int, ...] | None = None
    last_seconds: Fraction | None = None

    def __post_init__(self) -> None:
        if self.last_seconds is not None and self.last_seconds <= 0:
            raise ValueError(f"the last frame is shown for {self.last_seconds} s; it must be above 0")
        if self.pts is None:
            return
        ticks = self.pts if isinstance(self.pts, Ticks) else Ticks(self.pts)
        object.__setattr__(self, "pts", ticks)
        if len(ticks) != self.num_frames or (ticks[0] != 0 and self.numbers is None):
            raise ValueError(f"{self.num_frames} frames need as many presentation times, the first one 0")
        if not ticks.rise():
            raise ValueError("presentation times must rise strictly")

    def seconds(self, index: int) -> Fraction:
        """Return the time in seconds at which frame ``index`` appears; the first frame appears at 0."""
        if not 0 <= index < self.num_frames:
            raise IndexError(f"frame {index} of {self.num_frames}")
        if self.pts is None:
            return index / self.frame_rate
        return self.pts[index] * self.time_base

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame's appearance to the last one's end."""
        held = 1 / self.frame_rate if self.last_seconds is None else self.last_seconds
        return self.seconds(self.num_frames - 1) + held

    def index_at(self, seconds: float | Fraction) -> int:
        """Return the frame on screen at ``seconds`` ≥ 0; times past the end show the last frame."""
        if seconds < 0:
            raise IndexError(f"time {seconds} s is before the first frame")
        exact = Fraction(seconds)
        if self.pts is None:
            return min(int(exact * self.frame_rate), self.num_frames - 1)
        return bisect_right(self.pts, exact / self.time_base) - 1

    def selected(self, indices: Sequence[int]) -> Timeline:
        """Return the timeline of some frames (rising indices), shifted so that the first appears at 0.

        The last one is held until the next frame of this timeline; of evenly spaced ones, as the others.
        """
        if len(indices) == self.num_frames:
            return self
        held = self._held(indices[-1])
        if self.pts is not None:
            start = self.pts[indices[0]]
            pts = Ticks([self.pts[index] - start for index in indices])
            return Timeline(len(indices), self.frame_rate, self.time_base, pts, last_seconds=held)
        # A range is not listed: there may be millions. Evenly spaced frames have a constant rate again.
        number_N = np.array(indices[:2] if isinstance(indices, range) else indices, dtype=np.int64)
        steps = np.unique(np.diff(number_N)).tolist()
        if len(steps) <= 1:
            return Timeline(len(indices), self.frame_rate / (steps or [1])[0], last_seconds=held)
        ticks = Ticks(number_N - number_N[0])  # a tick is a frame
        return Timeline(len(indices), self.frame_rate, 1 / self.frame_rate, ticks, last_seconds=held)

    def without_others(self, numbers: Sequence[int]) -> Timeline:
        """Return the timeline of the frames ``numbers`` (rising), each at the time it had."""
        if len(numbers) == self.num_frames:
            return self
        base = 1 / self.frame_rate if self.pts is None else self.time_base
        pts = Ticks([number if self.pts is None else self.pts[number] for number in numbers])
        return Timeline(len(numbers), self.frame_rate, base, pts, tuple(numbers), self._held(numbers[-1]))

    def _held(self, index: int) -> Fraction | None:
        """Return how long frame ``index`` is shown, ``None`` for 1 / ``frame_rate``."""
        if index == self.num_frames - 1:
            return self.last_seconds
        held = self.seconds(index + 1) - self.seconds(index)
        return None if held == 1 / self.frame_rate else held

    def number(self, index: int) -> int:
        """Return the number that frame ``index`` of this timeline has in its video."""
        return index if self.numbers is None else self.numbers[index]

    def scaled(self, scale: int) -> Timeline:
        """Return the timeline with ``scale`` − 1 frames inserted between each two; it ends with a frame."""
        count, rate = (self.num_frames - 1) * scale + 1, self.frame_rate * scale
        if self.pts is None:
            return Timeline(count, rate, last_seconds=self.last_seconds)
        assert isinstance(self.pts, Ticks)
        ticks = Ticks(self.pts.values, scale * self.pts.scale)
        return Timeline(count, rate, self.time_base / scale, ticks, last_seconds=self.last_seconds)


@dataclass(frozen=True)
class Audio:
    """All audio tracks of a clip: a file of them, whose time 0 is ``start`` seconds after the first frame.

    ``start`` is below 0 where audio begins before the picture.
    """

    data: bytes = field(repr=False)
    start: Fraction = Fraction(0)

    def open(self) -> BinaryIO:
        """Return the file of them."""
        return io.BytesIO(self.data)


@dataclass(frozen=True)
class PatchGrid:
    """How a frame is cut into equal patches: ``rows`` × ``cols``; 1 × 1 is the whole frame."""

    rows: int = 1
    cols: int = 1

    @property
    def is_whole_frame(self) -> bool:
        """Whether a patch of this grid is the frame itself."""
        return self.rows == 1 and self.cols == 1


@dataclass(frozen=True)
class Query:
    """Which pixels a model is asked for: N patches, each at its own time.

    ``time_N``: float64, in frames; 3.5 lies half-way between frames 3 and 4. ``row_N``, ``col_N``: int64
    patch position in ``grid``. A whole-frame query has the 1 × 1 grid and zeros there.
    """

    time_N: Tensor
    row_N: Tensor
    col_N: Tensor
    grid: PatchGrid = field(default_factory=PatchGrid)

    @classmethod
    def of_frames(cls, index_N: Tensor) -> Query:
        """Ask for whole frames at ``index_N`` (integers, or fractions between frames)."""
        zero_N = torch.zeros(index_N.shape[0], dtype=torch.int64, device=index_N.device)
        return cls(index_N.to(torch.float64), zero_N, zero_N)

    def __len__(self) -> int:
        return int(self.time_N.shape[0])


Levels = NDArray[np.uint8] | NDArray[np.uint16]
"""Samples of 8 bits, or of 10."""

Planes = tuple[Levels, ...]
"""Y, U and V of a frame, each [rows, columns] of its own size; uint8, or uint16 of 10-bit video."""


@dataclass(frozen=True)
class FrameBatch:
    """Frames with their numbers: ``index_N`` int64, ``rgb_NCHW`` uint8, or uint16 of 10-bit video.

    ``planes`` are the Y'CbCr planes of each frame, where it was decoded as such; None elsewhere.
    """

    index_N: Tensor
    rgb_NCHW: Tensor
    planes: tuple[Planes, ...] | None = None

    def __post_init__(self) -> None:
        is_rgb = self.rgb_NCHW.ndim == 4 and self.rgb_NCHW.shape[1] == 3
        if self.rgb_NCHW.dtype not in DEPTHS or not is_rgb:
            raise ValueError(f"frames must be uint8 or uint16 (N, 3, H, W), got {self}")
        if self.index_N.dtype != torch.int64:
            raise ValueError(f"frame numbers must be int64, got {self.index_N.dtype}")
        num_planes = len(self.index_N) if self.planes is None else len(self.planes)
        if self.index_N.shape != self.rgb_NCHW.shape[:1] or num_planes != len(self.index_N):
            raise ValueError(f"one number and one set of planes per frame is needed, got {self}")

    def __len__(self) -> int:
        return len(self.index_N)

    def __getitem__(self, rows: slice) -> FrameBatch:
        """Return some of the frames, as a batch."""
        planes = None if self.planes is None else self.planes[rows]
        return FrameBatch(self.index_N[rows], self.rgb_NCHW[rows], planes)

    @classmethod
    def join(cls, batches: Sequence[FrameBatch]) -> FrameBatch:
        """Return the frames of several batches as one; planes only where all have them."""
        if len(batches) == 1:
            return batches[0]
        planes: tuple[Planes, ...] | None = ()
        for batch in batches:
            planes = None if planes is None or batch.planes is None else planes + batch.planes
        index_N = torch.cat([batch.index_N for batch in batches])
        return cls(index_N, torch.cat([batch.rgb_NCHW for batch in batches]), planes)

    def __repr__(self) -> str:
        return f"FrameBatch(index {tuple(self.index_N.shape)}, rgb {tuple(self.rgb_NCHW.shape)})"


@runtime_checkable
class FrameSource(Protocol):
    """Random access: frames are read by number, in any order (a decoder, a reader, frames in memory)."""

    @property
    def spec(self) -> VideoSpec:
        """Size and rate of the video."""
        ...

    def frames(self, index_N: Tensor) -> Tensor:
        """Return rgb_NCHW, uint8 or uint16 by the spec's bit depth, of frames ``index_N`` (int64)."""
        ...


@dataclass(frozen=True, eq=False)
class FrameStream:
    """Sequential access: all frames of a video in order, in batches of any size. It can be read once.

    ``spec`` describes the video. Wrap ``batches`` in a generator to watch the frames that pass.
    """

    spec: VideoSpec
    batches: Iterable[FrameBatch]

    @classmethod
    def of(cls, source: FrameSource, *, batch_size: int = 4) -> FrameStream:
        """Return the frames of a source in order, ``batch_size`` at a time.

        Raises
        ------
        UsageError
            If ``batch_size`` is below 1.
        """
        _check_size(batch_size)

        def read() -> Iterator[FrameBatch]:
            for first in range(0, source.spec.num_frames, batch_size):
                index_N = torch.arange(first, min(first + batch_size, source.spec.num_frames))
                yield FrameBatch(index_N, source.frames(index_N))

        return cls(source.spec, read())

    @classmethod
    def numbered(cls, spec: VideoSpec, frames: Iterable[Tensor]) -> FrameStream:
        """Return tensors rgb_NCHW, such as a player yields, as a stream: their frames are counted."""

        def count() -> Iterator[FrameBatch]:
            first = 0
            for rgb_NCHW in frames:
                yield FrameBatch(torch.arange(first, first + len(rgb_NCHW)), rgb_NCHW)
                first += len(rgb_NCHW)

        return cls(spec, count())

    def batched(self, size: int) -> FrameStream:
        """Return the same frames in batches of ``size``; the last batch may be smaller.

        Raises
        ------
        UsageError
            If ``size`` is below 1.
        """
        _check_size(size)

        def regroup() -> Iterator[FrameBatch]:
            held: list[FrameBatch] = []
            for batch in self.batches:
                held.append(batch)
                if sum(map(len, held)) < size:
                    continue
                joined = FrameBatch.join(held)
                whole = len(joined) - len(joined) % size
                for first in range(0, whole, size):
                    yield joined[first : first + size]
                held = [joined[whole:]] if whole < len(joined) else []
            if held:
                yield FrameBatch.join(held)

        return FrameStream(self.spec, regroup())

    def __iter__(self) -> Iterator[FrameBatch]:
        return iter(self.batches)


def _check_size(size: int) -> None:
    if size < 1:
        raise UsageError(f"batches of {size} frames: give at least 1")
