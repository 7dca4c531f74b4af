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

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from vinr.models._base import IndexModel
from vinr.models._blocks import Width, make_mlp, require_whole_frames
from vinr.models._boost import BoostConfig, BoostedDecoder, condition_for_width, levels_for_width
from vinr.models._modulated import GridEncoding, cover_frame
from vinr.models._sizing import choose_strides, taper
from vinr.models.enerv import EXPANSION, MIN_TOKEN_WIDTH, MIN_WIDTH, REDUCTION, TARGET_GRID, _Transformer
from vinr.video.spec import Query, VideoSpec

__all__ = ["ENeRVBoost", "ENeRVBoostConfig"]

# Published: after three times C0 the channels halve, not below 12.
LOWER_WIDTH = 12
# The C0 below which configure() shrinks the transformers too: that of the smallest published network.
FULL_TOKENS_WIDTH = 21

Heads = Annotated[int, Field(ge=1, le=32)]


class ENeRVBoostConfig(BoostConfig):
    """Architecture of E-NeRV-Boost; the defaults are those of the published scripts."""

    size_fields: ClassVar[tuple[str, ...]] = ("widths", "token_width")

    token_width: Width = Field(128, description="features of a cell in the transformers")
    content_width: Width = Field(256, description="hidden width of the linear layers that describe the time")
    feed_forward_width: Width = Field(64, description="hidden width of the transformers' linear layers")
    heads: tuple[Heads, Heads] = Field((1, 8), description="attention heads of the two transformers")
    head_channels: int = Field(64, ge=1, le=512, description="channels of an attention head")
    stem_height: int | None = Field(None, ge=1, le=512, description="rows of the first grid; none: as needed")
    stem_width: int | None = Field(
        None, ge=1, le=512, description="columns of the first grid; none: as needed"
    )


class ENeRVBoost(IndexModel):
    """E-NeRV-Boost (CVPR 2024): E-NeRV with a decoder conditioned on time."""

    Config = ENeRVBoostConfig

    def __init__(self, config: ENeRVBoostConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.config = config
        self.stem_grid = cover_frame(
            video.height, video.width, config.strides, (config.stem_height, config.stem_width)
        )
        self.encoding = config.encoding(video.num_frames)
        self.grid_encoding = GridEncoding(
            self.stem_grid, base=config.base, levels=config.levels, order="blocks"
        )
        width, time_features = config.token_width, self.encoding.num_features
        self.time_content = make_mlp([time_features, config.content_width, width], config.activation)
        self.spatial_tokens = make_mlp([self.grid_encoding.num_features, width], config.activation)
        self.transformers = nn.ModuleList(
            _Transformer(width, heads, config.head_channels, config.feed_forward_width)
            for heads in config.heads
        )
        # No layer where tokens have the channels of the first grid already.
        chain = [width, config.widths[0]] if width != config.widths[0] else [width]
        self.to_channels = make_mlp(chain, config.activation)
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

    def coded_size(self) -> tuple[int, int]:
        """See :meth:`VideoModel.coded_size`: the first grid times the product of the strides."""
        multiple = math.prod(self.config.strides)
        return self.stem_grid[0] * multiple, self.stem_grid[1] * multiple

    def decode(self, query: Query) -> Tensor:
        """See :meth:`IndexModel.decode`; under ``output = "offset"`` values may leave [0, 1]."""
        require_whole_frames(query)
        weight = self.decoder.head.weight
        time_NF = self.encoding(query.time_N).to(weight)
        # The first transformer sees space only, one map for all frames; times join as factors after it.
        spatial_1PF = self.transformers[0](self.spatial_tokens(self.grid_encoding.like(weight)[None]))
        token_NPF = self.transformers[1](spatial_1PF * self.time_content(time_NF)[:, None])
        feature_NPC = self.to_channels(token_NPF)
        feature_NCHW = feature_NPC.transpose(1, 2).unflatten(2, self.stem_grid)
        out: Tensor = self.decoder(feature_NCHW, time_NF)
        return out
