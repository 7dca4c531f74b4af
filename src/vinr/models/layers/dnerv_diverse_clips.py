"""Clips of D-NeRV: which frames are decoded together, and which are keyframes.

::

    video of 19 frames, clips of 8:   0 … 7 │ 8 … 15 │ 16 17 18 (18 18 18 18 18)
    keyframes:                        0       8        16    18

Axes: N frames of a batch, D frames of a clip, C channels, H rows, W columns.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from vinr.sharing import LruCache

# Decoded clips that are kept: one, and more while they take no more than this.
CACHED_BYTES = 256 << 20


@dataclass(frozen=True)
class Clip:
    """Frames of one video that are decoded together.

    ``first`` is its first frame, counted in its video of ``num_frames``; ``length`` frames from there, those
    beyond the video's end standing for its last frame. ``keyframes`` are the numbers, in the network, of the
    keyframes at its start and at its end: the next clip's first frame, or the video's last.
    """

    num_frames: int
    first: int
    length: int
    keyframes: tuple[int, int]

    def times(self, shift: float = 0.0) -> list[float]:
        """Return the time of each frame in its video, ``shift`` (0 to 1, in frames) later."""
        return [min(self.first + place + shift, self.num_frames - 1) for place in range(self.length)]

    def distances(self, shift: float = 0.0) -> list[float]:
        """Return how far each frame lies from the start keyframe (0) to the end keyframe (1)."""
        end = min(self.first + self.length, self.num_frames - 1)
        return [(time - self.first) / max(end - self.first, 1) for time in self.times(shift)]


class ClipLayout:
    """How the videos of a network are cut into clips, and which of their frames are keyframes.

    Frames, clips and keyframes are each numbered through the whole network.

    Parameters
    ----------
    span_lengths
        Frames of each video.
    clip_length
        Frames of a clip, D.
    """

    def __init__(self, span_lengths: Sequence[int], clip_length: int) -> None:
        self._lengths, self._clip_length = tuple(span_lengths), clip_length
        self._frame_starts = _starts(self._lengths)
        self._clip_starts = _starts([-(-length // clip_length) for length in self._lengths])
        # The first frame of each clip of a video, and its last frame where that is none of them.
        self._keyframe_starts = _starts([-(-(length - 1) // clip_length) + 1 for length in self._lengths])

    @property
    def keyframes(self) -> Iterator[int]:
        """The frames that are keyframes, rising."""
        for start, length in zip(self._frame_starts, self._lengths, strict=False):
            yield from range(start, start + length - 1, self._clip_length)
            yield start + length - 1

    @property
    def num_keyframes(self) -> int:
        """How many frames are keyframes."""
        return self._keyframe_starts[-1]

    def group_of(self, index_N: Tensor) -> Tensor:
        """Return the number of the clip of each frame ``index_N``."""
        frame_starts, clip_starts = (
            torch.tensor(starts, device=index_N.device) for starts in (self._frame_starts, self._clip_starts)
        )
        span_N = torch.bucketize(index_N, frame_starts[1:-1], right=True)
        return clip_starts[span_N] + (index_N - frame_starts[span_N]) // self._clip_length

    def locate(self, time: float) -> tuple[int, int, float]:
        """Return clip, place in the clip, and how much later (0 to 1) ``time``, in frames, lies.

        Times after the last frame of a video are its last frame, times before the first frame that one.
        """
        span = min(max(bisect_right(self._frame_starts, time) - 1, 0), len(self._lengths) - 1)
        inside = min(max(time - self._frame_starts[span], 0), self._lengths[span] - 1)
        number, place = divmod(int(inside), self._clip_length)
        return self._clip_starts[span] + number, place, inside - int(inside)

    def clip(self, number: int) -> Clip:
        """Return clip ``number``."""
        span = bisect_right(self._clip_starts, number) - 1
        inside = number - self._clip_starts[span]
        start = self._keyframe_starts[span] + inside
        end = min(start + 1, self._keyframe_starts[span + 1] - 1)
        return Clip(self._lengths[span], inside * self._clip_length, self._clip_length, (start, end))

    def frames_using(self, keyframe: int) -> range:
        """Return the frames of the clips that keyframe number ``keyframe`` starts or ends."""
        span = bisect_right(self._keyframe_starts, keyframe) - 1
        inside = keyframe - self._keyframe_starts[span]
        start, length = self._frame_starts[span], self._lengths[span]
        first = max(inside - 1, 0) * self._clip_length
        return range(start + min(first, length), start + min((inside + 1) * self._clip_length, length))


def _starts(counts: Sequence[int]) -> tuple[int, ...]:
    """Return where each of ``counts`` neighbouring ranges begins, and where the last one ends."""
    return (0, *accumulate(counts))


@dataclass(frozen=True)
class ClipPart:
    """What is decoded at once: a tile of clip ``number``, ``shift`` (0 to 1) frames later than its frames."""

    number: int
    shift: float
    row: int
    col: int


def keep_parts(parts_per_clip: int) -> LruCache[ClipPart, Tensor]:
    """Return a cache of the frames (D, 3, H, W) of the parts decoded last.

    All ``parts_per_clip`` of one clip are kept, and more while they take no more than 256 MiB.
    """
    return LruCache(parts_per_clip, max_bytes=CACHED_BYTES, num_bytes=_num_bytes)


def _num_bytes(frames_DCHW: Tensor) -> int:
    return frames_DCHW.nbytes
