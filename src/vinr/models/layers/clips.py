"""Clips of D-NeRV: which frames are decoded together, which are keyframes, and the stages that decode them.

::

    video of 19 frames, clips of 8:   0 … 7 │ 8 … 15 │ 16 17 18 (18 18 18 18 18)
    keyframes:                        0       8        16    18

    start keyframe ──> maps at every scale ──> warp by flow 1 ──┐
    end keyframe   ──> maps at every scale ──> warp by flow 2 ──┴─> mix by distance ──> gain, shift ─┐
    features of a frame ──> flows 1 and 2                                                            │
                       └──> · gain, + shift ──> 3×3 conv, depth to space, GELU ──> mix over frames <─┘

Axes: B clips of a batch, D frames of a clip, N = B·D frames, clip after clip, K keyframes, C channels, H
rows, W columns; 2 in a name: the keyframe at a clip's start and the one at its end.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vinr.models.layers.blocks import UpsampleBlock
from vinr.models.layers.warp import WarpFusion, narrowing_head
from vinr.sharing import LruCache

FusionName = Literal["affine", "concat"]

# Decoded clips that are kept: one, and more while they take no more than this.
CACHED_BYTES = 256 << 20


# -- which frames --------------------------------------------------------------------------------------------


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
        frame_starts = torch.tensor(self._frame_starts, device=index_N.device)
        clip_starts = torch.tensor(self._clip_starts, device=index_N.device)
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
    return LruCache(parts_per_clip, max_bytes=CACHED_BYTES, num_bytes=attrgetter("nbytes"))


# -- stages --------------------------------------------------------------------------------------------------


class TemporalMap(nn.Module):
    """Adds to each frame of a clip a linear mix of all its frames, another one for each channel.

    The same at all pixels. Weights are (channel, frame out, frame in).
    """

    def __init__(self, channels: int, clip_length: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, clip_length, clip_length))
        self.bias = nn.Parameter(torch.empty(channels * clip_length))
        # As torch draws a convolution over frames that is grouped by channels.
        bound = 1 / math.sqrt(clip_length)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, feature_NCHW: Tensor) -> Tensor:
        """Return features of the same shape."""
        channels, depth = self.weight.shape[:2]
        # e: frame out, d: frame in.
        feature_BDCHW = feature_NCHW.view(-1, depth, *feature_NCHW.shape[1:])
        mixed_BDCHW = torch.einsum("ced,bdchw->bechw", self.weight, feature_BDCHW)
        # Biases are kept channel by channel, D each: (C·D) becomes (C, D), then (D, C, 1, 1).
        bias_DC11 = self.bias.view(channels, depth).t()[..., None, None]
        out: Tensor = (feature_BDCHW + (mixed_BDCHW + bias_DC11)).flatten(0, 1)
        return out


class DecoderStage(nn.Module):
    """Keyframes joined → 3×3 convolution → depth to space → GELU → frames of the clip mixed.

    Parameters
    ----------
    key_channels
        Channels of the keyframes' maps that join here; 0: none do.
    flow, fusion, clip_length
        Whether those maps are warped; whether they set gain and shift of the features or are appended to
        them; frames of a clip that are mixed, 0: each stays by itself.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        key_channels: int,
        flow: bool,
        fusion: FusionName,
        clip_length: int,
    ) -> None:
        super().__init__()
        self.keys = WarpFusion(in_channels, flow=flow) if key_channels else None
        appended = key_channels if fusion == "concat" else 0
        affine = key_channels and fusion == "affine"
        self.fusion_conv = nn.Conv2d(key_channels, 2 * in_channels, 1) if affine else None
        self.upsample = UpsampleBlock(
            in_channels + appended, out_channels, stride=stride, kernel=3, activation="gelu"
        )
        self.temporal_map = TemporalMap(out_channels, clip_length) if clip_length else None
        for conv in filter(None, (self.fusion_conv, self.upsample.conv)):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # both have one

    def forward(self, feature_NCHW: Tensor, map_B2CHW: Tensor | None, distance_N: Tensor) -> Tensor:
        """Return features with ``stride`` times the rows and columns; ``map_B2CHW`` as large as the input."""
        if self.keys is not None:
            assert map_B2CHW is not None
            key_NCHW = self.keys(feature_NCHW, map_B2CHW, distance_N)
            if self.fusion_conv is None:
                feature_NCHW = torch.cat([feature_NCHW, key_NCHW.to(feature_NCHW.dtype)], 1)
            else:
                # The first half of the channels are gains, the second half shifts.
                gain_NCHW, shift_NCHW = self.fusion_conv(key_NCHW).chunk(2, dim=1)
                feature_NCHW = feature_NCHW * (1 + gain_NCHW) + shift_NCHW
        feature_NCHW = self.upsample(feature_NCHW)
        return feature_NCHW if self.temporal_map is None else self.temporal_map(feature_NCHW)


class _RGBHead(nn.Module):
    """Full-size features, and where ``skip`` the warped keyframes themselves, to normalised colours."""

    def __init__(self, in_channels: int, *, skip: bool, flow: bool) -> None:
        super().__init__()
        self.keys = WarpFusion(in_channels, flow=flow) if skip else None
        self.convs = narrowing_head(in_channels + 3 if skip else in_channels, 3)

    def forward(self, feature_NCHW: Tensor, rgb_B2CHW: Tensor | None, distance_N: Tensor) -> Tensor:
        """Return three channels, not yet scaled to colours."""
        if self.keys is not None:
            assert rgb_B2CHW is not None
            key_NCHW = self.keys(feature_NCHW, rgb_B2CHW, distance_N)
            feature_NCHW = torch.cat([feature_NCHW, key_NCHW.to(feature_NCHW.dtype)], 1)
        out: Tensor = self.convs(feature_NCHW)
        return out


def stretch_in_time(map_B2CHW: Tensor, clip_length: int, shift_B: Tensor) -> Tensor:
    """Return maps (N, C, H, W) of all frames, linear in time between both keyframes'.

    Frame j of D lies at (j + ½) · 2 / D − ½ between them, within 0 and 1: as an image grows from 2 to D rows.
    """
    place_BD = torch.arange(clip_length, device=shift_B.device) + shift_B.unsqueeze(1)
    share_BD = ((place_BD + 0.5) * 2 / clip_length - 0.5).clamp(0, 1).to(map_B2CHW)
    # (B, 1, C, H, W) against (B, D, 1, 1, 1) gives (B, D, C, H, W); clips follow one another in N.
    start_B1CHW, end_B1CHW = map_B2CHW.chunk(2, dim=1)
    return torch.lerp(start_B1CHW, end_B1CHW, share_BD[:, :, None, None, None]).flatten(0, 1)


def _normalise_clips(feature_NCHW: Tensor, clip_length: int) -> Tensor:
    """Return features whose channels each have mean 0 and variance 1 over all frames of a clip."""
    exact_NCHW = feature_NCHW.to(torch.promote_types(feature_NCHW.dtype, torch.float32))
    # instance_norm takes all axes after the channels together: frames, rows and columns of a clip.
    feature_BCDHW = exact_NCHW.view(-1, clip_length, *feature_NCHW.shape[1:]).transpose(1, 2)
    return F.instance_norm(feature_BCDHW).transpose(1, 2).flatten(0, 1).to(feature_NCHW.dtype)


class ClipDecoder(nn.Module):
    """Features of the first grid, and maps of keyframes, to the frames of clips.

    Parameters
    ----------
    widths
        Channels of the input and after each stage.
    key_channels
        Channels of the keyframes' maps; 0: there are none.
    all_scales, rgb_skip
        Whether they join every stage or the first one only, and whether the head sees the keyframes.
    flow, fusion
        See :class:`DecoderStage`.
    temporal_map
        Whether stages mix the frames of a clip.
    """

    def __init__(
        self,
        widths: Sequence[int],
        strides: Sequence[int],
        *,
        clip_length: int,
        key_channels: int,
        all_scales: bool,
        rgb_skip: bool,
        flow: bool,
        fusion: FusionName,
        temporal_map: bool,
    ) -> None:
        super().__init__()
        self.clip_length = clip_length
        inputs = (widths[0] + key_channels, *widths[1:-1])
        self.stages = nn.ModuleList()
        for number, (before, after, stride) in enumerate(zip(inputs, widths[1:], strides, strict=True)):
            stage = DecoderStage(
                before,
                after,
                stride,
                key_channels=key_channels if all_scales or number == 0 else 0,
                flow=flow,
                fusion=fusion,
                clip_length=clip_length if temporal_map else 0,
            )
            self.stages.append(stage)
        self.head = _RGBHead(widths[-1], skip=rgb_skip and key_channels > 0, flow=flow)

    def forward(
        self, feature_NCHW: Tensor, maps: Sequence[Tensor], distance_N: Tensor, shift_B: Tensor
    ) -> Tensor:
        """Return three channels, not yet scaled to colours, at least float32.

        ``maps`` are those of the keyframes (2·B, C, H, W), start and end of one clip after another, coarse to
        fine, colours last; empty without keyframes. ``distance_N`` tells how far each frame lies from its
        start (0) to its end keyframe (1), ``shift_B`` how much later, 0 to 1, clips are than their frames.
        """
        # Keyframes come as start, end, start, end, …: (2·B, C, H, W) becomes (B, 2, C, H, W).
        pairs = [map_KCHW.view(-1, 2, *map_KCHW.shape[1:]) for map_KCHW in maps]
        if pairs:
            coarse_NCHW = stretch_in_time(pairs[0], self.clip_length, shift_B)
            feature_NCHW = torch.cat([feature_NCHW, coarse_NCHW.to(feature_NCHW.dtype)], 1)
        feature_NCHW = _normalise_clips(feature_NCHW, self.clip_length)
        for number, stage in enumerate(self.stages):
            feature_NCHW = stage(feature_NCHW, pairs[number] if number < len(pairs) else None, distance_N)
        raw_NCHW: Tensor = self.head(feature_NCHW, pairs[-1] if pairs else None, distance_N)
        return raw_NCHW.to(torch.promote_types(raw_NCHW.dtype, torch.float32))
