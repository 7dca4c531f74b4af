"""HNeRV: a ConvNeXt encoder and a convolutional decoder fitted to one video.

H. Chen, M. Gwilliam, S.-N. Lim, A. Shrivastava, "HNeRV: A Hybrid Neural Representation for Videos", CVPR
2023, https://arxiv.org/abs/2304.02633. The presets reproduce its tables of the Bunny clip and of UVG.

::

    frame (3, H, W) ──> ConvNeXt stages ──> embedding (d, h, w)     while fitting; stored, one per frame
    embedding ──> 1×1 conv, act (C0) ──> [conv k → s²·C → depth to space s → act] per stage
              ──> 3×3 conv ──> tanh

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from typing import Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from vinr.models.base import Latents, Scaling
from vinr.models.layers.blocks import (
    EmbeddingConfig,
    EmbeddingModel,
    FirstKernel,
    LargestKernel,
    UpsampleBlock,
    check_stages,
    make_stages,
    require_whole_frames,
    squash,
)
from vinr.video.spec import Query, VideoSpec


class HNeRVConfig(EmbeddingConfig):
    """Architecture of HNeRV; the defaults are those of the paper (supplement, Table 17)."""

    kernel_min: FirstKernel = 1
    kernel_max: LargestKernel = 5
    blocks_per_stage: int = Field(
        1, ge=1, le=8, description="convolutions per stage; the first one upsamples"
    )

    @model_validator(mode="after")
    def _check_encoder(self) -> Self:
        if math.prod(self.analysis_strides) % math.prod(self.strides):
            raise ValueError(
                f"encoder_strides {self.encoder_strides} must multiply to a multiple of the product of "
                f"strides {self.strides}"
            )
        check_stages(self.analysis_strides, [1] * (len(self.analysis_strides) + 1))
        return self


class HNeRV(EmbeddingModel):
    """HNeRV (CVPR 2023): stored per-frame embeddings, decoded by a convolutional network."""

    Config = HNeRVConfig
    # Supplement, Table 17: channels shrink by r = 1.2 per stage, not below 12.
    scaling = Scaling(reduction=1.2)
    # Measured: docs/models/vinr.md.
    ahead_in_long_fits = ("vinr", 4000, 80)

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

    def decode(self, query: Query, latents: Latents) -> Tensor:
        """See :meth:`HybridModel.decode`; under ``output = "offset"`` values may leave [0, 1]."""
        require_whole_frames(query)
        feature_NCHW = self.blocks(self.stem(latents.per_frame["embedding"]))
        return squash(self.head(feature_NCHW), self.config.output, self.config.output_offset)
