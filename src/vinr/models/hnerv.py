"""HNeRV: a ConvNeXt encoder and a convolutional decoder fitted to one video.

H. Chen, M. Gwilliam, S.-N. Lim, A. Shrivastava, "HNeRV: A Hybrid Neural Representation for Videos", CVPR
2023, https://arxiv.org/abs/2304.02633. The presets reproduce its tables of the Bunny clip and of UVG.

::

    frame (3, H, W) ──> ConvNeXt stages ──> embedding (d, h, w)     while fitting; stored, one a frame
    embedding ──> 1×1 conv, act (C0) ──> [conv k → s²·C → depth to space s → act] per stage
              ──> 3×3 conv ──> tanh

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self, final

from pydantic import Field, model_validator
from torch import Tensor, nn

from vinr.models._base import HybridModel, VideoModel
from vinr.models._sizing import choose_strides, taper
from vinr.models._stored import Latents
from vinr.models.layers.blocks import (
    ConvNeXtEncoder,
    ConvStagesConfig,
    FirstKernel,
    LargestKernel,
    Strides,
    UpsampleBlock,
    Width,
    check_stages,
    make_stages,
    padded_size,
    require_whole_frames,
    squash,
)
from vinr.video.spec import FrameSource, Query, VideoSpec

# Supplement, Table 17: channels shrink by r = 1.2 a stage, not below 12.
REDUCTION = 1.2
LOWER_WIDTH = 12
# Bounds of configure(): the thinnest decoder, and the share of the stored numbers that latents may take.
MIN_WIDTH = 4
MAX_LATENT_SHARE = 0.35


class EmbeddingConfig(ConvStagesConfig):
    """Settings of decoders that start from an embedding of the frame, and of the encoder that makes it."""

    embedding_channels: Width = Field(16, description="channels of a frame's stored embedding")
    encoder_strides: Strides | None = Field(None, description="reductions of the encoder; none: strides")
    encoder_width: Width = Field(64, description="channels of all encoder stages but the last")
    encoder_depth: int = Field(1, ge=1, le=32, description="ConvNeXt blocks an encoder stage")

    @property
    def analysis_strides(self) -> tuple[int, ...]:
        """Strides of the encoder."""
        return self.encoder_strides or self.strides

    def make_encoder(self) -> ConvNeXtEncoder:
        """Return the network from frames to embeddings."""
        strides = self.analysis_strides
        widths = [self.encoder_width] * (len(strides) - 1) + [self.embedding_channels]
        return ConvNeXtEncoder(strides, widths, [self.encoder_depth] * len(strides))


class HNeRVConfig(EmbeddingConfig):
    """Architecture of HNeRV; the defaults are those of the paper (supplement, Table 17)."""

    kernel_min: FirstKernel = 1
    kernel_max: LargestKernel = 5
    blocks_per_stage: int = Field(1, ge=1, le=8, description="convolutions a stage; the first one upsamples")

    @model_validator(mode="after")
    def _check_encoder(self) -> Self:
        if math.prod(self.analysis_strides) % math.prod(self.strides):
            raise ValueError(
                f"encoder_strides {self.encoder_strides} must multiply to a multiple of the product of "
                f"strides {self.strides}"
            )
        check_stages(self.analysis_strides, [1] * (len(self.analysis_strides) + 1))
        return self


class EmbeddingModel(HybridModel):
    """What HNeRV and HNeRV-Boost have before their decoders: one stored embedding (d, h, w) a frame."""

    encoder: ConvNeXtEncoder | None

    def __init__(self, config: EmbeddingConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.config = config
        self.encoder = config.make_encoder() if with_encoder else None

    @final
    def coded_size(self) -> tuple[int, int]:
        """See :meth:`VideoModel.coded_size`: multiples of the product of the encoder's strides."""
        return padded_size(self.video, self.config.analysis_strides)

    @final
    def per_frame_shapes(self) -> dict[str, tuple[int, ...]]:
        """See :meth:`VideoModel.per_frame_shapes`: one embedding (d, h, w) a frame."""
        height, width = self.coded_size()
        multiple = math.prod(self.config.analysis_strides)
        return {"embedding": (self.config.embedding_channels, height // multiple, width // multiple)}

    @final
    def frames_using_latents(self, first: int, stop: int) -> range:
        """See :meth:`VideoModel.frames_using_latents`: a frame needs its own."""
        return range(first, stop)

    def encode(self, source: FrameSource, index_N: Tensor) -> Latents:
        """See :meth:`HybridModel.encode`."""
        if self.encoder is None:
            raise ValueError("the encoder was dropped; give no source")
        return Latents({"embedding": self.encoder(self.read_frames(source, index_N))})


class HNeRV(EmbeddingModel):
    """HNeRV (CVPR 2023): stored per-frame embeddings, decoded by a convolutional network."""

    Config = HNeRVConfig

    def __init__(self, config: HNeRVConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        stem_stride = math.prod(config.analysis_strides) // math.prod(config.strides)
        self.stem = UpsampleBlock(
            config.embedding_channels,
            config.widths[0],
            stride=stem_stride,
            kernel=1,
            activation=config.activation,
        )
        self.blocks = nn.Sequential(*make_stages(config, config.blocks_per_stage))
        self.head = config.make_head()

    @classmethod
    def configure(cls, video: VideoSpec, *, width: float, settings: Mapping[str, Any]) -> HNeRVConfig:
        """See :meth:`VideoModel.configure`; ``width`` is C0 before rounding.

        Embeddings get 16 channels, or as many (at least one) as keep them within 35 % of the stored numbers.
        """
        chosen = dict(settings)
        chosen.setdefault("strides", choose_strides(video.height, video.width))
        num_widths = len(chosen["strides"]) + 1
        lower = max(MIN_WIDTH, min(LOWER_WIDTH, width))
        chosen.setdefault("widths", taper(width, num_widths, reduction=REDUCTION, lower=lower))
        if "embedding_channels" not in chosen:
            thin = cls.on_meta(HNeRVConfig(**chosen, embedding_channels=1), video)
            chosen["embedding_channels"] = affordable_channels(thin)
        return HNeRVConfig(**chosen)

    def decode(self, query: Query, latents: Latents) -> Tensor:
        """See :meth:`HybridModel.decode`; under ``output = "offset"`` values may leave [0, 1]."""
        require_whole_frames(query)
        feature_NCHW = self.blocks(self.stem(latents.per_frame["embedding"]))
        return squash(self.head(feature_NCHW), self.config.output, self.config.output_offset)


def affordable_channels(thin: VideoModel) -> int:
    """Return how many channels embeddings may have, given the network with one channel: 1 to 16.

    Sixteen, or as many as keep them within 35 % of the stored numbers.
    """
    cells = math.prod(thin.per_frame_shapes()["embedding"]) * thin.video.num_frames
    affordable = (thin.num_stored() - cells) * MAX_LATENT_SHARE / (1 - MAX_LATENT_SHARE)
    most = int(EmbeddingConfig.model_fields["embedding_channels"].default)
    return max(1, min(most, int(affordable / cells)))
