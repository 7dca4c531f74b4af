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
from typing import Annotated, Any, ClassVar, final

from pydantic import Field
from torch import Tensor, nn

from vinr.models._base import IndexModel
from vinr.models._sizing import choose_strides, taper
from vinr.models.layers.blocks import Output, Width, make_mlp, require_whole_frames, squash
from vinr.models.layers.encodings import EncodingPrecision, TimeNorm
from vinr.models.layers.grids import EncodedGridConfig, StemGridConfig, enlarged
from vinr.models.layers.modulation import GridEncoding, ModulatedDecoder, Transformer, shrunk
from vinr.video.spec import Query, VideoSpec

# The published network: the first stage triples the channels, then they halve, not below 96.
EXPANSION = 3
REDUCTION = 2.0
LOWER_WIDTH = 96
TARGET_GRID = (9, 16)
# Bounds of configure(): the thinnest network, and below which C0 the time encoding gets fewer frequencies.
MIN_WIDTH = 4
MIN_TOKEN_WIDTH = 8
MIN_LEVELS = 16
FULL_LEVELS_WIDTH = 16

Heads = Annotated[int, Field(ge=1, le=32)]
TokenWidth = Annotated[Width, Field(description="features of a cell in the transformers")]
ContentWidth = Annotated[Width, Field(description="hidden width of the linear layers that describe the time")]
FeedForwardWidth = Annotated[Width, Field(description="hidden width of the transformers' linear layers")]


class TokenConfig(StemGridConfig):
    """Settings of the transformers over the first grid's cells."""

    size_fields: ClassVar[tuple[str, ...]] = ("widths", "token_width")

    token_width: TokenWidth = 256
    content_width: ContentWidth = 512
    feed_forward_width: FeedForwardWidth = 128
    heads: tuple[Heads, Heads] = Field((1, 8), description="attention heads of the two transformers")
    head_channels: int = Field(64, ge=1, le=512, description="channels of an attention head")


class ENeRVConfig(TokenConfig, EncodedGridConfig):
    """Architecture of E-NeRV; the defaults are those of the published 12.5 M network."""

    output: Output = "sigmoid"
    time_norm: TimeNorm = Field("i/(T-1)", description="time of frame i of T frames")
    encoding_precision: EncodingPrecision = Field(
        "exact", description="roundings of the encodings; float32 repeats the published checkpoints'"
    )
    condition_width: Width = Field(128, description="length of the vector that modulates the stages")


class TokenModel(IndexModel):
    """What E-NeRV and E-NeRV-Boost do before their decoders: tokens of space and time become the first map.

    Their constructors make the layers, which therefore keep their places among what is stored.
    """

    config: TokenConfig
    stem_grid: tuple[int, int]
    grid_encoding: GridEncoding
    time_content: nn.Module
    spatial_tokens: nn.Module
    transformers: nn.ModuleList
    to_channels: nn.Module

    @final
    def make_token_layers(self) -> tuple[nn.Module, nn.ModuleList, nn.Module]:
        """Return what makes tokens of cells, the two transformers, and what makes channels of tokens."""
        config, width = self.config, self.config.token_width
        spatial_tokens = make_mlp([self.grid_encoding.num_features, width], config.activation)
        transformers = nn.ModuleList(
            Transformer(width, heads, config.head_channels, config.feed_forward_width)
            for heads in config.heads
        )
        # No layer where tokens have the channels of the first grid already.
        chain = [width, config.widths[0]] if width != config.widths[0] else [width]
        return spatial_tokens, transformers, make_mlp(chain, config.activation)

    @final
    def first_map(self, time_NF: Tensor) -> Tensor:
        """Return the map (N, C0, h, w) for the encoded times ``time_NF``."""
        # The first transformer sees space only, one map for all frames; times join as factors after it.
        spatial_1PF = self.transformers[0](self.spatial_tokens(self.grid_encoding.like(time_NF)[None]))
        token_NPF = self.transformers[1](spatial_1PF * self.time_content(time_NF)[:, None])
        feature_NPC: Tensor = self.to_channels(token_NPF)
        return feature_NPC.transpose(1, 2).reshape(len(time_NF), -1, *self.stem_grid)

    @final
    def coded_size(self) -> tuple[int, int]:
        """See :meth:`VideoModel.coded_size`: the first grid times the product of the strides."""
        return enlarged(self.stem_grid, self.config.strides)


class ENeRV(TokenModel):
    """E-NeRV (ECCV 2022): spatial tokens and time joined by transformers, convolutions modulated by time."""

    Config = ENeRVConfig

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
        chosen = choose_stages(video, width, settings)
        token_width = taper(4 / 3 * width, 1, reduction=REDUCTION, lower=MIN_TOKEN_WIDTH)[0]
        token_width = int(chosen.setdefault("token_width", token_width))
        chosen.setdefault("content_width", min(2 * token_width, 1024))
        chosen.setdefault("condition_width", min(-(-token_width // 2), 512))
        chosen.setdefault("feed_forward_width", min(-(-token_width // 2), 512))
        chosen.setdefault("heads", (1, min(max(round(token_width / 32), 1), 8)))
        chosen.setdefault("head_channels", min(token_width, 64))
        levels = ENeRVConfig.model_fields["levels"].default
        levels = shrunk(levels, width, full_width=FULL_LEVELS_WIDTH, lowest=MIN_LEVELS)
        chosen.setdefault("levels", levels)
        return ENeRVConfig(**chosen)

    def decode(self, query: Query) -> Tensor:
        """See :meth:`IndexModel.decode`; under ``output = "offset"`` values may leave [0, 1]."""
        require_whole_frames(query)
        time_NF = self.encoding(query.time_N).to(self.decoder.head.weight)
        raw_NCHW = self.decoder(self.first_map(time_NF), self.time_condition(time_NF))
        return squash(raw_NCHW, self.config.output, self.config.output_offset)


def choose_stages(video: VideoSpec, width: float, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``settings`` with strides and widths of E-NeRV's decoder for C0 = ``width`` where left open."""
    chosen = dict(settings)
    if "strides" not in chosen:
        chosen["strides"] = choose_strides(video.height, video.width, target_grid=TARGET_GRID)
    if "widths" not in chosen:
        lower = min(max(width / 2, MIN_WIDTH), LOWER_WIDTH)
        tail = taper(EXPANSION * width, len(chosen["strides"]), reduction=REDUCTION, lower=lower)
        chosen["widths"] = (*taper(width, 1, reduction=REDUCTION, lower=MIN_WIDTH), *tail)
    return chosen
