"""Networks of grids over time, bilinear upsampling and ConvNeXt blocks, for whole frames and patches alike.

From HiNeRV (Kwan et al., NeurIPS 2023, https://arxiv.org/abs/2306.09818), section 3 and supplement::

    time ──> base grids, linear in time (h0, w0) ──> 3×3 conv (C0) ──> stages ──> linear ──> sigmoid

    stage:  LayerNorm ──> bilinear ×s ──> + tile of s × s vectors ──> ConvNeXt blocks
                            time ──> local grid, linear in time ──> linear ──┘

A coarse base grid (not of the paper) has a cell for each square of COARSE × COARSE cells of the base grid,
and more steps of time in return.

A patch is computed from a window that reaches far enough over its edge; what lies outside of the frame is
kept at zero, so that a patch equals the same part of the whole frame.

Axes: N frames or patches, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from vinr.errors import UsageError
from vinr.models.base import IndexModel, ModelConfig, Scaling
from vinr.models.layers.blocks import (
    Kernel,
    Strides,
    Width,
    check_kernels,
    check_stages,
    enlarged,
    grid_size,
)
from vinr.models.layers.convnext import NORM_EPS
from vinr.models.layers.grids import LevelGrid, LocalEncoding
from vinr.models.layers.windows import Window, crop, inside, stage_windows, window_paddings
from vinr.sizing.strides import choose_strides, taper
from vinr.video.spec import PatchGrid, Query, VideoSpec

# Section 3: depths and expansions of the last stage are smaller.
DEPTH, LAST_DEPTH = 3, 1
EXPANSION, LAST_EXPANSION = 4.0, 1.0
# Base grids to aim at: that of the A and B variants, and coarser ones where it leaves less than MIN_STAGES.
TARGET_GRIDS = ((9, 16), (4, 8), (2, 4))
MIN_STAGES = 3
# What both kinds of grids hold per parameter of the network (published sizes S: 0.13 and 0.09).
BASE_SHARE = 0.13
LOCAL_SHARE = 0.09
MIN_BASE_CHANNELS = 2
# Short videos could afford more channels than are of use: at most the published shares of C0.
MAX_BASE_RATIO = 1 / 16
MAX_LOCAL_RATIO = 1 / 8
# Cells of the base grid along each side of a cell of the coarse one.
COARSE = 4
MAX_CHANNELS = 4096
MAX_STEPS = 65_536

Depths = Annotated[tuple[Annotated[int, Field(ge=1, le=16)], ...], Field(min_length=1, max_length=8)]
Expansions = Annotated[tuple[Annotated[float, Field(ge=0.25, le=16)], ...], Field(min_length=1, max_length=8)]
StageWidths = Annotated[
    tuple[Annotated[int, Field(ge=3, le=MAX_CHANNELS)], ...], Field(min_length=1, max_length=8)
]
GridSteps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Levels = Annotated[int, Field(ge=1, le=8)]


class HierarchicalConfig(ModelConfig):
    """Settings of such networks; the defaults are those of HiNeRV's paper."""

    size_fields: ClassVar[tuple[str, ...]] = (
        "widths",
        "base_grid_frames",
        "local_grid_frames",
        "local_grid_channels",
    )
    first_depth: ClassVar[int] = DEPTH

    strides: Strides = Field(description="upsampling of each stage, 1 to 16")
    widths: StageWidths = Field(description="channels of each stage, the first also the stem's, 3 to 4096")
    depths: Depths | None = Field(None, description="blocks of each stage; none: 3, and 1 in the last")
    shared_stages: int = Field(
        0, ge=0, le=8, description="stages, from the first, whose blocks of one width are one block"
    )
    expansions: Expansions | None = Field(
        None, description="hidden channels of a stage's blocks for each output channel; none: 4, last 1"
    )
    kernel: Kernel = Field(3, description="kernel of the depthwise convolutions, odd")
    stem_kernel: Kernel = Field(3, description="kernel of the first convolution, odd")
    norm_before_upsampling: bool = Field(True, description="normalise channels before each upsampling")
    base_grid_levels: Levels = Field(2, description="levels of the base grid; each halves time steps")
    base_grid_frames: GridSteps | None = Field(
        None, description="time steps of the base grid's first level; none: one per frame"
    )
    base_grid_channels: Width = Field(2, description="channels of the base grid's first level; they double")
    coarse_grid_frames: GridSteps | None = Field(
        None, description="time steps of the coarse base grid; none: one per frame"
    )
    coarse_grid_channels: int = Field(
        0, ge=0, le=MAX_CHANNELS, description="channels of the coarse base grid; 0: there is none"
    )
    local_grid_levels: Levels = Field(3, description="levels of a stage's local grid; each halves time steps")
    local_grid_frames: GridSteps | None = Field(
        None, description="time steps of the local grids' first level; none: one per frame"
    )
    local_grid_channels: Width = Field(
        4, description="channels of the first stage's local grid; halved at each stage, doubled at each level"
    )

    @model_validator(mode="after")
    def _check(self) -> HierarchicalConfig:
        check_stages(self.strides, (1, *self.strides))
        check_kernels(self.kernel, self.stem_kernel)
        lists = {"widths": self.widths, "depths": self.depths, "expansions": self.expansions}
        for name, values in lists.items():
            if values is not None and len(values) != len(self.strides):
                raise ValueError(f"{len(self.strides)} strides need as many {name}, got {len(values)}")
        grids = {
            "base": self.base_grid_channels << (self.base_grid_levels - 1),
            "local": self.local_grid_channels << (self.local_grid_levels - 1),
        }
        for name, channels in grids.items():
            if channels > MAX_CHANNELS:
                raise ValueError(f"{name} grid: {channels} channels at its last level, over {MAX_CHANNELS}")
        return self

    @property
    def stage_depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        if self.depths is not None:
            return self.depths
        others = len(self.strides) - 1
        return (*(self.first_depth, *repeat(DEPTH, others))[:others], LAST_DEPTH)

    @property
    def stage_expansions(self) -> tuple[float, ...]:
        """Hidden channels for each output channel, of each stage."""
        return self.expansions or (EXPANSION,) * (len(self.strides) - 1) + (LAST_EXPANSION,)

    @property
    def stage_grid_channels(self) -> tuple[int, ...]:
        """Channels of the first level of each stage's local grid."""
        return tuple(max(self.local_grid_channels >> number, 1) for number in range(len(self.strides)))


def _normalise(feature_NHWC: Tensor) -> Tensor:
    """LayerNorm over channels, without weights."""
    return F.layer_norm(feature_NHWC, feature_NHWC.shape[-1:], eps=NORM_EPS)


class _Upsample(nn.Module):
    """LayerNorm over channels (where ``norm``), then bilinear interpolation by a whole number."""

    def __init__(self, stride: int, *, norm: bool) -> None:
        super().__init__()
        self.stride, self.norm = stride, norm

    def forward(self, feature_NCHW: Tensor) -> Tensor:
        if self.norm:
            feature_NCHW = _normalise(feature_NCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.stride == 1:
            return feature_NCHW
        return F.interpolate(feature_NCHW, scale_factor=self.stride, mode="bilinear")


class _Block(nn.Module):
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
        # Linear layers want channels last; they are 1×1 convolutions here.
        branch_NHWC = _normalise(self.depthwise_conv(feature_NCHW).permute(0, 2, 3, 1))
        branch_NCHW: Tensor = self.fc2(F.gelu(self.fc1(branch_NHWC))).permute(0, 3, 1, 2)
        if inside_N1HW is not None:
            branch_NCHW = branch_NCHW * inside_N1HW
        return feature_NCHW + branch_NCHW if self.has_skip else branch_NCHW


class _Stage(nn.Module):
    """Upsampling → plus the tile of ``local_encoding``, repeated over the frame → ``blocks``.

    The last block runs ``repeats`` times, the others once.
    """

    def __init__(
        self, upsample: _Upsample, local_encoding: LocalEncoding, blocks: Sequence[_Block], repeats: int
    ) -> None:
        super().__init__()
        self.upsample, self.local_encoding, self.repeats = upsample, local_encoding, repeats
        self.blocks = nn.ModuleList(blocks)

    def forward(self, feature_NCHW: Tensor, time_N: Tensor, window: Window | None = None) -> Tensor:
        tile_NCHW = self.local_encoding(time_N).permute(0, 3, 1, 2)
        if window is None:
            feature_NCHW = _add_tile(self.upsample(feature_NCHW), tile_NCHW)
            for block in self._sequence():
                feature_NCHW = block(feature_NCHW)
            return feature_NCHW
        feature_NCHW = self.upsample(crop(feature_NCHW, window.crop_before))
        inside_N1HW = window.inside_N1HW.to(feature_NCHW.dtype)
        feature_NCHW = feature_NCHW * window.gain_N1HW.to(feature_NCHW.dtype)
        # Cut after the tile was added: until then windows begin at a multiple of the tile.
        feature_NCHW = crop(_add_tile(feature_NCHW, tile_NCHW) * inside_N1HW, window.crop_after)
        for block in self._sequence():
            feature_NCHW = block(feature_NCHW, crop(inside_N1HW, window.crop_after))
        return feature_NCHW

    def _sequence(self) -> Iterator[nn.Module]:
        yield from self.blocks
        yield from repeat(self.blocks[-1], self.repeats - 1)


def _add_tile(feature_NCHW: Tensor, tile_NCHW: Tensor) -> Tensor:
    """Add the tile to every cell of its size; it is not repeated in memory."""
    # (N, C, H, W) is seen as (N, C, H/s, s, W/s, s), the tile as (N, C, 1, s, 1, s).
    count, channels, height, width = feature_NCHW.shape
    rows, cols = tile_NCHW.shape[2:]
    # Splitting axes never copies, whatever the memory layout.
    cells = feature_NCHW.view(count, channels, height // rows, rows, width // cols, cols)
    return (cells + tile_NCHW[:, :, None, :, None, :]).flatten(4, 5).flatten(2, 3)


class HierarchicalModel(IndexModel):
    """The network; a model names its ``Config``."""

    Config: ClassVar[type[HierarchicalConfig]]
    # Section 3: channels halve per stage.
    scaling = Scaling(reduction=2, lower=4, lowest_stem=8)
    # Of new networks: what base grids hold per parameter of the network, and in how many channels at least;
    # what the coarse one holds; depths and expansions of the first, of other, and of the last stage. None:
    # those of the config, which files without any have for good.
    base_share: ClassVar[float] = BASE_SHARE
    least_base_channels: ClassVar[int] = MIN_BASE_CHANNELS
    coarse_share: ClassVar[float] = 0.0
    new_depths: ClassVar[tuple[int, int, int] | None] = None
    new_expansions: ClassVar[tuple[float, float, float] | None] = None

    def __init__(self, config: HierarchicalConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.config = config
        self.base_size = grid_size(video.height, video.width, config.strides)
        self.base_grid = LevelGrid(
            video.num_frames,
            config.base_grid_frames or video.num_frames,
            levels=config.base_grid_levels,
            channels=config.base_grid_channels,
            rows_per_step=math.prod(self.base_size),
        )
        num_channels = self.base_grid.num_channels + config.coarse_grid_channels
        self.coarse_grid: LevelGrid | None = None
        if config.coarse_grid_channels:
            self.coarse_grid = LevelGrid(
                video.num_frames,
                config.coarse_grid_frames or video.num_frames,
                levels=1,
                channels=config.coarse_grid_channels,
                rows_per_step=math.prod(_coarse_size(self.base_size)),
            )
        self.stem = nn.Conv2d(
            num_channels, config.widths[0], config.stem_kernel, padding=config.stem_kernel // 2
        )
        self.stages = nn.ModuleList(_make_stages(config, video.num_frames))
        self.head = nn.Linear(config.widths[-1], 3)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        self.paddings = window_paddings(
            config.strides, config.stage_depths, config.kernel, config.stem_kernel
        )

    @classmethod
    def configure(cls, video: VideoSpec, *, width: float, settings: Mapping[str, Any]) -> Any:
        """See :meth:`VideoModel.configure`; ``width`` is C0 before rounding.

        Strides and blocks are those of variant A. Both kinds of grids hold the published share of the
        network: channels as far as that allows, and fewer time steps than frames where it does not even allow
        the fewest channels.
        """
        chosen = dict(settings)
        chosen.setdefault("strides", cls.new_strides(video))
        count = len(chosen["strides"])
        for name, values in (("depths", cls.new_depths), ("expansions", cls.new_expansions)):
            if values is not None:
                first, other, last = values
                chosen.setdefault(name, (*(first, *repeat(other, count))[: count - 1], last))
        dial = max(width, cls.scaling.lowest_stem)
        widths = taper(dial, count, reduction=cls.scaling.reduction, lower=cls.scaling.lower)
        chosen.setdefault("widths", widths)
        config = cls.Config(**chosen)
        num_weights = 0
        for item in cls.on_meta(config, video).stored().values():
            num_weights += 0 if item.role == "grid" else item.value.numel()
        grids = _base_grid(config, video, cls.base_share * num_weights, cls.least_base_channels)
        if cls.coarse_share:
            grids |= _coarse_grid(config, video, cls.coarse_share * num_weights)
        grids |= _local_grid(config, video, LOCAL_SHARE * num_weights)
        return cls.Config(**(grids | chosen))

    @classmethod
    def new_strides(cls, video: VideoSpec) -> tuple[int, ...]:
        """Return the strides of a new network: the finest base grid that leaves enough stages."""
        return _strides(video)

    def coded_size(self) -> tuple[int, int]:
        """See :meth:`VideoModel.coded_size`: multiples of the product of the strides."""
        return enlarged(self.base_size, self.config.strides)

    def check_patches(self, grid: PatchGrid) -> None:
        """See :meth:`VideoModel.check_patches`: patches must cut the base grid evenly."""
        height, width = self.base_size
        if height % grid.rows or width % grid.cols:
            raise UsageError(
                f"{grid.rows}×{grid.cols} patches do not cut a base grid of {height}×{width} evenly; rows "
                f"may be {_divisors(height)}, columns {_divisors(width)}"
            )

    def decode(self, query: Query) -> Tensor:
        """See :meth:`IndexModel.decode`; patches are allowed, see :meth:`check_patches`."""
        self.check_patches(query.grid)
        device = self.head.weight.device
        query = Query(query.time_N.to(device), query.row_N.to(device), query.col_N.to(device), query.grid)
        # A whole frame needs no window: its zero padding is that of the convolutions.
        windows: Sequence[Window | None] = [None] * len(self.stages)
        base_padding = last_padding = 0
        if not query.grid.is_whole_frame:
            windows = stage_windows(
                query, self.base_size, self.config.strides, self.paddings, self.head.weight
            )
            base_padding, last_padding = self.paddings.base, self.paddings.after[-1]
        base_NCHW, inside_N1HW = self._read_base(query, base_padding)
        feature_NCHW = self.stem(base_NCHW) * inside_N1HW
        for stage, window in zip(self.stages, windows, strict=True):
            feature_NCHW = stage(feature_NCHW, query.time_N, window)
        feature_NHWC = crop(feature_NCHW, last_padding).permute(0, 2, 3, 1)
        return torch.sigmoid(self.head(feature_NHWC)).permute(0, 3, 1, 2)

    def _read_base(self, query: Query, padding: int) -> tuple[Tensor, Tensor]:
        """Return the base grid's features in the patches' windows, and where these lie in the frame."""
        height, width = self.base_size
        lengths = height // query.grid.rows, width // query.grid.cols
        row_NH, inside_NH = inside(query.row_N, lengths[0], padding, height)
        col_NW, inside_NW = inside(query.col_N, lengths[1], padding, width)
        # Rows of a grid's tables are cells in row-major order; channels come last.
        cell_NHW = row_NH.unsqueeze(2) * width + col_NW.unsqueeze(1)
        base = self.base_grid(query.time_N, cell_NHW.flatten(1))
        if self.coarse_grid is not None:
            _, cols = _coarse_size(self.base_size)
            coarse_NHW = (row_NH // COARSE).unsqueeze(2) * cols + (col_NW // COARSE).unsqueeze(1)
            base = torch.cat([base, self.coarse_grid(query.time_N, coarse_NHW.flatten(1))], -1)
        # (N, R, C) becomes (N, H, W, C), then (N, C, H, W).
        base_NCHW = base.unflatten(1, cell_NHW.shape[1:]).permute(0, 3, 1, 2)
        inside_N1HW = (inside_NH.unsqueeze(2) & inside_NW.unsqueeze(1)).unsqueeze(1).to(base.dtype)
        return base_NCHW * inside_N1HW, inside_N1HW


def _divisors(number: int) -> str:
    return ", ".join(str(part) for part in range(1, number + 1) if number % part == 0)


def _strides(video: VideoSpec) -> tuple[int, ...]:
    """Return the strides for the finest base grid that leaves enough stages, or the most stages there are."""
    choices = [choose_strides(video.height, video.width, target_grid=grid) for grid in TARGET_GRIDS]
    return max(choices, key=lambda strides: min(len(strides), MIN_STAGES))


def _make_stages(config: HierarchicalConfig, num_frames: int) -> list[_Stage]:
    inputs = (config.widths[0], *config.widths)
    stages = []
    for number, stride in enumerate(config.strides):
        before, after = inputs[number : number + 2]
        local_encoding = LocalEncoding(
            num_frames,
            config.local_grid_frames or num_frames,
            levels=config.local_grid_levels,
            channels=config.stage_grid_channels[number],
            stride=stride,
            out_channels=before,
        )
        expansion = config.stage_expansions[number]
        widths = [before] + [after] * (config.stage_depths[number] - 1)
        repeats = 1
        if number < config.shared_stages:
            # before after after after    the last block stands for all that have its widths; where before is
            # └─ once ┘ └─── shared ───┘  after, for all blocks
            repeats = max(widths.count(after), 1)
            widths = widths[: len(widths) - repeats + 1]
        blocks = [_Block(width, after, kernel=config.kernel, expansion=expansion) for width in widths]
        upsample = _Upsample(stride, norm=config.norm_before_upsampling)
        stages.append(_Stage(upsample, local_encoding, blocks, repeats))
    return stages


def _most_channels(config: HierarchicalConfig, levels: int, ratio: float) -> int:
    """Return the most channels of a first level: those of the network times ``ratio``, but two at least."""
    return max(min(max(int(ratio * config.widths[0]), MIN_BASE_CHANNELS), MAX_CHANNELS >> (levels - 1)), 1)


def _base_grid(
    config: HierarchicalConfig, video: VideoSpec, num_parameters: float, least_channels: int
) -> dict[str, int]:
    """Return channels and time steps with which the base grid holds about ``num_parameters``."""
    # Each level has half the steps and twice the channels of the one before: all hold as much.
    cells = math.prod(grid_size(video.height, video.width, config.strides)) * config.base_grid_levels
    most = _most_channels(config, config.base_grid_levels, MAX_BASE_RATIO)
    affordable = int(num_parameters / (cells * video.num_frames))
    channels = max(min(affordable, most), min(least_channels, most))
    frames = min(max(round(num_parameters / (cells * channels)), 1), video.num_frames, MAX_STEPS)
    return {"base_grid_channels": channels, "base_grid_frames": frames}


def _coarse_size(base_size: tuple[int, int]) -> tuple[int, int]:
    height, width = base_size
    return -(-height // COARSE), -(-width // COARSE)


def _coarse_grid(config: HierarchicalConfig, video: VideoSpec, num_parameters: float) -> dict[str, int]:
    """Return channels and time steps with which the coarse base grid holds about ``num_parameters``."""
    cells = math.prod(_coarse_size(grid_size(video.height, video.width, config.strides)))
    # Two channels, of fewer steps than frames where that is too much; more where it is too little.
    affordable = int(num_parameters / (cells * video.num_frames))
    channels = min(max(affordable, MIN_BASE_CHANNELS), MAX_CHANNELS)
    frames = min(max(round(num_parameters / (cells * channels)), 1), video.num_frames, MAX_STEPS)
    return {"coarse_grid_channels": channels, "coarse_grid_frames": frames}


def _local_grid(config: HierarchicalConfig, video: VideoSpec, num_parameters: float) -> dict[str, int]:
    """Return channels and time steps with which the local grids hold about ``num_parameters``."""

    def per_step(channels: int) -> int:
        cells = 0
        for number, stride in enumerate(config.strides):
            cells += stride**2 * max(channels >> number, 1)
        return config.local_grid_levels * cells

    most = _most_channels(config, config.local_grid_levels, MAX_LOCAL_RATIO)
    affordable = num_parameters / video.num_frames
    channels = max(bisect_right(range(1, most + 1), affordable, key=per_step), 1)
    frames = min(max(round(num_parameters / per_step(channels)), 1), video.num_frames, MAX_STEPS)
    return {"local_grid_channels": channels, "local_grid_frames": frames}
