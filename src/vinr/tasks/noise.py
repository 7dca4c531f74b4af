"""Noise that is put on clean frames, the same for a frame whenever it is read.

Axes: N frames, C channels, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from vinr.errors import UsageError, unknown
from vinr.video.spec import FrameSource, computable, depth_of, max_level, round_to_levels

NoiseKind = Literal["black", "white", "salt_pepper", "gaussian"]
# Of the pixels that are hit.
WHITE_SHARE = {"black": 0.0, "white": 1.0, "salt_pepper": 0.5}


@dataclass(frozen=True)
class Noise:
    """Independent noise.

    Parameters
    ----------
    kind
        ``black``, ``white``: pixels that lost all three colours; ``salt_pepper``: either, half of them each;
        ``gaussian``: added to each colour of each pixel, then clipped and rounded to levels.
    amount
        Share of pixels that are hit, in (0, 1); of ``gaussian`` the standard deviation, colours in [0, 1].
    seed
        Not below 0; another one, other noise.

    Raises
    ------
    UsageError
        If the kind is unknown or the amount out of range.
    """

    kind: NoiseKind
    amount: float
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(NoiseKind):
            raise UsageError(unknown("noise", self.kind, get_args(NoiseKind)))
        if self.seed < 0:
            raise UsageError(f"seed {self.seed}: give a whole number from 0 on")
        if not 0 < self.amount < 1:
            raise UsageError(f"noise of amount {self.amount:g}: give one above 0 and below 1, such as 0.1")

    def add(self, rgb_CHW: Tensor, index: int) -> Tensor:
        """Return frame number ``index`` with its noise."""
        # NumPy mixes both numbers; torch's generator keeps 32 bits of a seed.
        generator = np.random.default_rng((self.seed, index))
        depth = depth_of(rgb_CHW)
        white = max_level(depth)
        if self.kind == "gaussian":
            # Colours are levels here, and the deviation is that of colours in [0, 1].
            noise_CHW = generator.standard_normal(tuple(rgb_CHW.shape), np.float32) * (white * self.amount)
            noisy_CHW = computable(rgb_CHW).float() + torch.from_numpy(noise_CHW).to(rgb_CHW.device)
            return round_to_levels(noisy_CHW, depth)
        # One draw u a pixel, so that no pixel is hit twice; a = amount, w = share of white among those hit:
        #
        #   u    0 … a·w      white
        #        a·w … a      black
        #        a … 1        as it was
        draw_HW = torch.from_numpy(generator.random(tuple(rgb_CHW.shape[1:]))).to(rgb_CHW.device)
        dark_CHW = computable(rgb_CHW).masked_fill(draw_HW < self.amount, 0)
        return dark_CHW.masked_fill(draw_HW < self.amount * WHITE_SHARE[self.kind], white).view(rgb_CHW.dtype)


class NoisyFrames:
    """Frames of ``source`` with noise; a :class:`~vinr.video.spec.FrameSource`."""

    def __init__(self, source: FrameSource, noise: Noise) -> None:
        self._source, self._noise = source, noise
        self.spec = source.spec

    def frames(self, index_N: Tensor) -> Tensor:
        """Return levels rgb_NCHW."""
        rgb_NCHW = self._source.frames(index_N)
        noisy = [
            self._noise.add(rgb_CHW, index) for rgb_CHW, index in zip(rgb_NCHW, index_N.tolist(), strict=True)
        ]
        return torch.stack(noisy)
