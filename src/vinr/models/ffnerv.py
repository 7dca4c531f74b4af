"""FFNeRV: features from grids over time, and frames improved by warping their neighbours.

J. C. Lee, D. Rho, J. H. Ko, E. Park, "FFNeRV: Flow-Guided Frame-Wise Neural Representations for Videos", ACM
MM 2023, https://arxiv.org/abs/2212.12294. The presets reproduce its two networks, and the sizes at which
HiNeRV compares with it.

::

    time ──> grids of 64, 128, … maps, interpolated in time ──> concat (C0, h0, w0)
         ──> [3×3 conv → s²·C → depth to space s → GELU] per stage
              ├─ at a quarter of the frame ──> 1×1 ──> flow to each neighbour, logits
              └─ at the end ──> 1×1 ──> independent frame, 2 blend logits
    independent frames of the neighbours ──> warp, mix, blend ──> frame      (layers/flow.py)

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.func import functional_call

from vinr.models.base import FirstFrame, IndexModel, Scaling
from vinr.models.layers.blocks import (
    ActivationName,
    UpsampleBlock,
    Widths,
    grid_size,
    make_activation,
    padded,
    padded_size,
    require_whole_frames,
)
from vinr.models.layers.flow import (
    Evaluation,
    FrameBuffer,
    TemporalGridConfig,
    flow_stage,
    values_state,
)
from vinr.models.layers.grids import GridFrames, TemporalGrids, grid_frames_for
from vinr.sizing.strides import MAX_WIDTH, stage_widths
from vinr.video.spec import FrameSource, Query, VideoSpec

# Section 4.1: grids of 64, 128, 256 and 512 maps for 600 frames.
GRID_SHARES = (64 / 600, 128 / 600, 256 / 600, 512 / 600)
# Strides from here on are not factorised under block = "compact" (code: only 5 occurs).
PLAIN_STRIDE = 5
GROUPS = 8


class FFNeRVConfig(TemporalGridConfig):
    """Architecture of FFNeRV; the defaults are those of the paper's representation experiments."""

    widths: Widths = Field(
        description="channels of all grids together and after each stage, 1 to 4096; the first one a "
        "multiple of the number of grids"
    )
    grid_frames: GridFrames = Field(
        min_length=1, description="maps in time of each grid, at most eight grids"
    )
    block: Literal["conv", "compact"] = Field(
        "conv", description="3×3 convolution; or, below stride 5, one in 8 groups and a 1×1 convolution"
    )
    weight_bits: int | None = Field(
        None,
        ge=2,
        le=8,
        description="use tanh of all parameters, rounded down to this many bits; none: as they are",
    )
    activation: ActivationName = Field("gelu", description="non-linearity after each stage")

    @model_validator(mode="after")
    def _check_grids(self) -> Self:
        if self.widths[0] % len(self.grid_frames):
            raise ValueError(
                f"the first of widths {self.widths} must split into {len(self.grid_frames)} grids"
            )
        return self


class FFNeRV(IndexModel):
    """FFNeRV (ACM MM 2023): temporal feature grids, and frames refined by warped neighbours."""

    Config = FFNeRVConfig
    # Section 4.1: channels halve per stage, not below 96. Smaller networks keep their last stages this much
    # wider than the first, as those HiNeRV compares with.
    scaling = Scaling(grid=(9, 16), expansion=1, lower=96, lower_share=4 / 3)

    def __init__(self, config: FFNeRVConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.config = config
        self.network = _Network(
            config, video.num_frames, grid_size(video.height, video.width, config.strides)
        )
        self.guide = config.make_guide(video.num_frames)
        self.buffer = FrameBuffer(video.bit_depth) if with_encoder and config.neighbours else None

    @classmethod
    def configure(cls, video: VideoSpec, *, width: float, settings: Mapping[str, Any]) -> FFNeRVConfig:
        """See :meth:`VideoModel.configure`; ``width`` is C0 before rounding.

        Grids have maps for 1/9, 1/5, 2/5 and 6/7 of the frames as published. C0 is rounded up to a multiple
        of their number, and their maps are thinned out in time by as much.
        """
        chosen = cls.scale(video, width, settings)
        nominal = chosen.get("grid_frames") or grid_frames_for(video.num_frames, GRID_SHARES)
        is_compact = chosen.get("block") == "compact"
        if "widths" not in settings:
            multiple = math.lcm(len(nominal), GROUPS) if is_compact else len(nominal)
            first = multiple * max(math.ceil(min(width, MAX_WIDTH - multiple) / multiple), 1)
            others = stage_widths(cls.scaling, width, len(chosen["strides"]))[1:]
            if is_compact:
                others = tuple(min(padded(value, GROUPS), MAX_WIDTH) for value in others)
            chosen["widths"] = (first, *others)
        share = min(width / chosen["widths"][0], 1.0)
        chosen.setdefault("grid_frames", tuple(max(round(frames * share), 1) for frames in nominal))
        return FFNeRVConfig(**chosen)

    def coded_size(self) -> tuple[int, int]:
        """See :meth:`VideoModel.coded_size`: multiples of the product of the strides."""
        return padded_size(self.video, self.config.strides)

    def first_frame(self) -> FirstFrame:
        """See :meth:`VideoModel.first_frame`."""
        return self.guide.first_frame(self.coded_size())

    def decode(self, query: Query) -> Tensor:
        """See :meth:`IndexModel.decode`."""
        require_whole_frames(query)
        return self.guide.decode(
            query.time_N,
            lambda: self.evaluate(query.time_N),
            lambda time: self.evaluate(_as_time(time, query)),
            values_state(self),
        )

    def training_outputs(self, query: Query, source: FrameSource | None) -> tuple[tuple[float, Tensor], ...]:
        """See :meth:`VideoModel.training_outputs`: final, independent and aggregated frames."""
        require_whole_frames(query)
        if self.buffer is None:
            return super().training_outputs(query, source)
        outputs = self.guide.training_outputs(
            query.time_N,
            self.evaluate(query.time_N),
            self.buffer,
            lambda time: self.evaluate(_as_time(time, query)),
        )
        return tuple((share, self.crop(rgb_NCHW, query)) for share, rgb_NCHW in outputs)

    def evaluate(self, time_N: Tensor) -> Evaluation:
        """Return independent frames at ``time_N``, with flow and weights; see ``weight_bits``."""
        bits = self.config.weight_bits
        if bits is None:
            evaluation: Evaluation = self.network(time_N)
            return evaluation
        values = {name: tanh_floor(value, bits) for name, value in self.network.named_parameters()}
        quantised: Evaluation = functional_call(self.network, values, (time_N,))
        return quantised


class _Network(nn.Module):
    """Everything that is stored: grids, stages and heads."""

    def __init__(self, config: FFNeRVConfig, num_frames: int, size: tuple[int, int]) -> None:
        super().__init__()
        channels = config.widths[0] // len(config.grid_frames)
        self.grids = TemporalGrids(num_frames, config.grid_frames, channels=channels, size=size)
        self.blocks = nn.ModuleList()
        for (before, after), stride in zip(pairwise(config.widths), config.strides, strict=True):
            self.blocks.append(_make_block(config, before, after, stride))
        self.num_coarse, _ = flow_stage(config.strides)
        self.heads = config.make_heads()

    def forward(self, time_N: Tensor) -> Evaluation:
        feature_NCHW = self.grids(time_N)
        for block in self.blocks[: self.num_coarse]:
            feature_NCHW = block(feature_NCHW)
        coarse_NCHW = feature_NCHW
        for block in self.blocks[self.num_coarse :]:
            feature_NCHW = block(feature_NCHW)
        evaluation: Evaluation = self.heads(coarse_NCHW, feature_NCHW)
        return evaluation


class _CompactBlock(nn.Module):
    """3×3 convolution in groups → 1×1 convolution → depth to space → activation (section 3.4).

    There are 8 groups, or 4, 2 or 1 where 8 do not divide the channels before and after.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, activation: ActivationName
    ) -> None:
        super().__init__()
        wide = out_channels * stride**2
        groups = math.gcd(GROUPS, in_channels, wide)
        self.grouped_conv = nn.Conv2d(in_channels, wide, 3, padding=1, groups=groups)
        self.pointwise_conv = nn.Conv2d(wide, wide, 1)
        self.shuffle = nn.PixelShuffle(stride)
        self.activation = make_activation(activation)

    def forward(self, feature_NCHW: Tensor) -> Tensor:
        out: Tensor = self.activation(self.shuffle(self.pointwise_conv(self.grouped_conv(feature_NCHW))))
        return out


def tanh_floor(value: Tensor, bits: int) -> Tensor:
    """Return tanh of ``value`` cut to whole multiples of 1/(2^(bits−1) − 1); the cut has gradient 1."""
    squashed = torch.tanh(value)
    levels = 2 ** (bits - 1) - 1
    # The cut's own gradient is 0: the difference below is 0 too, with the gradient of tanh.
    cut = squashed.sign() * (squashed.abs() * levels).floor() / levels
    passed: Tensor = cut.detach() + (squashed - squashed.detach())
    return passed


def _make_block(config: FFNeRVConfig, before: int, after: int, stride: int) -> nn.Module:
    if config.block == "compact" and stride < PLAIN_STRIDE:
        return _CompactBlock(before, after, stride=stride, activation=config.activation)
    return UpsampleBlock(before, after, stride=stride, kernel=3, activation=config.activation)


def _as_time(time: float, query: Query) -> Tensor:
    return torch.tensor([time], dtype=torch.float64, device=query.time_N.device)
