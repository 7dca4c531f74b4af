"""Small clips of 10 bits."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from vinr.video.sink import open_sink
from vinr.video.spec import ColorSpec, Timeline, VideoSpec


def gradient(num_frames: int = 3, height: int = 32, width: int = 48) -> torch.Tensor:
    """rgb_NCHW of smooth ramps that need all levels of 10 bits; uint16."""
    frame, row, col = np.mgrid[:num_frames, :height, :width]
    red = 1023 * col / (width - 1)
    green = 300 + 8 * row + 5 * col / 2 + 7 * frame
    blue = 700 - 6 * row - 3 * col + 11 * frame
    rgb = np.stack([red, green, blue], axis=1)
    return torch.from_numpy(rgb.round().clip(0, 1023).astype(np.uint16))


def spec_10(rgb_NCHW: torch.Tensor, color: ColorSpec | None = None) -> tuple[VideoSpec, Timeline]:
    num_frames, _, height, width = rgb_NCHW.shape
    rate = Fraction(25)
    spec = VideoSpec(num_frames, height, width, rate, color or ColorSpec(bit_depth=10), bit_depth=10)
    return spec, Timeline(num_frames, rate)


def write_10(path: Path, rgb_NCHW: torch.Tensor, *, codec: str | None = None) -> Path:
    spec, timeline = spec_10(rgb_NCHW)
    with open_sink(str(path), spec, timeline, codec=codec) as sink:
        sink.write(rgb_NCHW)
    return path
