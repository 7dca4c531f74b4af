"""Which trained frames lie around each frame of a video, and how they and their latents mix there.

Axes: T frames of the video, N some of them, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vinr.models import HybridModel, VideoModel
from vinr.video.spec import FrameSource


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
    parts, first = [], 0
    for length in span_lengths:
        frame_T = torch.arange(first, first + length)
        inside_N = trained_N[(trained_N >= first) & (trained_N < first + length)]
        parts.append(_around(frame_T, inside_N if len(inside_N) else trained_N))
        first += length
    return Neighbours(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _around(frame_T: Tensor, trained_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    last = len(trained_N) - 1
    before_T = trained_N[(torch.searchsorted(trained_N, frame_T, right=True) - 1).clamp(min=0)]
    after_T = trained_N[torch.searchsorted(trained_N, frame_T).clamp(max=last)]
    distance_T = (frame_T - before_T).clamp(min=0).to(torch.float64)
    share_T = distance_T / (after_T - before_T).clamp(min=1)
    return before_T, after_T, share_T.clamp(max=1) * (after_T > before_T)


class MixedFrames:
    """Each frame a mix of the trained frames around it; trained frames as they are."""

    def __init__(self, source: FrameSource, neighbours: Neighbours) -> None:
        self._source, self._neighbours = source, neighbours
        self.spec = source.spec

    def frames(self, index_N: Tensor) -> Tensor:
        """Return uint8 rgb_NCHW."""
        near = self._neighbours.of(index_N)
        before_NCHW = self._source.frames(near.before_T).float()
        after_NCHW = self._source.frames(near.after_T).float()
        return near.lerp(before_NCHW, after_NCHW).round().to(torch.uint8)


@torch.no_grad()
def mix_latents(model: VideoModel, neighbours: Neighbours) -> None:
    """Replace the latents of frames that are no neighbours of themselves by mixes of those that are."""
    if not isinstance(model, HybridModel) or model.latents is None:
        return
    for value in model.latents.per_frame.values():
        before, after = value[neighbours.before_T], value[neighbours.after_T]
        value.copy_(neighbours.lerp(before, after))
