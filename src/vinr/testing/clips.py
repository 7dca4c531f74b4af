"""Small synthetic clips.

Axes: N frames, C channels, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from vinr.video.spec import VideoSpec


@dataclass(frozen=True)
class MemoryClip:
    """Frames in memory, uint8: a FrameSource."""

    rgb_NCHW: Tensor

    @property
    def spec(self) -> VideoSpec:
        """Number and size of the frames; 25 of them a second."""
        num_frames, _, height, width = self.rgb_NCHW.shape
        return VideoSpec(num_frames, height, width, Fraction(25))

    def frames(self, index_N: Tensor) -> Tensor:
        """Return the frames ``index_N``."""
        return self.rgb_NCHW[index_N]


def moving_shapes(*, num_frames: int, height: int, width: int) -> MemoryClip:
    """Return a bright square that moves over a colour gradient, with slowly changing light."""
    row_H1 = torch.linspace(0, 1, height).view(-1, 1)
    col_1W = torch.linspace(0, 1, width).view(1, -1)
    frames = []
    for index in range(num_frames):
        light = 0.7 + 0.3 * index / max(num_frames - 1, 1)
        rgb_CHW = torch.stack([row_H1 * light + 0 * col_1W, col_1W + 0 * row_H1, (row_H1 + col_1W) / 2])
        top, left = (height * index) // (2 * num_frames), (width * index) // (2 * num_frames)
        rgb_CHW[:, top : top + max(height // 4, 1), left : left + max(width // 4, 1)] = 0.95
        frames.append((rgb_CHW * 255).round().to(torch.uint8))
    return MemoryClip(torch.stack(frames))
