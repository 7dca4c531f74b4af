"""C-NeRV: a map of time and place, decoded by time-modulated convolutions alone.

C. Gomes, R. Azevedo, C. Schroers, "Video Compression With Entropy-Constrained Neural Representations", CVPR
2023. No code is public, and descriptions leave layers open. T-NeRV (CVPR 2024), from the same laboratory,
measures it level with E-NeRV, whose decoder it is said to follow: that decoder is taken, and what is a guess
is a setting. The paper's other half, fitting under a learned entropy model, is no part of the network.

::

    time t ──────> one plane ──┐
    cell (y, x) ─> two planes ─┴─> sin, cos of each ──> 1×1 conv ──> 3×3 conv ──> (C0, h, w)
    time t ──> sin, cos ──> linear ×2 = condition                                     │
                      └──> [modulated norm → conv → depth to space s → act] per stage ──> 1×1 conv ──> sigmoid

Axes: N frames of a batch, P cells of the grid, F features, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vinr.models.base import IndexModel, Scaling
from vinr.models.layers.blocks import (
    Kernel,
    Output,
    Width,
    check_kernels,
    enlarged,
    make_activation,
    make_mlp,
    require_whole_frames,
    squash,
)
from vinr.models.layers.encodings import EncodedGridConfig, GridEncoding, Levels, check_frequencies
from vinr.models.layers.modulation import ModulatedDecoder
from vinr.sizing.strides import taper
from vinr.video.spec import Query, VideoSpec


class CNeRVConfig(EncodedGridConfig):
    """Architecture of C-NeRV; the defaults are those of the 12.5 M network."""

    size_fields: ClassVar[tuple[str, ...]] = ("widths", "stem_channels")

    output: Output = "sigmoid"
    levels: Levels = Field(80, description="frequencies of the time's encoding")
    grid_levels: Levels = Field(80, description="frequencies of the rows' and columns' encodings")
    stem_channels: Width = Field(256, description="channels between the two convolutions of the stem")
    stem_kernel: Kernel = Field(3, description="kernel of the stem's second convolution, odd")
    condition_width: Width = Field(128, description="length of the vector that modulates the stages")
    modulation: bool = Field(True, description="normalise and modulate the input of each stage by time")

    @model_validator(mode="after")
    def _check_stem(self) -> Self:
        check_kernels(self.stem_kernel)
        check_frequencies(self.base, self.grid_levels)
        return self


class CNeRV(IndexModel):
    """C-NeRV (CVPR 2023): a convolutional network from a map of time and place to the frame."""

    Config = CNeRVConfig
    # E-NeRV's: the first stage triples the channels, then they halve, not below 96.
    scaling = Scaling(
        grid=(9, 16),
        expansion=3,
        lower=96,
        lower_share=0.5,
        shrinks={"levels": (32, 8), "grid_levels": (32, 8)},
    )

    def __init__(self, config: CNeRVConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.config = config
        self.stem_grid = config.first_grid(video)
        self.encoding = config.time_encoding(video.num_frames)
        self.grid_encoding = GridEncoding(
            self.stem_grid, base=config.base, levels=config.grid_levels, order=config.encoding_order
        )
        features = self.encoding.num_features + self.grid_encoding.num_features
        self.stem = nn.Sequential(
            nn.Conv2d(features, config.stem_channels, 1),
            make_activation(config.activation),
            nn.Conv2d(
                config.stem_channels, config.widths[0], config.stem_kernel, padding=config.stem_kernel // 2
            ),
            make_activation(config.activation),
        )
        condition_width = config.condition_width if config.modulation else 0
        chain = [self.encoding.num_features, condition_width, condition_width] if config.modulation else []
        self.time_condition = make_mlp(chain, config.activation)
        self.decoder = ModulatedDecoder(
            config.widths,
            config.strides,
            condition_features=condition_width,
            activation=config.activation,
        )

    @classmethod
    def configure(cls, video: VideoSpec, *, width: float, settings: Mapping[str, Any]) -> CNeRVConfig:
        """See :meth:`VideoModel.configure`; ``width`` is C0 before rounding.

        All parts shrink with it, in about the proportions of the 12.5 M network (C0 = 201).
        """
        chosen = cls.scale(video, width, settings)
        stem_channels = taper(1.28 * width, 1, reduction=1, lower=8)[0]
        chosen.setdefault("stem_channels", stem_channels)
        chosen.setdefault("condition_width", min(-(-stem_channels // 2), 512))
        return CNeRVConfig(**chosen)

    def coded_size(self) -> tuple[int, int]:
        """See :meth:`VideoModel.coded_size`: the first grid times the product of the strides."""
        return enlarged(self.stem_grid, self.config.strides)

    def decode(self, query: Query) -> Tensor:
        """See :meth:`IndexModel.decode`; under ``output = "offset"`` values may leave [0, 1]."""
        require_whole_frames(query)
        weight = self.decoder.head.weight
        time_NF = self.encoding(query.time_N).to(weight)
        grid_PF = self.grid_encoding.like(weight)
        # Times are the same in all cells (N, 1, F), cells the same at all times (1, P, F).
        plane_NPF = time_NF[:, None].expand(-1, len(grid_PF), -1)
        map_NPF = torch.cat([plane_NPF, grid_PF.expand(len(time_NF), -1, -1)], dim=2)
        # Cells are in row-major order: (N, P, F) becomes (N, F, P), then (N, F, h, w).
        feature_NCHW = self.stem(map_NPF.transpose(1, 2).reshape(len(time_NF), -1, *self.stem_grid))
        raw_NCHW = self.decoder(feature_NCHW, self.time_condition(time_NF))
        return squash(raw_NCHW, self.config.output, self.config.output_offset)
