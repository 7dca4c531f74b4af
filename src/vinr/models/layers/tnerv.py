"""Parts of T-NeRV: the encoder of frames and times, and the block with its possible convolutions.

Axes: N frames of a batch, F features, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vinr.models.layers.blocks import ConvNeXtEncoder, make_mlp, stage_kernels
from vinr.models.layers.flow import FrameBuffer
from vinr.video.spec import FrameSource

AugmentMode = Literal["add", "scale", "concat", "off"]
ConvPlan = Literal["sep5", "bott3", "hnerv", "two3", "regular5"]

_NORM_EPSILON = 1e-5


class FittingParts(nn.Module):
    """What only fitting needs: frame and time to embedding, and the frames that neighbours are taken from.

    Parameters
    ----------
    strides, widths, depths
        See :class:`ConvNeXtEncoder`; the last width is that of the embedding. Widths end in 0 where there are
        no embeddings, and nothing but the buffer is made.
    time_widths
        Widths of the MLP from the encoding of time on; a linear layer to the embedding's numbers follows.
    size
        Rows and columns of the embedding.
    mode
        The embedding from frame c and time a: c + a, c · (1 + a), a 1×1 convolution of both, or c.
    """

    source: FrameSource | None = None
    """The frames being fitted: embeddings of neighbours come from there."""

    def __init__(
        self,
        strides: Sequence[int],
        widths: Sequence[int],
        depths: Sequence[int],
        *,
        time_widths: Sequence[int],
        size: tuple[int, int],
        mode: AugmentMode,
    ) -> None:
        super().__init__()
        channels = widths[-1]
        self.mode, self.shape = mode, (channels, *size)
        self.buffer = FrameBuffer()
        if not channels:
            return
        self.frames = ConvNeXtEncoder(strides, widths, depths)
        if mode != "off":
            self.hidden = make_mlp(time_widths, "gelu")
            self.last = nn.Linear(time_widths[-1], math.prod(self.shape))
        if mode == "concat":
            self.mix = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, rgb_NCHW: Tensor, time_NF: Tensor) -> Tensor:
        """Return embeddings of frames whose times are encoded in ``time_NF``."""
        frame_NCHW: Tensor = self.frames(rgb_NCHW)
        if self.mode == "off":
            return frame_NCHW
        time_NCHW: Tensor = self.last(self.hidden(time_NF)).view(-1, *self.shape)
        if self.mode == "concat":
            mixed_NCHW: Tensor = self.mix(torch.cat([frame_NCHW, time_NCHW], 1))
            return mixed_NCHW
        return frame_NCHW + time_NCHW if self.mode == "add" else frame_NCHW * (1 + time_NCHW)


class PlainNorm(nn.Module):
    """Instance normalisation without parameters: each channel of a frame gets mean 0 and variance 1."""

    def forward(self, feature_NCHW: Tensor, condition_NF: Tensor | None) -> Tensor:
        """Return features of the same shape, zeros where there is only one pixel; no condition is needed."""
        exact_NCHW = feature_NCHW.to(torch.promote_types(feature_NCHW.dtype, torch.float32))
        variance_NC11, mean_NC11 = torch.var_mean(exact_NCHW, (2, 3), correction=0, keepdim=True)
        normed_NCHW = (exact_NCHW - mean_NC11) * torch.rsqrt(variance_NC11 + _NORM_EPSILON)
        return normed_NCHW.to(feature_NCHW.dtype)


class TimedBlock(nn.Module):
    """Norm → convolutions to ``stride``² times the channels → depth to space → GELU.

    ``norm`` (None: none) is called with features and condition, before the convolutions if ``norm_first``,
    else right before the GELU. ``number`` counts blocks from 0.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        number: int,
        stride: int,
        plan: ConvPlan,
        norm: nn.Module | None,
        norm_first: bool,
    ) -> None:
        super().__init__()
        self.norm, self.norm_first = norm, norm_first
        self.conv = _wide_conv(plan, number, in_channels, out_channels, stride)
        self.shuffle = nn.PixelShuffle(stride)
        narrow = max(out_channels // 2, 1)
        self.last_conv = nn.Conv2d(narrow, out_channels, 3, padding=1) if plan == "two3" else nn.Identity()

    def forward(self, feature_NCHW: Tensor, condition_NF: Tensor | None) -> Tensor:
        """Return features with ``stride`` times the rows and columns."""
        if self.norm is not None and self.norm_first:
            feature_NCHW = self.norm(feature_NCHW, condition_NF)
        feature_NCHW = self.last_conv(self.shuffle(self.conv(feature_NCHW)))
        if self.norm is not None and not self.norm_first:
            feature_NCHW = self.norm(feature_NCHW, condition_NF)
        return F.gelu(feature_NCHW)


def _wide_conv(plan: ConvPlan, number: int, before: int, after: int, stride: int) -> nn.Module:
    """Return what comes before depth to space in block ``number``; no activation lies between two layers."""
    wide = after * stride**2
    if plan == "sep5":
        rows = nn.Conv2d(before, after, (5, 1), padding=(2, 0))
        return nn.Sequential(rows, nn.Conv2d(after, wide, (1, 5), padding=(0, 2)))
    if plan == "bott3":
        narrow = max(before // 2, 1)
        return nn.Sequential(nn.Conv2d(before, narrow, 1), nn.Conv2d(narrow, wide, 3, padding=1))
    if plan == "two3":
        return nn.Conv2d(before, max(after // 2, 1) * stride**2, 3, padding=1)
    kernel = 5 if plan == "regular5" else stage_kernels(1, 5, number + 1)[number]
    return nn.Conv2d(before, wide, kernel, padding=kernel // 2)
