"""ConvNeXt: the encoders of hybrid models, from frames to embeddings. Only fitting needs them.

Z. Liu, H. Mao, C.-Y. Wu, C. Feichtenhofer, T. Darrell, S. Xie, "A ConvNet for the 2020s", CVPR 2022,
https://arxiv.org/abs/2201.03545.

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each pixel, eps 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, feature_NCHW: Tensor) -> Tensor:
        """Return normalised features of the same shape."""
        # torch normalises last axes, so channels go there and back.
        feature_NHWC = feature_NCHW.permute(0, 2, 3, 1)
        normed_NHWC = F.layer_norm(feature_NHWC, self.weight.shape, self.weight, self.bias, NORM_EPS)
        return normed_NHWC.permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7×7 → LayerNorm → Linear ×4 → GELU → Linear → layer scale, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise_conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.linear1 = nn.Linear(channels, 4 * channels)
        self.linear2 = nn.Linear(4 * channels, channels)
        self.layer_scale = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, feature_NCHW: Tensor) -> Tensor:
        """Return features of the same shape."""
        # Linear layers want channels last; they are 1×1 convolutions here.
        branch_NHWC: Tensor = self.norm(self.depthwise_conv(feature_NCHW).permute(0, 2, 3, 1))
        branch_NHWC = self.linear2(F.gelu(self.linear1(branch_NHWC))) * self.layer_scale
        return feature_NCHW + branch_NHWC.permute(0, 3, 1, 2)


class _EncoderStage(nn.Module):
    """Strided convolution with a LayerNorm before it (after it in the first stage), then ConvNeXt blocks."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, depth: int, *, first: bool) -> None:
        super().__init__()
        self.norm_first = not first
        self.downsample_conv = nn.Conv2d(in_channels, out_channels, stride, stride)
        self.downsample_norm = ChannelNorm(out_channels if first else in_channels)
        self.blocks = nn.Sequential(*[ConvNeXtBlock(out_channels) for _ in range(depth)])

    def forward(self, feature_NCHW: Tensor) -> Tensor:
        if self.norm_first:
            feature_NCHW = self.downsample_conv(self.downsample_norm(feature_NCHW))
        else:
            feature_NCHW = self.downsample_norm(self.downsample_conv(feature_NCHW))
        out: Tensor = self.blocks(feature_NCHW)
        return out


class ConvNeXtEncoder(nn.Module):
    """Turns frames into small embeddings: one stage of stride, norm and ConvNeXt blocks after another.

    Parameters
    ----------
    strides
        Reduction of each stage; rows and columns must be divisible by their product.
    widths
        Channels after each stage; the last one is the embedding's. Nothing follows the last stage.
    depths
        ConvNeXt blocks of each stage.
    in_channels
        Channels of the input, 3 for frames.
    """

    def __init__(
        self, strides: Sequence[int], widths: Sequence[int], depths: Sequence[int], *, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.stages = nn.Sequential()
        before = in_channels
        for number, (width, stride, depth) in enumerate(zip(widths, strides, depths, strict=True)):
            self.stages.append(_EncoderStage(before, width, stride, depth, first=number == 0))
            before = width
        self.apply(_init_like_convnext)

    def forward(self, rgb_NCHW: Tensor) -> Tensor:
        """Return embeddings, rows and columns divided by the product of the strides."""
        out: Tensor = self.stages(rgb_NCHW)
        return out


def _init_like_convnext(module: nn.Module) -> None:
    """Draw weights of convolutions and linears from N(0, 0.02²) cut at ±2, and set biases to 0."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
