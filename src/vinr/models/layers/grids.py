"""Grids of cells: the first grid of a decoder, and features read from grids over time.

Grids over time are those of FFNeRV (Lee et al., ACM MM 2023, https://arxiv.org/abs/2212.12294)::

    time 2.5 of 8 ──> position 1.25 in a grid of 4 maps ──> ¾ · map 1 + ¼ · map 2

Axes: N times of a batch, T maps of a grid, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vinr.models.layers.blocks import StagesConfig, padded_size
from vinr.models.layers.encodings import EncodingOrder, EncodingPrecision, TimeEncoding, TimeNorm
from vinr.models.layers.modulation import check_frequencies, cover_frame
from vinr.video.spec import VideoSpec

Levels = Annotated[int, Field(ge=1, le=256)]
WaveOrder = Annotated[
    EncodingOrder,
    Field(
        description="interleaved: sine and cosine one after the other; blocks: all sines, then all cosines"
    ),
]

GridFrames = Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(max_length=8)]

# Added before rounding down to a map: 29 · (1/29) must be 1.
INDEX_EPSILON = 1e-6


def enlarged(grid: tuple[int, int], strides: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of ``grid`` after stages of ``strides``."""
    multiple = math.prod(strides)
    return grid[0] * multiple, grid[1] * multiple


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


def grid_frames_for(num_frames: int, shares: Sequence[float], *, even: bool = False) -> tuple[int, ...]:
    """Return the temporal resolutions of grids: each share of ``num_frames``, rounded, no two the same.

    ``even`` rounds up to even numbers. None exceeds the number of frames.
    """
    exact = [share * num_frames for share in shares]
    rounded = [2 * math.ceil(value / 2 - INDEX_EPSILON) if even else max(round(value), 1) for value in exact]
    return tuple(sorted({min(frames, num_frames) for frames in rounded}))


def grid_size(video: VideoSpec, strides: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns that ``strides`` enlarge to the frame, or to just more than the frame."""
    multiple = math.prod(strides)
    height, width = padded_size(video, strides)
    return height // multiple, width // multiple


class TemporalGrids(nn.Module):
    """Feature maps at regular times, several resolutions in time, read by linear interpolation.

    Grid j of ``grid_frames[j]`` maps serves time t (in frames, of ``num_frames``) at position
    t · grid_frames[j] / num_frames; beyond its last map that one is repeated. Xavier-uniform at first.
    """

    rows_per_step = 1

    def __init__(
        self, num_frames: int, grid_frames: Sequence[int], *, channels: int, size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.grid_names = tuple(f"level{number}" for number in range(1, len(grid_frames) + 1))
        for name, frames in zip(self.grid_names, grid_frames, strict=True):
            grid_TCHW = nn.Parameter(torch.empty(frames, channels, *size))
            nn.init.xavier_uniform_(grid_TCHW)
            self.register_parameter(name, grid_TCHW)

    def forward(self, time_N: Tensor) -> Tensor:
        """Return features (N, grids · channels, H, W) at ``time_N`` in frames."""
        levels: list[Tensor] = [getattr(self, name) for name in self.grid_names]
        share_N = time_N.double() / self.num_frames
        return torch.cat([_read_grid(grid_TCHW, share_N) for grid_TCHW in levels], 1)


def _read_grid(grid_TCHW: Tensor, share_N: Tensor) -> Tensor:
    position_N = share_N * grid_TCHW.shape[0]
    last = grid_TCHW.shape[0] - 1
    before_N = (position_N + INDEX_EPSILON).floor().long().clamp(0, last)
    after_N = (before_N + 1).clamp(max=last)
    part_N111 = (position_N - before_N).to(grid_TCHW).view(-1, 1, 1, 1)
    part_N111 = part_N111.where((after_N > before_N).to(part_N111.device).view(-1, 1, 1, 1), 0)
    return (1 - part_N111) * grid_TCHW[before_N] + part_N111 * grid_TCHW[after_N]
