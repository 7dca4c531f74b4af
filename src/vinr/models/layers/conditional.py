"""The conditional decoder of Boosting-NeRV, which replaces the decoder of NeRV, E-NeRV and HNeRV.

X. Zhang, R. Yang, D. He, X. Ge, T. Xu, Y. Wang, H. Qin, J. Zhang, "Boosting Neural Representations for Videos
with a Conditional Decoder", CVPR 2024, https://arxiv.org/abs/2402.18152.

::

    time t ──> sin, cos ──> linear ×2 = condition ──────────────┐ (one for all blocks)
    feature ──> [conv → depth to space s → sin ──> SFT block] per block ──> conv = raw colours

    SFT block: x ──> SFT ──> 3×3 conv, GELU ──> SFT ──> 3×3 conv ──> + x
    SFT (spatial feature transform): x · (1 + scale) + shift, each from the condition by two linear layers

Axes: N frames of a batch, F features, C channels, H rows, W columns.
"""

from __future__ import annotations

from typing import Annotated, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from vinr.models.layers.blocks import (
    Activation,
    ConvStagesConfig,
    HeadKernel,
    TwoStepBlock,
    UpsampleBlock,
    Width,
    make_mlp,
    squash,
)
from vinr.models.layers.encodings import EncodingPrecision, TimeEncoding, check_frequencies

# From C0 = 32 on the condition keeps its published length, and the encoding its frequencies (see Scaling).
CONDITION_SHRINKS = {"condition_channels": (32, 4), "levels": (32, 16)}

Depths = Annotated[tuple[Annotated[int, Field(ge=1, le=8)], ...], Field(min_length=1, max_length=8)]


class BoostConfig(ConvStagesConfig):
    """What the three boosted models have in common; the defaults are those of the published scripts."""

    activation: Activation = "sin"
    head_kernel: HeadKernel = 1
    depths: Depths | None = Field(
        None, description="blocks of each stage, 1 to 8; none: 1 in the first two stages, 2 in the others"
    )
    condition_channels: Width = Field(
        32, description="length of the time's vector that conditions each block"
    )
    base: float = Field(1.25, gt=1, le=10, description="ratio of neighbouring frequencies of the encodings")
    levels: int = Field(80, ge=1, le=256, description="frequencies of the encodings")
    encoding_precision: EncodingPrecision = Field(
        "exact", description="roundings of the time encoding; float32 kinds repeat the published checkpoints'"
    )

    @model_validator(mode="after")
    def _check_decoder(self) -> Self:
        check_frequencies(self.base, self.levels)
        if len(self.stage_depths) != len(self.strides):
            raise ValueError(f"{len(self.strides)} strides need as many depths, got {len(self.stage_depths)}")
        return self

    @property
    def stage_depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return self.depths or (1, 1, *[2] * len(self.strides))[: len(self.strides)]

    def encoding(self, num_frames: int) -> TimeEncoding:
        """Return the encoding of time: frame i of T has t = (i + 1) / T; sines, then cosines."""
        return TimeEncoding(num_frames, self.base, self.levels, "blocks", "(i+1)/T", self.encoding_precision)


class _SFTLayer(nn.Module):
    """Gain and shift of each channel from the condition, two linear layers with a ReLU between for each."""

    def __init__(self, condition_features: int, channels: int) -> None:
        super().__init__()
        self.scale = _two_layers(condition_features, channels)
        self.shift = _two_layers(condition_features, channels)

    def forward(self, feature_NCHW: Tensor, condition_NF: Tensor) -> Tensor:
        # One value per channel: (N, C) becomes (N, C, 1, 1).
        gain_NC11 = 1 + self.scale(condition_NF)[:, :, None, None]
        return torch.addcmul(self.shift(condition_NF)[:, :, None, None], feature_NCHW, gain_NC11)


def _two_layers(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, inputs), nn.ReLU(), nn.Linear(inputs, outputs))


class SFTBlock(nn.Module):
    """Residual block whose two 3×3 convolutions see features scaled and shifted by the condition."""

    def __init__(self, condition_features: int, channels: int) -> None:
        super().__init__()
        self.sft1 = _SFTLayer(condition_features, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.sft2 = _SFTLayer(condition_features, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, feature_NCHW: Tensor, condition_NF: Tensor) -> Tensor:
        """Return features of the same shape; ``condition_NF`` holds one vector a sample."""
        branch_NCHW = F.gelu(self.conv1(self.sft1(feature_NCHW, condition_NF)))
        out: Tensor = feature_NCHW + self.conv2(self.sft2(branch_NCHW, condition_NF))
        return out


class _BoostedBlock(nn.Module):
    """An upsampling block (its activation included), then an SFT block."""

    def __init__(self, upsample: nn.Module, condition_features: int, channels: int) -> None:
        super().__init__()
        self.upsample = upsample
        self.sft_block = SFTBlock(condition_features, channels)

    def forward(self, feature_NCHW: Tensor, condition_NF: Tensor) -> Tensor:
        out: Tensor = self.sft_block(self.upsample(feature_NCHW), condition_NF)
        return out


class BoostedDecoder(nn.Module):
    """Condition network, boosted blocks and head.

    Parameters
    ----------
    config
        Architecture.
    embedding_channels
        Channels of the input where a first 1×1 block turns them into C0; None: the input has C0 channels.
    two_step
        Whether all blocks of the first stage convolve in two steps, as in E-NeRV.
    """

    def __init__(
        self, config: BoostConfig, *, embedding_channels: int | None = None, two_step: bool = False
    ) -> None:
        super().__init__()
        self.output, self.output_offset = config.output, config.output_offset
        length = config.condition_channels
        self.condition = make_mlp([2 * config.levels, 2 * length, length], config.activation)
        self.blocks = nn.ModuleList()
        for upsample, channels in _upsamplers(config, two_step):
            self.blocks.append(_BoostedBlock(upsample, length, channels))
        if embedding_channels is not None:
            stem = UpsampleBlock(
                embedding_channels, config.widths[0], stride=1, kernel=1, activation=config.activation
            )
            self.blocks.insert(0, _BoostedBlock(stem, length, config.widths[0]))
        self.head = config.make_head()

    def forward(self, feature_NCHW: Tensor, time_NF: Tensor) -> Tensor:
        """Return rgb_NCHW; ``time_NF`` is the encoded time. Without bounds under ``output = "offset"``."""
        condition_NF = self.condition(time_NF)
        for block in self.blocks:
            feature_NCHW = block(feature_NCHW, condition_NF)
        return squash(self.head(feature_NCHW), self.output, self.output_offset)


def _upsamplers(config: BoostConfig, two_step: bool) -> list[tuple[nn.Module, int]]:
    """Return the upsampling part of each block and its channels; the first block of a stage upsamples."""
    upsamplers: list[tuple[nn.Module, int]] = []
    for number, (stride, kernel) in enumerate(zip(config.strides, config.kernels, strict=True)):
        before, after = config.widths[number : number + 2]
        # The first block of a stage enlarges, those after it keep size and channels.
        for place in range(config.stage_depths[number]):
            block: nn.Module
            inputs, step = (before, stride) if place == 0 else (after, 1)
            if two_step and number == 0:
                block = TwoStepBlock(inputs, after, stride=step, activation=config.activation)
            else:
                block = UpsampleBlock(inputs, after, stride=step, kernel=kernel, activation=config.activation)
            upsamplers.append((block, after))
    return upsamplers
