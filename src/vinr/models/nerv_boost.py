"""NeRV-Boost: NeRV's stem under the conditional decoder of Boosting-NeRV.

X. Zhang et al., "Boosting Neural Representations for Videos with a Conditional Decoder", CVPR 2024,
https://arxiv.org/abs/2402.18152. The decoder is described in ``layers/conditional.py``.

::

    frame number ──> sin, cos ──┬─> linear ×2, act after each ──> reshape (C0, h, w) ──> conditional decoder
                                └─────────────────────────────────────────────────────────┘

Axes: N frames of a batch, F features, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from vinr.models.base import IndexModel, Scaling
from vinr.models.layers.blocks import Width, enlarged, make_mlp, require_whole_frames
from vinr.models.layers.conditional import CONDITION_SHRINKS, BoostConfig, BoostedDecoder
from vinr.models.layers.encodings import cover_frame
from vinr.video.spec import Query, VideoSpec

StemWidths = Annotated[tuple[Width, ...], Field(max_length=4)]


class NeRVBoostConfig(BoostConfig):
    """Architecture of NeRV-Boost; the defaults are those of the published scripts."""

    size_fields: ClassVar[tuple[str, ...]] = ("widths", "stem_widths")

    stem_widths: StemWidths = Field(
        (256,), description="hidden widths of the stem's linear layers, at most four"
    )
    stem_height: int | None = Field(
        None, ge=1, le=512, description="rows of the stem's grid; none: as needed"
    )
    stem_width: int | None = Field(
        None, ge=1, le=512, description="columns of the stem's grid; none: as needed"
    )


class NeRVBoost(IndexModel):
    """NeRV-Boost (CVPR 2024): NeRV with a decoder conditioned on time."""

    Config = NeRVBoostConfig
    # Published: channels stay in the first stage, then halve, not below 12. Below C0 = 15 the stem's hidden
    # layer shrinks.
    scaling = Scaling(
        grid=(9, 16), expansion=1, lowest_stem=2, shrinks={**CONDITION_SHRINKS, "stem_widths": (15, 8)}
    )

    def __init__(self, config: NeRVBoostConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.config = config
        self.encoding = config.encoding(video.num_frames)
        self.stem_grid = cover_frame(
            video.height, video.width, config.strides, (config.stem_height, config.stem_width)
        )
        outputs = math.prod(self.stem_grid) * config.widths[0]
        self.stem = make_mlp([self.encoding.num_features, *config.stem_widths, outputs], config.activation)
        self.decoder = BoostedDecoder(config)

    def coded_size(self) -> tuple[int, int]:
        """See :meth:`VideoModel.coded_size`: the stem's grid times the product of the strides."""
        return enlarged(self.stem_grid, self.config.strides)

    def decode(self, query: Query) -> Tensor:
        """See :meth:`IndexModel.decode`; under ``output = "offset"`` values may leave [0, 1]."""
        require_whole_frames(query)
        time_NF = self.encoding(query.time_N).to(self.decoder.head.weight)
        feature_NCHW = self.stem(time_NF).view(-1, self.config.widths[0], *self.stem_grid)
        out: Tensor = self.decoder(feature_NCHW, time_NF)
        return out
