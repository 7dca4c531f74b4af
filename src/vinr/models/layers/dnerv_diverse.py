"""Layers of D-NeRV: features of keyframes, and the stages that warp and use them.

::

    start keyframe ──> maps at every scale ──> warp by flow 1 ──┐
    end keyframe   ──> maps at every scale ──> warp by flow 2 ──┴─> mix by distance ──> gain, shift ─┐
    features of a frame ──> flows 1 and 2                                                            │
                       └──> · gain, + shift ──> 3×3 conv, depth to space, GELU ──> mix over frames <─┘

Axes: B clips of a batch, D frames of a clip, N = B·D frames, clip after clip, K keyframes, C channels, H
rows, W columns; 2 in a name: the keyframe at a clip's start and the one at its end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vinr.models.layers.blocks import UpsampleBlock
from vinr.models.layers.flow import warp
from vinr.video.spec import PatchGrid

FusionName = Literal["affine", "concat"]

_INITIAL_LATENT_STD = 0.1


# -- features of keyframes -----------------------------------------------------------------------------------


class KeyframeEncoder(nn.Module):
    """Keyframes to features at every scale of the decoder; part of what is stored.

    3×3 convolution at full size, then one convolution a scale whose kernel is its stride, GELU after each.
    """

    def __init__(self, strides: Sequence[int], channels: int) -> None:
        super().__init__()
        self.input_conv = nn.Conv2d(3, channels, 3, padding=1)
        self.stages = nn.ModuleList(
            nn.Conv2d(channels, channels, stride, stride) for stride in reversed(strides)
        )

    def forward(self, rgb_KCHW: Tensor) -> list[Tensor]:
        """Return the maps, coarse to fine; the last one is the keyframe itself."""
        maps = [rgb_KCHW]
        feature_KCHW = F.gelu(self.input_conv(rgb_KCHW))
        for stage in self.stages:
            feature_KCHW = F.gelu(stage(feature_KCHW))
            maps.insert(0, feature_KCHW)
        return maps


class LearnedKeyframes(nn.Module):
    """A small latent a keyframe instead of an image, and what enlarges it to the maps of every scale.

    Parameters
    ----------
    num_keyframes, latent_channels, tiles, size
        Shape of the latents: a frame has ``tiles``, each of ``size`` (rows, columns).
    channels, kernel, with_rgb
        Channels of the maps, kernel of the convolutions between them, and whether there is one of colours.
    """

    keyframe_names, rows_per_step = ("latent",), 1

    def __init__(
        self,
        num_keyframes: int,
        latent_channels: int,
        *,
        tiles: PatchGrid,
        size: tuple[int, int],
        strides: Sequence[int],
        channels: int,
        kernel: int,
        with_rgb: bool,
    ) -> None:
        super().__init__()
        self.size = size
        rows, cols = tiles.rows * size[0], tiles.cols * size[1]
        self.latent = nn.Parameter(torch.empty(num_keyframes, latent_channels, rows, cols))
        # Nothing but its keyframes tells one video from another, so they start out different.
        nn.init.normal_(self.latent, std=_INITIAL_LATENT_STD)
        self.stem = nn.Conv2d(latent_channels, channels, 1)
        self.blocks = nn.ModuleList(
            UpsampleBlock(channels, channels, stride=stride, kernel=kernel, activation="gelu")
            for stride in strides[:-1]
        )
        self.rgb = None
        if with_rgb:
            wide_conv = nn.Conv2d(channels, 3 * strides[-1] ** 2, kernel, padding=kernel // 2)
            self.rgb = nn.Sequential(wide_conv, nn.PixelShuffle(strides[-1]))

    def forward(self, wanted: Sequence[tuple[int, int, int]]) -> list[Tensor]:
        """Return the maps of tiles (keyframe, row, column), coarse to fine; colours last ``with_rgb``."""
        height, width = self.size
        tiles = [
            self.latent[number, :, row * height : (row + 1) * height, col * width : (col + 1) * width]
            for number, row, col in wanted
        ]
        maps: list[Tensor] = [F.gelu(self.stem(torch.stack(tiles)))]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps if self.rgb is None else [*maps, self.rgb(maps[-1])]


# -- stages --------------------------------------------------------------------------------------------------


class WarpFusion(nn.Module):
    """What both keyframes show at a frame: each warped by a flow, mixed by the frame's distance to them.

    The flows, to the start and to the end keyframe, are made from the frame's own features and have no loss
    of their own. Without ``flow`` maps are mixed as they are.
    """

    def __init__(self, in_channels: int, *, flow: bool) -> None:
        super().__init__()
        self.flow_head = _narrowing_head(in_channels, 4) if flow else None

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
    for map_BCHW in map_B2CHW.unbind(1):
        yield map_BCHW.unsqueeze(1).expand(-1, times, -1, -1, -1).flatten(0, 1)


def _narrowing_head(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return 1×1 convolution to a quarter of the channels → GELU → 3×3 convolution."""
    middle = max(in_channels // 4, 1)
    return nn.Sequential(
        nn.Conv2d(in_channels, middle, 1), nn.GELU(), nn.Conv2d(middle, out_channels, 3, padding=1)
    )


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
        feature_BDCHW = feature_NCHW.view(-1, depth, *feature_NCHW.shape[1:])
        mixed_BDCHW = torch.einsum("ced,bdchw->bechw", self.weight, feature_BDCHW)
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
                gain_NCHW, shift_NCHW = self.fusion_conv(key_NCHW).chunk(2, dim=1)
                feature_NCHW = feature_NCHW * (1 + gain_NCHW) + shift_NCHW
        feature_NCHW = self.upsample(feature_NCHW)
        return feature_NCHW if self.temporal_map is None else self.temporal_map(feature_NCHW)


class _RGBHead(nn.Module):
    """Full-size features, and where ``skip`` the warped keyframes themselves, to normalised colours."""

    def __init__(self, in_channels: int, *, skip: bool, flow: bool) -> None:
        super().__init__()
        self.keys = WarpFusion(in_channels, flow=flow) if skip else None
        self.convs = _narrowing_head(in_channels + 3 if skip else in_channels, 3)

    def forward(self, feature_NCHW: Tensor, rgb_B2CHW: Tensor | None, distance_N: Tensor) -> Tensor:
        """Return three channels, not yet scaled to colours."""
        if self.keys is not None:
            assert rgb_B2CHW is not None
            key_NCHW = self.keys(feature_NCHW, rgb_B2CHW, distance_N)
            feature_NCHW = torch.cat([feature_NCHW, key_NCHW.to(feature_NCHW.dtype)], 1)
        out: Tensor = self.convs(feature_NCHW)
        return out


# -- the network ---------------------------------------------------------------------------------------------


def stretch_in_time(map_B2CHW: Tensor, clip_length: int, shift_B: Tensor) -> Tensor:
    """Return maps (N, C, H, W) of all frames, linear in time between both keyframes'.

    Frame j of D lies at (j + ½) · 2 / D − ½ between them, within 0 and 1: as an image grows from 2 to D rows.
    """
    place_BD = torch.arange(clip_length, device=shift_B.device) + shift_B.unsqueeze(1)
    share_BD = ((place_BD + 0.5) * 2 / clip_length - 0.5).clamp(0, 1).to(map_B2CHW)
    start_B1CHW, end_B1CHW = map_B2CHW.chunk(2, dim=1)
    return torch.lerp(start_B1CHW, end_B1CHW, share_BD[:, :, None, None, None]).flatten(0, 1)


def _normalise_clips(feature_NCHW: Tensor, clip_length: int) -> Tensor:
    """Return features whose channels each have mean 0 and variance 1 over all frames of a clip."""
    exact_NCHW = feature_NCHW.to(torch.promote_types(feature_NCHW.dtype, torch.float32))
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
        self.stages = nn.ModuleList(
            DecoderStage(
                before,
                after,
                stride,
                key_channels=key_channels if all_scales or number == 0 else 0,
                flow=flow,
                fusion=fusion,
                clip_length=clip_length if temporal_map else 0,
            )
            for number, (before, after, stride) in enumerate(zip(inputs, widths[1:], strides, strict=True))
        )
        self.head = _RGBHead(widths[-1], skip=rgb_skip and key_channels > 0, flow=flow)

    def forward(
        self, feature_NCHW: Tensor, maps: Sequence[Tensor], distance_N: Tensor, shift_B: Tensor
    ) -> Tensor:
        """Return three channels, not yet scaled to colours, at least float32.

        ``maps`` are those of the keyframes (2·B, C, H, W), start and end of one clip after another, coarse to
        fine, colours last; empty without keyframes. ``distance_N`` tells how far each frame lies from its
        start (0) to its end keyframe (1), ``shift_B`` how much later, 0 to 1, clips are than their frames.
        """
        pairs = [map_KCHW.view(-1, 2, *map_KCHW.shape[1:]) for map_KCHW in maps]
        if pairs:
            coarse_NCHW = stretch_in_time(pairs[0], self.clip_length, shift_B)
            feature_NCHW = torch.cat([feature_NCHW, coarse_NCHW.to(feature_NCHW.dtype)], 1)
        feature_NCHW = _normalise_clips(feature_NCHW, self.clip_length)
        for number, stage in enumerate(self.stages):
            feature_NCHW = stage(feature_NCHW, pairs[number] if number < len(pairs) else None, distance_N)
        raw_NCHW: Tensor = self.head(feature_NCHW, pairs[-1] if pairs else None, distance_N)
        return raw_NCHW.to(torch.promote_types(raw_NCHW.dtype, torch.float32))
