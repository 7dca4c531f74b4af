"""Grids over time: features and tables that are stored for some times, and read between them.

::

    time 2.5 of 8 ──> position 1.25 in a grid of 4 maps ──> ¾ · map 1 + ¼ · map 2

Maps are those of FFNeRV (Lee et al., ACM MM 2023, https://arxiv.org/abs/2212.12294), tables those of HiNeRV
(Kwan et al., NeurIPS 2023, https://arxiv.org/abs/2306.09818).

Axes: N times of a batch, T maps of a grid, R rows of a table, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vinr.models.base import StoringModule

GridFrames = Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(max_length=8)]

# Added before rounding down to a map: 29 · (1/29) must be 1.
INDEX_EPSILON = 1e-6
# Tables start with values within ± this.
GRID_RANGE = 1e-3


# -- maps ----------------------------------------------------------------------------------------------------


def grid_frames_for(num_frames: int, shares: Sequence[float], *, even: bool = False) -> tuple[int, ...]:
    """Return the temporal resolutions of grids: each share of ``num_frames``, rounded, no two the same.

    ``even`` rounds up to even numbers. None exceeds the number of frames.
    """
    counts = set()
    for share in shares:
        exact = share * num_frames
        rounded = 2 * math.ceil(exact / 2 - INDEX_EPSILON) if even else max(round(exact), 1)
        counts.add(min(rounded, num_frames))
    return tuple(sorted(counts))


class TemporalGrids(StoringModule):
    """Feature maps at regular times, several resolutions in time, read by linear interpolation.

    Grid j of ``grid_frames[j]`` maps serves time t (in frames, of ``num_frames``) at position
    t · grid_frames[j] / num_frames; beyond its last map that one is repeated. Xavier-uniform at first.
    """

    def __init__(
        self, num_frames: int, grid_frames: Sequence[int], *, channels: int, size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.num_frames = num_frames
        for number, frames in enumerate(grid_frames, start=1):
            grid_TCHW = nn.Parameter(torch.empty(frames, channels, *size))
            nn.init.xavier_uniform_(grid_TCHW)
            self.register_stored(f"level{number}", grid_TCHW, role="grid", rows_per_step=1)

    def forward(self, time_N: Tensor) -> Tensor:
        """Return features (N, grids · channels, H, W) at ``time_N`` in frames."""
        share_N = time_N.double() / self.num_frames
        return torch.cat([_read_grid(grid_TCHW, share_N) for grid_TCHW in self.parameters()], 1)


def _read_grid(grid_TCHW: Tensor, share_N: Tensor) -> Tensor:
    # Position 1.25 in a grid reads ¾ of map 1 and ¼ of map 2.
    position_N = share_N * grid_TCHW.shape[0]
    last = grid_TCHW.shape[0] - 1
    before_N = (position_N + INDEX_EPSILON).floor().long().clamp(0, last)
    after_N = (before_N + 1).clamp(max=last)
    part_N111 = (position_N - before_N).to(grid_TCHW).view(-1, 1, 1, 1)
    # Beyond the last map that one alone counts, wherever the position lies.
    part_N111 = part_N111.where((after_N > before_N).to(part_N111.device).view(-1, 1, 1, 1), 0)
    return (1 - part_N111) * grid_TCHW[before_N] + part_N111 * grid_TCHW[after_N]


# -- tables --------------------------------------------------------------------------------------------------


class LevelGrid(StoringModule):
    """Tables over time, several levels, read by linear interpolation.

    Level l holds ``steps`` / 2^l steps of time (rounded down, at least one) and ``channels`` · 2^l channels,
    as a matrix of ``rows_per_step`` rows per step and ``cells_per_row`` · channels columns. Steps are spread
    evenly over the frames: step i lies in the middle of the i-th of as many equal parts of the video.
    """

    def __init__(
        self,
        num_frames: int,
        steps: int,
        *,
        levels: int,
        channels: int,
        rows_per_step: int = 1,
        cells_per_row: int = 1,
    ) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.rows_per_step, self.cells_per_row = rows_per_step, cells_per_row
        self.num_channels = channels * (2**levels - 1)  # c + 2c + 4c + …
        for level in range(levels):
            # Half the steps and twice the channels at each level.
            shape = max(steps >> level, 1) * rows_per_step, cells_per_row * (channels << level)
            table = nn.Parameter(torch.empty(shape).uniform_(-GRID_RANGE, GRID_RANGE))
            self.register_stored(f"level{level}", table, role="grid", rows_per_step=rows_per_step)

    def forward(self, time_N: Tensor, row_NR: Tensor) -> Tensor:
        """Return rows ``row_NR`` at ``time_N``, in frames: (N, R · ``cells_per_row``, all channels)."""
        return torch.cat([self._read(table, time_N, row_NR) for table in self.parameters()], -1)

    def _read(self, grid: Tensor, time_N: Tensor, row_NR: Tensor) -> Tensor:
        steps = grid.shape[0] // self.rows_per_step
        position_N = ((time_N + 0.5) * steps / self.num_frames - 0.5).clamp(0, steps - 1)
        before_N = position_N.floor()
        part_N11 = (position_N - before_N).to(grid.dtype).view(-1, 1, 1)
        # Step s holds rows s · rows_per_step and following.
        first_N1 = before_N.long().unsqueeze(1) * self.rows_per_step
        second_N1 = (before_N + 1).clamp(max=steps - 1).long().unsqueeze(1) * self.rows_per_step
        first, second = F.embedding(first_N1 + row_NR, grid), F.embedding(second_N1 + row_NR, grid)
        # A row holds cells_per_row cells side by side, each with all channels of the level.
        count, rows = row_NR.shape
        return torch.lerp(first, second, part_N11).view(count, rows * self.cells_per_row, -1)


class LocalEncoding(nn.Module):
    """A tile of stride × stride vectors for each time: a grid's cells, mapped to ``out_channels``."""

    def __init__(
        self,
        num_frames: int,
        steps: int,
        *,
        levels: int,
        channels: int,
        stride: int,
        out_channels: int,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.grid = LevelGrid(num_frames, steps, levels=levels, channels=channels, cells_per_row=stride**2)
        self.linear = nn.Linear(self.grid.num_channels, out_channels)

    def forward(self, time_N: Tensor) -> Tensor:
        """Return the tile (N, stride, stride, C) at ``time_N`` in frames."""
        row_N1 = torch.zeros(len(time_N), 1, dtype=torch.int64, device=time_N.device)
        tile: Tensor = self.linear(self.grid(time_N, row_N1))
        # Cell y · s + x of the row is pixel (y, x) of the tile.
        return tile.view(-1, self.stride, self.stride, tile.shape[-1])
