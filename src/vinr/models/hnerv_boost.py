"""HNeRV-Boost: HNeRV's encoder and stored embeddings under the conditional decoder of Boosting-NeRV.

X. Zhang et al., "Boosting Neural Representations for Videos with a Conditional Decoder", CVPR 2024,
https://arxiv.org/abs/2402.18152. The decoder is described in ``layers/conditional.py``.

::

    frame (3, H, W) ──> ConvNeXt stages ──> embedding (d, h, w)     while fitting; stored, one per frame
    embedding ──> 1×1 block to C0 ──> conditional decoder
    frame number ──> sin, cos ────────────┘

Axes: N frames of a batch, F features, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from typing import ClassVar, Self

from pydantic import model_validator
from torch import Tensor

from vinr.models.base import Latents, Scaling
from vinr.models.layers.blocks import (
    EmbeddingConfig,
    EmbeddingModel,
    FirstKernel,
    HeadKernel,
    require_whole_frames,
)
from vinr.models.layers.conditional import CONDITION_SHRINKS, BoostConfig, BoostedDecoder
from vinr.video.spec import Query, VideoSpec


class HNeRVBoostConfig(BoostConfig, EmbeddingConfig):
    """Architecture of HNeRV-Boost; the defaults are those of the published scripts."""

    # Channels are coarse steps for the smallest networks.
    size_fields: ClassVar[tuple[str, ...]] = ("widths", "levels")

    kernel_min: FirstKernel = 1
    head_kernel: HeadKernel = 3

    @model_validator(mode="after")
    def _check_encoder(self) -> Self:
        if math.prod(self.analysis_strides) != math.prod(self.strides):
            raise ValueError(
                f"encoder_strides {self.encoder_strides} must have the product of strides {self.strides}"
            )
        return self


class HNeRVBoost(EmbeddingModel):
    """HNeRV-Boost (CVPR 2024): HNeRV with a decoder conditioned on time."""

    Config = HNeRVBoostConfig
    # HNeRV's: channels shrink by r = 1.2 per stage, not below 12.
    scaling = Scaling(reduction=1.2, shrinks=CONDITION_SHRINKS)

    def __init__(self, config: HNeRVBoostConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.encoding = config.encoding(video.num_frames)
        self.decoder = BoostedDecoder(config, embedding_channels=config.embedding_channels)

    def decode(self, query: Query, latents: Latents) -> Tensor:
        """See :meth:`HybridModel.decode`; under ``output = "offset"`` values may leave [0, 1]."""
        require_whole_frames(query)
        time_NF = self.encoding(query.time_N).to(self.decoder.head.weight)
        out: Tensor = self.decoder(latents.per_frame["embedding"], time_NF)
        return out
