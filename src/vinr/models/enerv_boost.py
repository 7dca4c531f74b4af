"""E-NeRV-Boost: E-NeRV's spatial tokens and transformers under the conditional decoder of Boosting-NeRV.

X. Zhang et al., "Boosting Neural Representations for Videos with a Conditional Decoder", CVPR 2024,
https://arxiv.org/abs/2402.18152. The decoder is described in ``_boost.py``; E-NeRV's instance normalisation
and its modulation of each stage are gone.

::

    cell (y, x) ──> sin, cos ──> linear ──> transformer ──┐
    time t ──> sin, cos ──┬─> linear ×2 ──────────────────┴─ · ──> transformer ──> linear ──> (C0, h, w)
                          └─────────────────────────> conditional decoder <───────────────────────┘

Axes: N frames of a batch, P cells of the grid, F features of a cell, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vinr.models._sizing import choose_strides, taper
from vinr.models.enerv import (
    EXPANSION,
    MIN_TOKEN_WIDTH,
    MIN_WIDTH,
    REDUCTION,
    TARGET_GRID,
    ContentWidth,
    FeedForwardWidth,
    TokenConfig,
    TokenModel,
    TokenWidth,
)
from vinr.models.layers.blocks import make_mlp, require_whole_frames
from vinr.models.layers.boost import BoostConfig, BoostedDecoder, condition_for_width, levels_for_width
from vinr.models.layers.modulation import GridEncoding
from vinr.video.spec import Query, VideoSpec

# Published: after three times C0 the channels halve, not below 12.
LOWER_WIDTH = 12
# The C0 below which configure() shrinks the transformers too: that of the smallest published network.
FULL_TOKENS_WIDTH = 21


class ENeRVBoostConfig(BoostConfig, TokenConfig):
    """Architecture of E-NeRV-Boost; the defaults are those of the published scripts."""

    token_width: TokenWidth = 128
    content_width: ContentWidth = 256
    feed_forward_width: FeedForwardWidth = 64


class ENeRVBoost(TokenModel):
    """E-NeRV-Boost (CVPR 2024): E-NeRV with a decoder conditioned on time."""

    Config = ENeRVBoostConfig

    def __init__(self, config: ENeRVBoostConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.config = config
        self.stem_grid = config.first_grid(video)
        self.encoding = config.encoding(video.num_frames)
        self.grid_encoding = GridEncoding(
            self.stem_grid, base=config.base, levels=config.levels, order="blocks"
        )
        widths = [self.encoding.num_features, config.content_width, config.token_width]
        self.time_content = make_mlp(widths, config.activation)
        self.spatial_tokens, self.transformers, self.to_channels = self.make_token_layers()
        self.decoder = BoostedDecoder(config, two_step=True)

    @classmethod
    def configure(cls, video: VideoSpec, *, width: float, settings: Mapping[str, Any]) -> ENeRVBoostConfig:
        """See :meth:`VideoModel.configure`; ``width`` is C0 before rounding.

        Below C0 = 32 condition and encodings shrink too, below C0 = 21 the transformers.
        """
        chosen = dict(settings)
        if "strides" not in chosen:
            chosen["strides"] = choose_strides(video.height, video.width, target_grid=TARGET_GRID)
        if "widths" not in chosen:
            lower = min(max(width, MIN_WIDTH), LOWER_WIDTH)
            tail = taper(EXPANSION * width, len(chosen["strides"]), reduction=REDUCTION, lower=lower)
            chosen["widths"] = (*taper(width, 1, reduction=REDUCTION, lower=MIN_WIDTH), *tail)
        chosen.setdefault("condition_channels", condition_for_width(width))
        chosen.setdefault("levels", levels_for_width(width))
        full = int(ENeRVBoostConfig.model_fields["token_width"].default)
        token_width = min(max(round(full * width / FULL_TOKENS_WIDTH), MIN_TOKEN_WIDTH), full)
        token_width = int(chosen.setdefault("token_width", token_width))
        chosen.setdefault("content_width", min(2 * token_width, 1024))
        chosen.setdefault("feed_forward_width", min(-(-token_width // 2), 512))
        chosen.setdefault("heads", (1, min(max(token_width // 16, 1), 8)))
        chosen.setdefault("head_channels", min(-(-token_width // 2), 64))
        return ENeRVBoostConfig(**chosen)

    def decode(self, query: Query) -> Tensor:
        """See :meth:`IndexModel.decode`; under ``output = "offset"`` values may leave [0, 1]."""
        require_whole_frames(query)
        time_NF = self.encoding(query.time_N).to(self.decoder.head.weight)
        out: Tensor = self.decoder(self.first_map(time_NF), time_NF)
        return out
