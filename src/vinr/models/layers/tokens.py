"""Tokens of space and time: what E-NeRV and E-NeRV-Boost do before their decoders.

Z. Li et al., "E-NeRV", ECCV 2022, https://arxiv.org/abs/2207.08132.

::

    cell (y, x) ──> sin, cos ──> linear ──> transformer ──┐
    time t ──> sin, cos ──> linear ×2 ────────────────────┴─ · ──> transformer ──> linear ──> (C0, h, w)

Axes: N frames of a batch, P cells of the grid in row-major order, F features of a cell, C channels, H rows,
W columns.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, final

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vinr.models.base import IndexModel
from vinr.models.layers.blocks import Width, enlarged, make_mlp
from vinr.models.layers.encodings import GridEncoding, StemGridConfig

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


class Transformer(nn.Module):
    """Attention and two linear layers with GELU between, each added to its input; nothing is normalised."""

    def __init__(self, width: int, heads: int, head_channels: int, feed_forward_width: int) -> None:
        super().__init__()
        self.attention = _Attention(width, heads, head_channels)
        self.linear1 = nn.Linear(width, feed_forward_width)
        self.linear2 = nn.Linear(feed_forward_width, width)

    def forward(self, token_NPF: Tensor) -> Tensor:
        """Return the tokens of the cells (N, P, ``width``), each with what it took from the others."""
        token_NPF = token_NPF + self.attention(token_NPF)
        out: Tensor = token_NPF + self.linear2(F.gelu(self.linear1(token_NPF)))
        return out


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
        transformers = nn.ModuleList()
        for heads in config.heads:
            transformers.append(Transformer(width, heads, config.head_channels, config.feed_forward_width))
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
        # Cells are in row-major order: (N, P, C) becomes (N, C, P), then (N, C, h, w).
        return feature_NPC.transpose(1, 2).reshape(len(time_NF), -1, *self.stem_grid)

    @final
    def coded_size(self) -> tuple[int, int]:
        """See :meth:`VideoModel.coded_size`: the first grid times the product of the strides."""
        return enlarged(self.stem_grid, self.config.strides)
