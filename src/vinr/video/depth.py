"""Frames of one bit depth as frames of the other."""

from __future__ import annotations

from torch import Tensor

from vinr.video.spec import BitDepth, computable, depth_of, max_level, round_to_levels


def with_depth(levels: Tensor, bit_depth: BitDepth) -> Tensor:
    """Return frames at ``bit_depth``: the nearest levels, black and white staying what they are."""
    own = depth_of(levels)
    if own == bit_depth:
        return levels
    return round_to_levels(computable(levels).float() * (max_level(bit_depth) / max_level(own)), bit_depth)
