"""Maps warped by flows: moved to where a frame shows them.

Axes: B clips of a batch, D frames of a clip, N frames (B·D, clip after clip), C channels, H rows, W columns;
2 in a name: the keyframe at a clip's start and the one at its end.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def warp(frame_NCHW: Tensor, flow_NCHW: Tensor, *, align_corners: bool = True) -> Tensor:
    """Return ``frame_NCHW`` sampled at (x + dx, y + dy), bilinear, edges repeated; flows in pixels.

    Without ``align_corners`` positions are scaled for pixel centres in the corners but sampled for pixel
    edges there, as FFNeRV's code does: zero flow then moves pixels by up to half of one.
    """
    height, width = frame_NCHW.shape[-2:]
    x_W = torch.arange(width, dtype=flow_NCHW.dtype, device=flow_NCHW.device)
    y_H1 = torch.arange(height, dtype=flow_NCHW.dtype, device=flow_NCHW.device).view(-1, 1)
    # grid_sample counts from −1 (first pixel) to 1 (last): pixel p of a row of W lies at 2p / (W − 1) − 1.
    x_NHW = (flow_NCHW[:, 0] + x_W) * (2 / max(width - 1, 1)) - 1
    y_NHW = (flow_NCHW[:, 1] + y_H1) * (2 / max(height - 1, 1)) - 1
    position_NHW2 = torch.stack([x_NHW, y_NHW], -1)
    return F.grid_sample(
        frame_NCHW.to(flow_NCHW.dtype), position_NHW2, padding_mode="border", align_corners=align_corners
    )


class WarpFusion(nn.Module):
    """What both keyframes show at a frame: each warped by a flow, mixed by the frame's distance to them.

    The flows, to the start and to the end keyframe, are made from the frame's own features and have no loss
    of their own. Without ``flow`` maps are mixed as they are.
    """

    def __init__(self, in_channels: int, *, flow: bool) -> None:
        super().__init__()
        self.flow_head = narrowing_head(in_channels, 4) if flow else None

    def forward(self, feature_NCHW: Tensor, map_B2CHW: Tensor, distance_N: Tensor) -> Tensor:
        """Return the mix (N, C, H, W) of maps as large as ``feature_NCHW``; flows count their pixels."""
        start_NCHW, end_NCHW = _repeated(map_B2CHW, len(feature_NCHW) // len(map_B2CHW))
        if self.flow_head is not None:
            flow_NCHW = self.flow_head(feature_NCHW)
            # Displacements of pixels need more than the 8 bits of bfloat16.
            flow_NCHW = flow_NCHW.to(torch.promote_types(flow_NCHW.dtype, torch.float32))
            start_NCHW, end_NCHW = warp(start_NCHW, flow_NCHW[:, :2]), warp(end_NCHW, flow_NCHW[:, 2:])
        return torch.lerp(start_NCHW, end_NCHW, distance_N.to(start_NCHW).view(-1, 1, 1, 1))


def _repeated(map_B2CHW: Tensor, times: int) -> Iterator[Tensor]:
    """Return start and end maps, each as often as its clip has frames: (N, C, H, W)."""
    # (B, C, H, W) becomes (B, D, C, H, W) without a copy, then (B·D, C, H, W).
    for map_BCHW in map_B2CHW.unbind(1):
        yield map_BCHW.unsqueeze(1).expand(-1, times, -1, -1, -1).flatten(0, 1)


def narrowing_head(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return 1×1 convolution to a quarter of the channels → GELU → 3×3 convolution."""
    middle = max(in_channels // 4, 1)
    return nn.Sequential(
        nn.Conv2d(in_channels, middle, 1), nn.GELU(), nn.Conv2d(middle, out_channels, 3, padding=1)
    )
