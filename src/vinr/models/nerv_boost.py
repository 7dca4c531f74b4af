"""NeRV-Boost: NeRV's stem under the conditional decoder of Boosting-NeRV.

X. Zhang et al., "Boosting Neural Representations for Videos with a Conditional Decoder", CVPR 2024,
https://arxiv.org/abs/2402.18152. The decoder is described in ``_boost.py``.

::

    frame number ──> sin, cos ──┬─> linear ×2, act after each ──> reshape (C0, h, w) ──> conditional decoder
                                └─────────────────────────────────────────────────────────┘

Axes: N frames of a batch, F features, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from vinr.models._base import IndexModel
from vinr.models._sizing import choose_strides, taper
from vinr.models.layers.blocks import Width, make_mlp, require_whole_frames
from vinr.models.layers.boost import BoostConfig, BoostedDecoder, condition_for_width, levels_for_width
from vinr.models.layers.modulation import cover_frame
from vinr.video.spec import Query, VideoSpec

# Published: channels stay in the first stage, then halve, not below 12; the stem's hidden layer has 256.
REDUCTION = 2.0
LOWER_WIDTH = 12
TARGET_GRID = (9, 16)
# Bounds of configure(): the thinnest network, and the C0 below which the stem's hidden layer shrinks.
MIN_WIDTH = 4
MIN_STEM_WIDTH = 2
MIN_HIDDEN_WIDTH = 8
FULL_HIDDEN_WIDTH = 15

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

    @classmethod
    def configure(cls, video: VideoSpec, *, width: float, settings: Mapping[str, Any]) -> NeRVBoostConfig:
        """See :meth:`VideoModel.configure`; ``width`` is C0 before rounding.

        Below C0 = 32 condition and time encoding shrink too, below C0 = 15 the stem's hidden layer.
        """
        chosen = dict(settings)
        if "strides" not in chosen:
            chosen["strides"] = choose_strides(video.height, video.width, target_grid=TARGET_GRID)
        if "widths" not in chosen:
            lower = max(MIN_WIDTH, min(LOWER_WIDTH, width))
            tail = taper(width, len(chosen["strides"]), reduction=REDUCTION, lower=lower)
            chosen["widths"] = (*taper(width, 1, reduction=REDUCTION, lower=MIN_STEM_WIDTH), *tail)
        chosen.setdefault("condition_channels", condition_for_width(width))
        chosen.setdefault("levels", levels_for_width(width))
        full = NeRVBoostConfig.model_fields["stem_widths"].default[0]
        hidden = min(max(round(full * width / FULL_HIDDEN_WIDTH), MIN_HIDDEN_WIDTH), full)
        chosen.setdefault("stem_widths", (hidden,))
        return NeRVBoostConfig(**chosen)

    def coded_size(self) -> tuple[int, int]:
        """See :meth:`VideoModel.coded_size`: the stem's grid times the product of the strides."""
        multiple = math.prod(self.config.strides)
        return self.stem_grid[0] * multiple, self.stem_grid[1] * multiple

    def decode(self, query: Query) -> Tensor:
        """See :meth:`IndexModel.decode`; under ``output = "offset"`` values may leave [0, 1]."""
        require_whole_frames(query)
        time_NF = self.encoding(query.time_N).to(self.decoder.head.weight)
        feature_NCHW = self.stem(time_NF).view(-1, self.config.widths[0], *self.stem_grid)
        out: Tensor = self.decoder(feature_NCHW, time_NF)
        return out
