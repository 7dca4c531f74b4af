"""E-NeRV-Boost: E-NeRV's spatial tokens and transformers under the conditional decoder of Boosting-NeRV.

X. Zhang et al., "Boosting Neural Representations for Videos with a Conditional Decoder", CVPR 2024,
https://arxiv.org/abs/2402.18152. The decoder is described in
``layers/conditional.py``; E-NeRV's instance normalisation and its modulation of each stage are gone.

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

from vinr.models.base import Scaling
from vinr.models.layers.blocks import make_mlp, require_whole_frames
from vinr.models.layers.conditional import CONDITION_SHRINKS, BoostConfig, BoostedDecoder
from vinr.models.layers.encodings import GridEncoding
from vinr.models.layers.tokens import ContentWidth, FeedForwardWidth, TokenConfig, TokenModel, TokenWidth
from vinr.video.spec import Query, VideoSpec


class ENeRVBoostConfig(BoostConfig, TokenConfig):
    """Architecture of E-NeRV-Boost; the defaults are those of the published scripts."""

    token_width: TokenWidth = 128
    content_width: ContentWidth = 256
    feed_forward_width: FeedForwardWidth = 64


class ENeRVBoost(TokenModel):
    """E-NeRV-Boost (CVPR 2024): E-NeRV with a decoder conditioned on time."""

    Config = ENeRVBoostConfig
    # Published: after three times C0 the channels halve, not below 12. Below C0 = 21, that of the smallest
    # published network, the transformers shrink.
    scaling = Scaling(grid=(9, 16), expansion=3, shrinks={**CONDITION_SHRINKS, "token_width": (21, 8)})

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
        chosen = cls.scale(video, width, settings)
        token_width = int(chosen["token_width"])
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
