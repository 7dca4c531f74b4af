"""Where scenes begin: a detector of hard cuts by colour histograms.

::

    frames ──> every n-th sample ─┬─> histogram of 8 × 8 × 8 colours: share of samples in other bins
                                  └─> mean difference of samples

A cut is where both are large, and the share stands out from those of the frames around.

It sees cuts from one frame to the next, and neither fades nor dissolves. Fast motion and flashes change
several frames on end, and stand out from nothing. It is no learned detector, and as simple as one can be: a
cut that it misses or imagines costs a segment a little quality, nothing else.

Axes: N frames, C colour channels, H rows, W columns, B bins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from vinr.video.source import VideoReader
from vinr.video.spec import computable, depth_of, max_level

BLOCK_FRAMES: Final = 16
# Rows and columns that are looked at of a frame, about; and bits of each colour that tell bins apart.
SAMPLED_SIDE: Final = 96
BIN_BITS: Final = 3
# Of all samples those that have changed their bin, and as a multiple of the largest such share around.
CUT_SHARE: Final = 0.35
CUT_RATIO: Final = 2.5
AROUND: Final = 3
# Mean difference of samples, of the range of levels: where large even areas fade, all of them change their
# bin in the same frame, but by little.
CUT_DIFFERENCE: Final = 0.04


@dataclass(frozen=True)
class _Look:
    """What is kept of a frame: its samples, and the share of them in each bin."""

    samples_CHW: Tensor
    share_B: Tensor

    def distance(self, other: _Look) -> float:
        """Return the share of samples in other bins, 0 where the samples differ by little."""
        difference = (self.samples_CHW - other.samples_CHW).abs().mean()
        if float(difference) < CUT_DIFFERENCE:
            return 0.0
        return float((self.share_B - other.share_B).abs().sum() / 2)


def find_cuts(reader: VideoReader, on_frame: Callable[[int, int], None] | None = None) -> list[int]:
    """Return the frames with which scenes begin, the first scene aside.

    All frames are read once, a few at a time. ``on_frame`` takes the number of frames read, and of all.

    Raises
    ------
    InputError
        If a frame is damaged or missing.
    """
    count = reader.spec.num_frames
    distances: list[float] = []
    before: _Look | None = None
    for first in range(0, count, BLOCK_FRAMES):
        stop = min(first + BLOCK_FRAMES, count)
        for rgb_CHW in reader.read(first, stop).rgb_NCHW:
            look = _look_at(rgb_CHW)
            distances.append(0.0 if before is None else look.distance(before))
            before = look
        if on_frame is not None:
            on_frame(stop, count)
    return [index for index in range(1, count) if _is_cut(distances, index)]


def _is_cut(distances: list[float], index: int) -> bool:
    around = distances[max(index - AROUND, 1) : index] + distances[index + 1 : index + 1 + AROUND]
    return distances[index] >= max(CUT_SHARE, CUT_RATIO * max(around, default=0.0))


def _look_at(rgb_CHW: Tensor) -> _Look:
    step = max(min(rgb_CHW.shape[1:]) // SAMPLED_SIDE, 1)
    sampled_CHW = computable(rgb_CHW)[:, ::step, ::step].to(torch.int64)
    depth = depth_of(rgb_CHW)
    red_HW, green_HW, blue_HW = (sampled_CHW >> (depth - BIN_BITS)).unbind()
    bin_HW = (red_HW << 2 * BIN_BITS) + (green_HW << BIN_BITS) + blue_HW
    count_B = torch.bincount(bin_HW.flatten(), minlength=1 << 3 * BIN_BITS)
    return _Look(sampled_CHW / max_level(depth), count_B / bin_HW.numel())
