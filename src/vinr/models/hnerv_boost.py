"""HNeRV-Boost: HNeRV's encoder and stored embeddings under the conditional decoder of Boosting-NeRV.

X. Zhang et al., "Boosting Neural Representations for Videos with a Conditional Decoder", CVPR 2024,
https://arxiv.org/abs/2402.18152. The decoder is described in ``_boost.py``.

::

    frame (3, H, W) ──> ConvNeXt stages ──> embedding (d, h, w)     while fitting; stored, one a frame
    embedding ──> 1×1 block to C0 ──> conditional decoder
    frame number ──> sin, cos ────────────┘

Axes: N frames of a batch, F features, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import model_validator
from torch import Tensor

from vinr.models._sizing import choose_strides, taper
from vinr.models._stored import Latents
from vinr.models.hnerv import (
    LOWER_WIDTH,
    MAX_LATENT_SHARE,
    MIN_WIDTH,
    REDUCTION,
    EmbeddingConfig,
    EmbeddingModel,
)
from vinr.models.layers.blocks import FirstKernel, HeadKernel, require_whole_frames
from vinr.models.layers.boost import BoostConfig, BoostedDecoder, condition_for_width, levels_for_width
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

    def __init__(self, config: HNeRVBoostConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.encoding = config.encoding(video.num_frames)
        self.decoder = BoostedDecoder(config, embedding_channels=config.embedding_channels)

    @classmethod
    def configure(cls, video: VideoSpec, *, width: float, settings: Mapping[str, Any]) -> HNeRVBoostConfig:
        """See :meth:`VideoModel.configure`; ``width`` is C0 before rounding.

        Below C0 = 32 condition and time encoding shrink too. Embeddings get 16 channels, or as many (at least
        one) as keep them within 35 % of the stored numbers.
        """
        chosen = dict(settings)
        chosen.setdefault("strides", choose_strides(video.height, video.width))
        if "widths" not in chosen:
            lower = max(MIN_WIDTH, min(LOWER_WIDTH, width))
            chosen["widths"] = taper(width, len(chosen["strides"]) + 1, reduction=REDUCTION, lower=lower)
        chosen.setdefault("condition_channels", condition_for_width(width))
        chosen.setdefault("levels", levels_for_width(width))
        if "embedding_channels" not in chosen:
            thin = cls.on_meta(HNeRVBoostConfig(**chosen, embedding_channels=1), video)
            cells = math.prod(thin.per_frame_shapes()["embedding"]) * video.num_frames
            affordable = (thin.num_stored() - cells) * MAX_LATENT_SHARE / (1 - MAX_LATENT_SHARE)
            default = HNeRVBoostConfig.model_fields["embedding_channels"].default
            chosen["embedding_channels"] = max(1, min(default, int(affordable / cells)))
        return HNeRVBoostConfig(**chosen)

    def decode(self, query: Query, latents: Latents) -> Tensor:
        """See :meth:`HybridModel.decode`; under ``output = "offset"`` values may leave [0, 1]."""
        require_whole_frames(query)
        time_NF = self.encoding(query.time_N).to(self.decoder.head.weight)
        out: Tensor = self.decoder(latents.per_frame["embedding"], time_NF)
        return out
