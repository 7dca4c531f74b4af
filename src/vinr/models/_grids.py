"""Features read from grids over time.

From FFNeRV (Lee et al., ACM MM 2023, https://arxiv.org/abs/2212.12294)::

    time 2.5 of 8 ──> position 1.25 in a grid of 4 maps ──> ¾ · map 1 + ¼ · map 2

Axes: N times of a batch, T maps of a grid, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from vinr.models._blocks import padded
from vinr.video.spec import VideoSpec

__all__ = ["GridFrames", "TemporalGrids", "grid_frames_for", "grid_size"]

GridFrames = Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(max_length=8)]

# Added before rounding down to a map: 29 · (1/29) must be 1.
INDEX_EPSILON = 1e-6


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
    return padded(video.height, multiple) // multiple, padded(video.width, multiple) // multiple


class TemporalGrids(nn.Module):
    """Feature maps at regular times, several resolutions in time, read by linear interpolation.

    Grid j of ``grid_frames[j]`` maps serves time t (in frames, of ``num_frames``) at position
    t · grid_frames[j] / num_frames; beyond its last map that one is repeated. Xavier-uniform at first.
    """

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
