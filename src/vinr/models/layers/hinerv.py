"""Layers of HiNeRV (see :mod:`vinr.models.hinerv`), and the windows that make patches equal the whole frame.

A patch P pixels long is computed from a window that reaches p pixels over both ends. Pixels of a window that
lie outside of the frame are zero wherever a convolution reads them, as the zero padding of a whole frame is::

    frame          |----patch 0----|----patch 1----|----patch 2----|
    windows   0 0 0|===============|===|       |===|===============|0 0 0
                        patch 0                         patch 2

Axes: N frames or patches, R rows of a grid, C channels, H rows, W columns, T steps of time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vinr.video.spec import Query

NORM_EPS = 1e-6
GRID_RANGE = 1e-3


# -- grids ---------------------------------------------------------------------------------------------------


class LevelGrid(nn.Module):
    """Tables over time, several levels, read by linear interpolation.

    Level l holds ``steps`` / 2^l steps of time (rounded down, at least one) and ``channels`` · 2^l channels,
    as a matrix of ``rows_per_step`` rows a step and ``cells_per_row`` · channels columns. Steps are spread
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
        self.num_channels = sum(channels << level for level in range(levels))
        self.grid_names = tuple(f"level{level}" for level in range(levels))
        for level, name in enumerate(self.grid_names):
            shape = max(steps >> level, 1) * rows_per_step, cells_per_row * (channels << level)
            self.register_parameter(name, nn.Parameter(torch.empty(shape).uniform_(-GRID_RANGE, GRID_RANGE)))

    def forward(self, time_N: Tensor, row_NR: Tensor) -> Tensor:
        """Return rows ``row_NR`` at ``time_N``, in frames: (N, R · ``cells_per_row``, all channels)."""
        levels = [self._read(getattr(self, name), time_N, row_NR) for name in self.grid_names]
        return torch.cat(levels, -1)

    def _read(self, grid: Tensor, time_N: Tensor, row_NR: Tensor) -> Tensor:
        steps = grid.shape[0] // self.rows_per_step
        position_N = ((time_N + 0.5) * steps / self.num_frames - 0.5).clamp(0, steps - 1)
        before_N = position_N.floor()
        part_N11 = (position_N - before_N).to(grid.dtype).view(-1, 1, 1)
        first_N1 = before_N.long().unsqueeze(1) * self.rows_per_step
        second_N1 = (before_N + 1).clamp(max=steps - 1).long().unsqueeze(1) * self.rows_per_step
        first, second = F.embedding(first_N1 + row_NR, grid), F.embedding(second_N1 + row_NR, grid)
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
        return tile.view(-1, self.stride, self.stride, tile.shape[-1])


# -- windows -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paddings:
    """How far windows reach over each edge of a patch, in pixels of their own resolution.

    ``base``: the base grid and the stem. ``before``: each stage's input. ``after``: each stage's blocks.
    """

    base: int
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """The part of a stage's maps that patches need.

    ``crop_before`` and ``crop_after`` pixels are cut off each side before and after upsampling. In between,
    ``gain_N1HW`` undoes the loss of weight where an interpolation reads outside of the frame, and
    ``inside_N1HW`` is 1 in the frame and 0 elsewhere.
    """

    crop_before: int
    crop_after: int
    gain_N1HW: Tensor
    inside_N1HW: Tensor


def window_paddings(strides: Sequence[int], depths: Sequence[int], kernel: int, stem_kernel: int) -> Paddings:
    """Return the least paddings with which patches equal the whole frame."""
    before: list[int] = []
    after: list[int] = []
    needed = 0
    for stride, depth in zip(reversed(strides), reversed(depths), strict=True):
        after.insert(0, needed + depth * (kernel // 2))
        # Pixel o of the output lies at (o + ½) / s − ½ of the input and reads both neighbours.
        needed = -(-(2 * after[0] - 1 + stride) // (2 * stride))
        before.insert(0, needed)
    return Paddings(needed + stem_kernel // 2, tuple(before), tuple(after))


def inside(patch_N: Tensor, length: int, padding: int, size: int) -> tuple[Tensor, Tensor]:
    """Return the positions of windows, limited to 0 … size − 1, and where they are in the frame: both (N, …).

    ``patch_N`` numbers the patches along one side; they are ``length`` long and reach ``padding`` further.
    """
    offset_1 = torch.arange(-padding, length + padding, device=patch_N.device)
    position = patch_N.unsqueeze(1) * length + offset_1
    return position.clamp(0, size - 1), (position >= 0) & (position < size)


def stage_windows(
    query: Query, base_size: tuple[int, int], strides: Sequence[int], paddings: Paddings, like: Tensor
) -> list[Window]:
    """Return the window of each stage, in the number format of ``like``."""
    windows = []
    scale = 1
    padding = paddings.base
    for stride, before, after in zip(strides, paddings.before, paddings.after, strict=True):
        sides = (
            (query.row_N, base_size[0] * scale, query.grid.rows),
            (query.col_N, base_size[1] * scale, query.grid.cols),
        )
        gains, insides = [], []
        for patch_N, size, count in sides:
            length = size // count
            _, source_NL = inside(patch_N, length, before, size)
            _, inside_NL = inside(patch_N, length * stride, before * stride, size * stride)
            share_N1L = F.interpolate(
                source_NL.to(like.dtype).unsqueeze(1), scale_factor=stride, mode="linear"
            )
            # At least half the weight of a pixel in the frame lies in the frame.
            gains.append(1 / share_N1L.squeeze(1).clamp(min=0.5))
            insides.append(inside_NL.to(like.dtype))
        gain_N1HW, inside_N1HW = (
            (row_NH.unsqueeze(2) * col_NW.unsqueeze(1)).unsqueeze(1) for row_NH, col_NW in (gains, insides)
        )
        windows.append(Window(padding - before, before * stride - after, gain_N1HW, inside_N1HW))
        scale, padding = scale * stride, after
    return windows


def crop(feature_NCHW: Tensor, pixels: int) -> Tensor:
    """Cut ``pixels`` off each side."""
    if pixels == 0:
        return feature_NCHW
    return feature_NCHW[..., pixels:-pixels, pixels:-pixels]


# -- stages --------------------------------------------------------------------------------------------------


def normalise(feature_NHWC: Tensor) -> Tensor:
    """LayerNorm over channels, without weights."""
    return F.layer_norm(feature_NHWC, feature_NHWC.shape[-1:], eps=NORM_EPS)


class Upsample(nn.Module):
    """LayerNorm over channels (where ``norm``), then bilinear interpolation by a whole number."""

    def __init__(self, stride: int, *, norm: bool) -> None:
        super().__init__()
        self.stride, self.norm = stride, norm

    def forward(self, feature_NCHW: Tensor) -> Tensor:
        """Return ``stride`` times the rows and columns."""
        if self.norm:
            feature_NCHW = normalise(feature_NCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.stride == 1:
            return feature_NCHW
        return F.interpolate(feature_NCHW, scale_factor=self.stride, mode="bilinear")


class Block(nn.Module):
    """Depthwise convolution → LayerNorm → linear → GELU → linear, no biases; then plus an input as wide."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, expansion: float) -> None:
        super().__init__()
        hidden = max(int(out_channels * expansion), 1)
        self.depthwise_conv = nn.Conv2d(
            in_channels, in_channels, kernel, padding=kernel // 2, groups=in_channels, bias=False
        )
        self.fc1 = nn.Linear(in_channels, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, out_channels, bias=False)
        self.has_skip = in_channels == out_channels

    def forward(self, feature_NCHW: Tensor, inside_N1HW: Tensor | None = None) -> Tensor:
        """Return features of the same rows and columns, zero where ``inside_N1HW`` and the input are."""
        branch_NHWC = normalise(self.depthwise_conv(feature_NCHW).permute(0, 2, 3, 1))
        branch_NCHW: Tensor = self.fc2(F.gelu(self.fc1(branch_NHWC))).permute(0, 3, 1, 2)
        if inside_N1HW is not None:
            branch_NCHW = branch_NCHW * inside_N1HW
        return feature_NCHW + branch_NCHW if self.has_skip else branch_NCHW


class Stage(nn.Module):
    """Upsampling → plus the tile of ``local_encoding``, repeated over the frame → ``blocks``."""

    def __init__(self, upsample: Upsample, local_encoding: LocalEncoding, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.upsample, self.local_encoding = upsample, local_encoding
        self.blocks = nn.ModuleList(blocks)

    def forward(self, feature_NCHW: Tensor, time_N: Tensor, window: Window | None = None) -> Tensor:
        """Return the stage's features: of whole frames, or of ``window``."""
        tile_NCHW = self.local_encoding(time_N).permute(0, 3, 1, 2)
        if window is None:
            feature_NCHW = _add_tile(self.upsample(feature_NCHW), tile_NCHW)
            for block in self.blocks:
                feature_NCHW = block(feature_NCHW)
            return feature_NCHW
        feature_NCHW = self.upsample(crop(feature_NCHW, window.crop_before))
        inside_N1HW = window.inside_N1HW.to(feature_NCHW.dtype)
        feature_NCHW = feature_NCHW * window.gain_N1HW.to(feature_NCHW.dtype)
        # Cut after the tile was added: until then windows begin at a multiple of the tile.
        feature_NCHW = crop(_add_tile(feature_NCHW, tile_NCHW) * inside_N1HW, window.crop_after)
        for block in self.blocks:
            feature_NCHW = block(feature_NCHW, crop(inside_N1HW, window.crop_after))
        return feature_NCHW


def _add_tile(feature_NCHW: Tensor, tile_NCHW: Tensor) -> Tensor:
    """Add the tile to every cell of its size; it is not repeated in memory."""
    count, channels, height, width = feature_NCHW.shape
    rows, cols = tile_NCHW.shape[2:]
    # Splitting axes never copies, whatever the memory layout.
    cells = feature_NCHW.view(count, channels, height // rows, rows, width // cols, cols)
    return (cells + tile_NCHW[:, :, None, :, None, :]).flatten(4, 5).flatten(2, 3)
