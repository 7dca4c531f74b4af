"""DNeRV: HNeRV with a second stored embedding, that of the differences to the neighbouring frames.

Q. Zhao, M. S. Asif, Z. Ma, "DNeRV: Modeling Inherent Dynamics via Difference Neural Representation for
Videos", CVPR 2023, https://arxiv.org/abs/2304.06544. Not D-NeRV, which represents many diverse videos.

::

    frame (3, H, W) ──────────────────> encoder ──> content (16, h, w)        while fitting;
    differences to both neighbours ──> encoder ──> difference (2, h', w')    both stored, one per frame

    content ──> 1×1 conv ──> [conv k → depth to space s → act] per stage up to fuse_after = x ─┐
    difference ──> 1×1 conv ──> one such block more, if its map is smaller = d ────────────────┤
                ┌──────────────────────────────────────────────────────────────────────────────┘
                └─> s · tanh(A x + B d) + (1 − s) · x,  s = σ(C x + D d)
                      ──> [conv k → depth to space s → act] per later stage ──> 3×3 conv ──> sigmoid

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from vinr.models.base import HybridModel, Latents, Scaling
from vinr.models.layers.blocks import (
    ActivationName,
    ConvStagesConfig,
    FirstKernel,
    Kernel,
    LargestKernel,
    Output,
    Strides,
    UpsampleBlock,
    Width,
    check_kernels,
    grid_size,
    make_stages,
    padded_size,
    require_whole_frames,
    squash,
)
from vinr.models.layers.convnext import ChannelNorm
from vinr.sizing.strides import affordable_latents
from vinr.video.spec import FrameSource, Query, VideoSpec

# Three colours, each with its difference to the frame before and to the frame after.
DIFFERENCE_INPUTS = 6
MAX_STRIDE = 16


class DNeRVConfig(ConvStagesConfig):
    """Architecture of DNeRV; the defaults are those of the released code, but ``fuse_after``."""

    strides: Strides = Field(description="upsampling of each decoder stage and reductions of the encoder")
    kernel_min: FirstKernel = 1
    kernel_max: LargestKernel = 5
    activation: ActivationName = Field("gelu", description="non-linearity after each block")
    output: Output = "sigmoid"
    content_channels: Width = Field(16, description="channels of a frame's stored content embedding")
    difference_channels: Width = Field(2, description="channels of a frame's stored difference embedding")
    difference_strides: Strides = Field(description="reductions of the differences' encoder")
    difference_kernel: Kernel = Field(3, description="kernel of the block that enlarges differences, odd")
    fuse_after: int = Field(1, ge=1, le=8, description="stage after which the differences join, from 1")
    fusion_kernel: Kernel = Field(3, description="kernel of the fusion's four convolutions, odd")
    encoder_width: Width = Field(64, description="channels inside both encoders")

    @model_validator(mode="after")
    def _check_differences(self) -> Self:
        check_kernels(self.difference_kernel, self.fusion_kernel)
        if self.fuse_after > len(self.strides):
            raise ValueError(f"fuse_after {self.fuse_after} exceeds the {len(self.strides)} stages")
        whole, later = math.prod(self.difference_strides), math.prod(self.strides[self.fuse_after :])
        if whole % later or math.prod(self.strides) % whole:
            raise ValueError(
                f"difference_strides {self.difference_strides} must multiply to a multiple of {later}, what "
                f"follows the fusion, and to a divisor of {math.prod(self.strides)}, the product of strides"
            )
        if whole // later > MAX_STRIDE:
            raise ValueError(
                f"difference_strides {self.difference_strides} leave differences to be enlarged "
                f"{whole // later} times, more than {MAX_STRIDE}; fuse earlier or take smaller strides"
            )
        return self

    @property
    def difference_stride(self) -> int:
        """How many times smaller the difference embedding is than the map it joins."""
        return math.prod(self.difference_strides) // math.prod(self.strides[self.fuse_after :])


def frame_differences(before_NCHW: Tensor, frame_NCHW: Tensor, after_NCHW: Tensor) -> Tensor:
    """Return what changes from the frame before and to the frame after, per colour: (N, 6, H, W).

    Channels are red minus the red before, red after minus red, then the same of green and of blue.
    """
    # (N, 3, 2, H, W): flattened, each colour keeps its two differences side by side.
    pairs = torch.stack([frame_NCHW - before_NCHW, after_NCHW - frame_NCHW], dim=2)
    return pairs.flatten(1, 2)


class _EncoderStage(nn.Module):
    """Strided convolution, LayerNorm over channels, and a residual 7×7 depthwise → 1×1 → GELU → 1×1."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.downsample_conv = nn.Conv2d(in_channels, channels, stride, stride)
        self.downsample_norm = ChannelNorm(channels)
        self.depthwise_conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.pointwise_conv1 = nn.Conv2d(channels, 4 * channels, 1)
        self.pointwise_conv2 = nn.Conv2d(4 * channels, channels, 1)

    def forward(self, feature_NCHW: Tensor) -> Tensor:
        feature_NCHW = self.downsample_norm(self.downsample_conv(feature_NCHW))
        branch_NCHW = F.gelu(self.pointwise_conv1(self.depthwise_conv(feature_NCHW)))
        out: Tensor = feature_NCHW + self.pointwise_conv2(branch_NCHW)
        return out


def _make_encoder(in_channels: int, strides: Sequence[int], width: int, channels: int) -> nn.Sequential:
    encoder = nn.Sequential()
    for stride in strides:
        encoder.append(_EncoderStage(width if len(encoder) else in_channels, width, stride))
    return encoder.append(nn.Conv2d(width, channels, 1))


class _Encoders(nn.Module):
    """Both encoders; needed while fitting only."""

    def __init__(self, config: DNeRVConfig) -> None:
        super().__init__()
        width = config.encoder_width
        self.content = _make_encoder(3, config.strides, width, config.content_channels)
        self.difference = _make_encoder(
            DIFFERENCE_INPUTS, config.difference_strides, width, config.difference_channels
        )

    def forward(self, frame_NCHW: Tensor, difference_NCHW: Tensor) -> Latents:
        return Latents({"content": self.content(frame_NCHW), "difference": self.difference(difference_NCHW)})


class _Fusion(nn.Module):
    """Mixes content with a candidate made of content and differences, as a gate says (the paper's CCU)."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        conv = partial(nn.Conv2d, channels, channels, kernel, padding=kernel // 2)
        self.candidate_content, self.candidate_difference = conv(), conv()
        self.gate_content, self.gate_difference = conv(), conv()

    def forward(self, content_NCHW: Tensor, difference_NCHW: Tensor) -> Tensor:
        candidate_NCHW = torch.tanh(
            self.candidate_content(content_NCHW) + self.candidate_difference(difference_NCHW)
        )
        gate_NCHW = torch.sigmoid(self.gate_content(content_NCHW) + self.gate_difference(difference_NCHW))
        # Gate 1 takes the candidate, gate 0 leaves the content as it is.
        return gate_NCHW * candidate_NCHW + (1 - gate_NCHW) * content_NCHW


class DNeRV(HybridModel):
    """DNeRV (CVPR 2023): stored embeddings of frames and of their differences, fused in the decoder."""

    Config = DNeRVConfig
    # HNeRV's: channels shrink by r = 1.2 per stage, not below 12.
    scaling = Scaling(reduction=1.2)

    def __init__(self, config: DNeRVConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.config = config
        self.encoder = _Encoders(config) if with_encoder else None
        self.stem = nn.Conv2d(config.content_channels, config.widths[0], 1)
        self.blocks = nn.ModuleList(make_stages(config))
        self.difference_branch = nn.Sequential(*_make_branch(config))
        self.fusion = _Fusion(config.widths[config.fuse_after], config.fusion_kernel)
        self.head = config.make_head()

    @classmethod
    def configure(cls, video: VideoSpec, *, width: float, settings: Mapping[str, Any]) -> DNeRVConfig:
        """See :meth:`VideoModel.configure`; ``width`` is C0 before rounding.

        Differences join after the first stage, at the size of its map or, where that costs too much, enlarged
        by it. Both embeddings get as many channels, up to 16 and 2, as keep them within 35 % of the total.
        """
        chosen = cls.scale(video, width, settings)
        strides = tuple(chosen["strides"])
        fuse_after = chosen.setdefault("fuse_after", DNeRVConfig.model_fields["fuse_after"].default)
        small_map = strides[max(fuse_after - 1, 0) :] or strides
        thin = {"content_channels": 1, "difference_channels": 1, "difference_strides": small_map}
        model = cls.on_meta(DNeRVConfig(**(thin | chosen)), video)
        latents = sum(map(math.prod, model.per_frame_shapes().values())) * video.num_frames
        affordable = affordable_latents(model.num_stored() - latents) / video.num_frames
        embeddings = _choose_embeddings(strides, fuse_after, math.prod(model.coded_size()), affordable)
        return DNeRVConfig(**(embeddings | chosen))

    def coded_size(self) -> tuple[int, int]:
        """See :meth:`VideoModel.coded_size`: multiples of the product of the strides."""
        return padded_size(self.video, self.config.strides)

    def per_frame_shapes(self) -> dict[str, tuple[int, ...]]:
        """See :meth:`VideoModel.per_frame_shapes`: the embeddings of content and of differences."""
        height, width = self.coded_size()
        content_size = grid_size(height, width, self.config.strides)
        difference_size = grid_size(height, width, self.config.difference_strides)
        return {
            "content": (self.config.content_channels, *content_size),
            "difference": (self.config.difference_channels, *difference_size),
        }

    def frames_using_latents(self, first: int, stop: int) -> range:
        """See :meth:`VideoModel.frames_using_latents`: a frame needs its own."""
        return range(first, stop)

    def encode(self, source: FrameSource, index_N: Tensor) -> Latents:
        """See :meth:`HybridModel.encode`; reads both neighbours too.

        The first and the last frame of a clip take themselves for the neighbour that is missing.
        """
        if self.encoder is None:
            raise ValueError("the encoder was dropped; give no source")
        # One read for all three: the frames before, then the frames, then those after.
        before_NCHW, frame_NCHW, after_NCHW = self.read_frames(source, self.with_neighbours(index_N)).chunk(3)
        latents: Latents = self.encoder(frame_NCHW, frame_differences(before_NCHW, frame_NCHW, after_NCHW))
        return latents

    def with_neighbours(self, index_N: Tensor) -> Tensor:
        """Return the frames before ``index_N``, those themselves, and those after, within their own clip."""
        lengths = torch.tensor(self.video.span_lengths, device=index_N.device)
        # Frame i belongs to the first clip that ends after it.
        ends = lengths.cumsum(0)
        clip_N = torch.bucketize(index_N, ends, right=True)
        first_N, last_N = (ends - lengths)[clip_N], ends[clip_N] - 1
        return torch.cat([(index_N - 1).maximum(first_N), index_N, (index_N + 1).minimum(last_N)])

    def decode(self, query: Query, latents: Latents) -> Tensor:
        """See :meth:`HybridModel.decode`; under ``output = "offset"`` values may leave [0, 1]."""
        require_whole_frames(query)
        feature_NCHW = self.stem(latents.per_frame["content"])
        for number, block in enumerate(self.blocks, start=1):
            feature_NCHW = block(feature_NCHW)
            if number == self.config.fuse_after:
                feature_NCHW = self.fusion(
                    feature_NCHW, self.difference_branch(latents.per_frame["difference"])
                )
        return squash(self.head(feature_NCHW), self.config.output, self.config.output_offset)


def _make_branch(config: DNeRVConfig) -> list[nn.Module]:
    """Return what brings the difference embedding to channels and size of the map it joins."""
    before, after = config.widths[config.fuse_after - 1 : config.fuse_after + 1]
    stride = config.difference_stride
    if stride == 1:
        return [nn.Conv2d(config.difference_channels, after, 1)]
    block = UpsampleBlock(
        before, after, stride=stride, kernel=config.difference_kernel, activation=config.activation
    )
    return [nn.Conv2d(config.difference_channels, before, 1), block]


def _choose_embeddings(
    strides: tuple[int, ...], fuse_after: int, num_pixels: int, affordable: float
) -> dict[str, Any]:
    """Return channels of both embeddings and strides of the differences for so many latents per frame."""
    content = int(DNeRVConfig.model_fields["content_channels"].default)
    difference = int(DNeRVConfig.model_fields["difference_channels"].default)
    # A map after strides of product P has 1/P² of the pixels.
    content_cells = num_pixels // math.prod(strides) ** 2
    large_map, small_map = strides[fuse_after:], strides[fuse_after - 1 :]
    cells = num_pixels // math.prod(large_map) ** 2
    if not large_map or affordable < content_cells + cells:
        large_map, cells = small_map, num_pixels // math.prod(small_map) ** 2
    if affordable < content * content_cells + difference * cells:
        difference = 1
    content = max(1, min(content, int((affordable - difference * cells) / content_cells)))
    return {
        "content_channels": content,
        "difference_channels": difference,
        "difference_strides": large_map,
    }
