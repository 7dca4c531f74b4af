"""NeRV: a network that maps a frame's number to the frame.

H. Chen, B. He, H. Wang, Y. Ren, S.-N. Lim, A. Shrivastava, "NeRV: Neural Representations for Videos", NeurIPS
2021, https://arxiv.org/abs/2110.13903. Three different networks were published under this name; the settings
cover all of them: the original (presets s, m, l), the baseline of HNeRV (the defaults here; presets *-bunny),
and the baseline of E-NeRV (preset c-12.5m). The presets reproduce the rows of HNeRV's Bunny tables.

::

    frame number ──> sin, cos of base^l·π·t ──> linear layers, act after each ──> reshape (C0, h0, w0)
                 ──> [3×3 conv → s²·C → depth to space s → act] per stage ──> conv ──> tanh or sigmoid

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from vinr.models.base import IndexModel, Scaling
from vinr.models.layers.blocks import (
    ConvStagesConfig,
    Width,
    enlarged,
    make_mlp,
    make_stages,
    require_whole_frames,
    squash,
)
from vinr.models.layers.encodings import EncodedGridConfig, EncodingPrecision, WaveOrder
from vinr.video.spec import Query, VideoSpec

StemWidths = Annotated[tuple[Width, ...], Field(max_length=4)]


class NeRVConfig(EncodedGridConfig, ConvStagesConfig):
    """Architecture of NeRV; the defaults are those of the baseline in HNeRV's repository."""

    # Where the stem is nearly all of a small network, one channel more is far too much; one level is little.
    size_fields: ClassVar[tuple[str, ...]] = ("widths", "levels")

    encoding_order: WaveOrder = "blocks"
    encoding_precision: EncodingPrecision = Field(
        "exact", description="roundings of the encoding; float32 kinds repeat the published checkpoints'"
    )
    stem_widths: StemWidths = Field((), description="hidden widths of the stem's linear layers, at most four")


class NeRV(IndexModel):
    """NeRV (NeurIPS 2021): the frame number, encoded by sines, decoded by a convolutional network."""

    Config = NeRVConfig
    # The baseline of HNeRV: channels halve at each stage, not below 12. Cells cost four times the usual: each
    # takes a row of C0 · 160 parameters in the stem. Below C0 = 4, where the first linear layer is nearly the
    # whole network, the time encoding shrinks too.
    scaling = Scaling(grid=(8, 16), grid_cost=0.016, lowest_stem=2, shrinks={"levels": (4, 16)})

    def __init__(self, config: NeRVConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.config = config
        self.encoding = config.time_encoding(video.num_frames, config.encoding_precision)
        self.stem_grid = config.first_grid(video)
        outputs = math.prod(self.stem_grid) * config.widths[0]
        self.stem = make_mlp([self.encoding.num_features, *config.stem_widths, outputs], config.activation)
        self.blocks = nn.Sequential(*make_stages(config))
        self.head = config.make_head()

    def coded_size(self) -> tuple[int, int]:
        """See :meth:`VideoModel.coded_size`: the stem's grid times the product of the strides."""
        return enlarged(self.stem_grid, self.config.strides)

    def decode(self, query: Query) -> Tensor:
        """See :meth:`IndexModel.decode`; under ``output = "offset"`` values may leave [0, 1]."""
        require_whole_frames(query)
        feature_NF = self.encoding(query.time_N).to(self.head.weight)
        # The stem's outputs are (C0, h0, w0) of each frame, row by row.
        feature_NCHW = self.stem(feature_NF).view(-1, self.config.widths[0], *self.stem_grid)
        return squash(self.head(self.blocks(feature_NCHW)), self.config.output, self.config.output_offset)
