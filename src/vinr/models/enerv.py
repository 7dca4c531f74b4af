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

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from vinr.models._base import IndexModel, ModelConfig
from vinr.models._blocks import (
    ActivationName,
    OutputName,
    Strides,
    Width,
    Widths,
    check_stages,
    make_mlp,
    require_whole_frames,
    squash,
)
from vinr.models._encodings import EncodingOrder, EncodingPrecision, TimeEncoding, TimeNorm
from vinr.models._modulated import GridEncoding, ModulatedDecoder, check_frequencies, cover_frame
from vinr.models._sizing import choose_strides, taper
from vinr.video.spec import Query, VideoSpec

__all__ = ["ENeRV", "ENeRVConfig"]

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


class ENeRVConfig(ModelConfig):
    """Architecture of E-NeRV; the defaults are those of the published 12.5 M network."""

    size_fields: ClassVar[tuple[str, ...]] = ("widths", "token_width")

    strides: Strides = Field(description="upsampling of each stage, 1 to 16")
    widths: Widths = Field(description="channels of the first grid and after each stage, 1 to 4096")
    token_width: Width = Field(256, description="features of a cell in the transformers")
    content_width: Width = Field(512, description="hidden width of the linear layers that describe the time")
    condition_width: Width = Field(128, description="length of the vector that modulates the stages")
    feed_forward_width: Width = Field(128, description="hidden width of the transformers' linear layers")
    heads: tuple[Heads, Heads] = Field((1, 8), description="attention heads of the two transformers")
    head_channels: int = Field(64, ge=1, le=512, description="channels of an attention head")
    base: float = Field(1.25, gt=1, le=10, description="ratio of neighbouring frequencies of the encodings")
    levels: int = Field(80, ge=1, le=256, description="frequencies of the encodings")
    encoding_order: EncodingOrder = Field(
        "interleaved", description="sine and cosine one after the other; or all sines, then all cosines"
    )
    encoding_precision: EncodingPrecision = Field(
        "exact", description="roundings of the encodings; float32 repeats the published checkpoints'"
    )
    time_norm: TimeNorm = Field("i/(T-1)", description="time of frame i of T frames")
    stem_height: int | None = Field(None, ge=1, le=512, description="rows of the first grid; none: as needed")
    stem_width: int | None = Field(
        None, ge=1, le=512, description="columns of the first grid; none: as needed"
    )
    activation: ActivationName = Field("gelu", description="non-linearity after each layer but the last")
    output: OutputName = Field("sigmoid", description="last step: sigmoid, ½ tanh + ½, or plus output_offset")
    output_offset: float = Field(
        0.5, ge=-1, le=1, description="added under output = offset, which has no bounds"
    )

    @model_validator(mode="after")
    def _check(self) -> ENeRVConfig:
        check_stages(self.strides, self.widths)
        check_frequencies(self.base, self.levels)
        return self


class _Attention(nn.Module):
    """Multi-head self-attention over the cells; one matrix, without bias, makes queries, keys and values."""

    def __init__(self, width: int, heads: int, head_channels: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * heads * head_channels, bias=False)
        self.output = nn.Linear(heads * head_channels, width)

    def forward(self, token_NPF: Tensor) -> Tensor:
        count, cells, _ = token_NPF.shape
        # All queries come first, then all keys, then all values; heads follow one another in each third.
        parts = self.query_key_value(token_NPF).view(count, cells, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.output(mixed.transpose(1, 2).reshape(count, cells, -1))
        return out


class _Transformer(nn.Module):
    """Attention and two linear layers with GELU between, each added to its input; nothing is normalised."""

    def __init__(self, width: int, heads: int, head_channels: int, feed_forward_width: int) -> None:
        super().__init__()
        self.attention = _Attention(width, heads, head_channels)
        self.linear1 = nn.Linear(width, feed_forward_width)
        self.linear2 = nn.Linear(feed_forward_width, width)

    def forward(self, token_NPF: Tensor) -> Tensor:
        token_NPF = token_NPF + self.attention(token_NPF)
        out: Tensor = token_NPF + self.linear2(F.gelu(self.linear1(token_NPF)))
        return out


class ENeRV(IndexModel):
    """E-NeRV (ECCV 2022): spatial tokens and time joined by transformers, convolutions modulated by time."""

    Config = ENeRVConfig

    def __init__(self, config: ENeRVConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.config = config
        self.stem_grid = cover_frame(
            video.height, video.width, config.strides, (config.stem_height, config.stem_width)
        )
        self.encoding = TimeEncoding(
            video.num_frames,
            config.base,
            config.levels,
            config.encoding_order,
            config.time_norm,
            config.encoding_precision,
        )
        self.grid_encoding = GridEncoding(
            self.stem_grid,
            base=config.base,
            levels=config.levels,
            order=config.encoding_order,
            precision=config.encoding_precision,
        )
        width, time_features = config.token_width, self.encoding.num_features
        self.time_content = make_mlp([time_features, config.content_width, width], config.activation)
        self.time_condition = make_mlp([time_features, *[config.condition_width] * 2], config.activation)
        self.spatial_tokens = make_mlp([self.grid_encoding.num_features, width], config.activation)
        self.transformers = nn.ModuleList(
            _Transformer(width, heads, config.head_channels, config.feed_forward_width)
            for heads in config.heads
        )
        # No layer where tokens have the channels of the first grid already.
        chain = [width, config.widths[0]] if width != config.widths[0] else [width]
        self.to_channels = make_mlp(chain, config.activation)
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
        chosen = dict(settings)
        if "strides" not in chosen:
            chosen["strides"] = choose_strides(video.height, video.width, target_grid=TARGET_GRID)
        if "widths" not in chosen:
            lower = min(max(width / 2, MIN_WIDTH), LOWER_WIDTH)
            tail = taper(EXPANSION * width, len(chosen["strides"]), reduction=REDUCTION, lower=lower)
            chosen["widths"] = (*taper(width, 1, reduction=REDUCTION, lower=MIN_WIDTH), *tail)
        token_width = taper(4 / 3 * width, 1, reduction=REDUCTION, lower=MIN_TOKEN_WIDTH)[0]
        token_width = int(chosen.setdefault("token_width", token_width))
        chosen.setdefault("content_width", min(2 * token_width, 1024))
        chosen.setdefault("condition_width", min(-(-token_width // 2), 512))
        chosen.setdefault("feed_forward_width", min(-(-token_width // 2), 512))
        chosen.setdefault("heads", (1, min(max(round(token_width / 32), 1), 8)))
        chosen.setdefault("head_channels", min(token_width, 64))
        levels = ENeRVConfig.model_fields["levels"].default
        chosen.setdefault("levels", min(max(round(levels * width / FULL_LEVELS_WIDTH), MIN_LEVELS), levels))
        return ENeRVConfig(**chosen)

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
        feature_NCHW = feature_NPC.transpose(1, 2).reshape(len(time_NF), -1, *self.stem_grid)
        raw_NCHW = self.decoder(feature_NCHW, self.time_condition(time_NF))
        return squash(raw_NCHW, self.config.output, self.config.output_offset)
