"""E-NeRV: space and time described apart, joined by transformers, decoded by modulated convolutions.

Z. Li, M. Wang, H. Pi, K. Xu, J. Mei, Y. Liu, "E-NeRV: Expedite Neural Video Representation with Disentangled
Spatial-Temporal Context", ECCV 2022, https://arxiv.org/abs/2207.08132. Preset 12.5m is the published network.

::

    cell (y, x) ──> sin, cos ──> linear ──> transformer ──┐
    time t ──> sin, cos ──> linear ×2 ────────────────────┴─ · ──> transformer ──> linear ──> (C0, h, w)
    time t ──> sin, cos ──> linear ×2 = condition                                                 │
                                 └──────> [modulated norm → conv → depth to space s → act] per stage
                                      ──> 1×1 conv ──> sigmoid

Axes: N frames of a batch, P cells of the grid, F features of a cell, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor

from vinr.models.base import Scaling
from vinr.models.layers.blocks import Output, Width, make_mlp, require_whole_frames, squash
from vinr.models.layers.encodings import EncodedGridConfig, EncodingPrecision, GridEncoding, TimeNorm
from vinr.models.layers.modulation import ModulatedDecoder
from vinr.models.layers.tokens import TokenConfig, TokenModel
from vinr.sizing.strides import taper
from vinr.video.spec import Query, VideoSpec


class ENeRVConfig(TokenConfig, EncodedGridConfig):
    """Architecture of E-NeRV; the defaults are those of the published 12.5 M network."""

    output: Output = "sigmoid"
    time_norm: TimeNorm = Field("i/(T-1)", description="time of frame i of T frames")
    encoding_precision: EncodingPrecision = Field(
        "exact", description="roundings of the encodings; float32 repeats the published checkpoints'"
    )
    condition_width: Width = Field(128, description="length of the vector that modulates the stages")


class ENeRV(TokenModel):
    """E-NeRV (ECCV 2022): spatial tokens and time joined by transformers, convolutions modulated by time."""

    Config = ENeRVConfig
    # The published network: the first stage triples the channels, then they halve, not below 96.
    scaling = Scaling(grid=(9, 16), expansion=3, lower=96, lower_share=0.5, shrinks={"levels": (16, 16)})

    def __init__(self, config: ENeRVConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.config = config
        self.stem_grid = config.first_grid(video)
        self.encoding = config.time_encoding(video.num_frames, config.encoding_precision)
        self.grid_encoding = GridEncoding(
            self.stem_grid,
            base=config.base,
            levels=config.levels,
            order=config.encoding_order,
            precision=config.encoding_precision,
        )
        widths = [self.encoding.num_features, config.content_width, config.token_width]
        self.time_content = make_mlp(widths, config.activation)
        widths = [self.encoding.num_features, *[config.condition_width] * 2]
        self.time_condition = make_mlp(widths, config.activation)
        self.spatial_tokens, self.transformers, self.to_channels = self.make_token_layers()
        self.decoder = ModulatedDecoder(
            config.widths,
            config.strides,
            condition_features=config.condition_width,
            activation=config.activation,
        )

    @classmethod
    def configure(cls, video: VideoSpec, *, width: float, settings: Mapping[str, Any]) -> ENeRVConfig:
        """See :meth:`VideoModel.configure`; ``width`` is C0 before rounding.

        All parts shrink with it, in about the proportions of the published 12.5 M network (C0 = 196).
        """
        chosen = cls.scale(video, width, settings)
        token_width = int(chosen.setdefault("token_width", taper(4 / 3 * width, 1, reduction=1, lower=8)[0]))
        chosen.setdefault("content_width", min(2 * token_width, 1024))
        chosen.setdefault("condition_width", min(-(-token_width // 2), 512))
        chosen.setdefault("feed_forward_width", min(-(-token_width // 2), 512))
        chosen.setdefault("heads", (1, min(max(round(token_width / 32), 1), 8)))
        chosen.setdefault("head_channels", min(token_width, 64))
        return ENeRVConfig(**chosen)

    def decode(self, query: Query) -> Tensor:
        """See :meth:`IndexModel.decode`; under ``output = "offset"`` values may leave [0, 1]."""
        require_whole_frames(query)
        time_NF = self.encoding(query.time_N).to(self.decoder.head.weight)
        raw_NCHW = self.decoder(self.first_map(time_NF), self.time_condition(time_NF))
        return squash(raw_NCHW, self.config.output, self.config.output_offset)
