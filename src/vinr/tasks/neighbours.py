"""Which trained frames lie around each frame of a video, and how they and their latents mix there.

Axes: T frames of the video, N some of them, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vinr.models import HybridModel, VideoModel
from vinr.video.spec import FrameSource, computable, round_to_levels


@dataclass(frozen=True)
class Neighbours:
    """For each of T frames the trained frames before and after it, and where it lies between them.

    ``share_T``, float64, is 0 at ``before_T`` and 1 at ``after_T``, both int64. A trained frame is both its
    neighbours; so are, for frames beyond the first or last trained one, those two.
    """

    before_T: Tensor
    after_T: Tensor
    share_T: Tensor

    def of(self, index_N: Tensor) -> Neighbours:
        """Return the neighbours of frames ``index_N``."""
        index_N = index_N.to(self.before_T.device)
        return Neighbours(self.before_T[index_N], self.after_T[index_N], self.share_T[index_N])

    def lerp(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the mix of values before and after, T along their first axis, by the shares."""
        # (N,) ─> (N, 1, …, 1): one share for all values of a frame
        share = self.share_T.to(before).view(-1, *[1] * (before.ndim - 1))
        return torch.lerp(before, after, share)

    @property
    def nearest_T(self) -> Tensor:
        """The nearest trained frame, the earlier one of two equally near."""
        return torch.where(self.share_T > 0.5, self.after_T, self.before_T)


def find_neighbours(span_lengths: Sequence[int], trained_N: Tensor) -> Neighbours:
    """Return the neighbours of every frame, each within its own clip where that has trained frames.

    Parameters
    ----------
    span_lengths
        Frames of each clip; frames are numbered through.
    trained_N
        The trained frames, int64, rising, at least one.
    """
    # trained      0       3     5                distance / (after - before)
    # frame        0   1   2     3   4   5   6
    # before       0   0   0     3   3   5   5    the last trained one that is not behind it
    # after        0   3   3     3   5   5   5    the first trained one that is not before it
    # share        0   ⅓   ⅔     0   ½   0   0    0 where both are the same, also beyond the ends
    parts, first = [], 0
    for length in span_lengths:
        frame_T = torch.arange(first, first + length)
        inside_N = trained_N[(trained_N >= first) & (trained_N < first + length)]
        # A clip of which nothing was trained lies between trained frames of the others.
        near_N = inside_N if len(inside_N) else trained_N
        before_T = near_N[(torch.searchsorted(near_N, frame_T, right=True) - 1).clamp(min=0)]
        after_T = near_N[torch.searchsorted(near_N, frame_T).clamp(max=len(near_N) - 1)]
        distance_T = (frame_T - before_T).clamp(min=0).to(torch.float64)
        share_T = distance_T / (after_T - before_T).clamp(min=1)
        parts.append((before_T, after_T, share_T.clamp(max=1) * (after_T > before_T)))
        first += length
    return Neighbours(*(torch.cat(values) for values in zip(*parts, strict=True)))


class MixedFrames:
    """Each frame a mix of the trained frames around it; trained frames as they are."""

    def __init__(self, source: FrameSource, neighbours: Neighbours) -> None:
        self._source, self._neighbours = source, neighbours
        self.spec = source.spec

    def frames(self, index_N: Tensor) -> Tensor:
        """Return levels rgb_NCHW."""
        near = self._neighbours.of(index_N)
        before_NCHW = computable(self._source.frames(near.before_T)).float()
        after_NCHW = computable(self._source.frames(near.after_T)).float()
        return round_to_levels(near.lerp(before_NCHW, after_NCHW), self.spec.bit_depth)


@torch.no_grad()
def mix_latents(model: VideoModel, neighbours: Neighbours) -> None:
    """Replace the latents of frames that are no neighbours of themselves by mixes of those that are."""
    if not isinstance(model, HybridModel) or model.latents is None:
        return
    for value in model.latents.per_frame.values():
        # Indexing copies, so that no mix is made of mixes while ``value`` is overwritten.
        before, after = value[neighbours.before_T], value[neighbours.after_T]
        value.copy_(neighbours.lerp(before, after))
