"""PS-NeRV: each patch of a frame from its time and place, styled by adaptive instance normalisation.

Y. Bai, C. Dong, C. Wang, C. Yuan, "PS-NeRV: Patch-wise Stylized Neural Representations for Videos", ICIP
2023, https://arxiv.org/abs/2208.03742. No code is public; what the paper leaves open is a setting, and the
presets have the sizes at which HiNeRV (NeurIPS 2023) compares it.

::

    time, patch row, patch column ──> sin, cos of each ──> linear ×2 ──> reshape (C0, h0, w0)
                                           │
                                           └──> linear ×2 = style
    (C0, h0, w0) ──> [3×3 conv → s²·C → depth to space s → norm, · σ + μ of style → act] per stage
                 ──> 1×1 conv ──> sigmoid ──> patch;   patches side by side ──> frame

Patches neither overlap nor see each other, so seams may show, as in the paper.

Axes: N frames or patches of a batch, F features, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vinr.errors import UsageError
from vinr.models.base import IndexModel, Scaling
from vinr.models.layers.blocks import (
    Output,
    Width,
    enlarged,
    make_activation,
    make_mlp,
    squash,
)
from vinr.models.layers.encodings import (
    Levels,
    StemGridConfig,
    WaveOrder,
    check_frequencies,
    cover_frame,
    encode_position,
    no_graph,
)
from vinr.models.layers.modulation import InstanceModulation
from vinr.sizing.strides import MIN_WIDTH, choose_strides, taper
from vinr.video.patches import all_patches, join
from vinr.video.spec import PatchGrid, Query, VideoSpec

# Patches of 720p and 1080p frames keep NeRV's first grid: 4×4 patches from 9×16 cells.
MAX_PATCHES_PER_SIDE = 4
MIN_PATCH_SIDE = 16
# Lowest width: 12·√C0, as the sizes compared with HiNeRV have it, up to 64.
LOWER_WIDTH_FACTOR = 12.0
LOWER_WIDTH = 64

PatchCount = Annotated[int, Field(ge=1, le=64)]
StemWidths = Annotated[tuple[Width, ...], Field(max_length=4)]


class PSNeRVConfig(StemGridConfig):
    """Architecture of PS-NeRV; the first grid is that of a patch."""

    size_fields: ClassVar[tuple[str, ...]] = ("widths", "stem_widths")

    output: Output = "sigmoid"
    patch_rows: PatchCount = Field(4, description="rows of patches per frame, 1 to 64")
    patch_cols: PatchCount = Field(4, description="columns of patches per frame, 1 to 64")
    stem_widths: StemWidths = Field((512,), description="hidden widths of the stem's linear layers, up to 4")
    modulation: bool = Field(True, description="normalise each stage and modulate it by the style")
    style_width: Width = Field(128, description="length of the style, and of the layer before it")
    style_input: Literal["patch", "time"] = Field(
        "patch", description="what the style is made from: time and place of the patch, or the time alone"
    )
    base: float = Field(1.25, gt=1, le=10, description="ratio of neighbouring frequencies of the encodings")
    levels: Levels = Field(80, description="frequencies of each of the three encodings")
    encoding_order: WaveOrder = "interleaved"

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        check_frequencies(self.base, self.levels)
        return self


class _StyledBlock(nn.Module):
    """3×3 convolution → depth to space → instance normalisation and style → activation."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, config: PSNeRVConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels * stride**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(stride)
        self.modulation = (
            InstanceModulation(config.style_width, out_channels, activation=None, gain="1+gamma")
            if config.modulation
            else None
        )
        self.activation = make_activation(config.activation)

    def forward(self, feature_NCHW: Tensor, style_NF: Tensor) -> Tensor:
        feature_NCHW = self.shuffle(self.conv(feature_NCHW))
        if self.modulation is not None:
            feature_NCHW = self.modulation(feature_NCHW, style_NF)
        out: Tensor = self.activation(feature_NCHW)
        return out


class PSNeRV(IndexModel):
    """PS-NeRV (ICIP 2023): independent patches from time and place, modulated by a style."""

    Config = PSNeRVConfig
    # Below C0 = 8 the stem's hidden layer and the style shrink, below C0 = 4 the encodings.
    scaling = Scaling(
        grid=(9, 16), shrinks={"stem_widths": (8, 1), "style_width": (8, MIN_WIDTH), "levels": (4, 16)}
    )

    def __init__(self, config: PSNeRVConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.config = config
        self.patch_grid = PatchGrid(config.patch_rows, config.patch_cols)
        self.stem_grid = cover_frame(
            *_patch_size(video, config.patch_rows, config.patch_cols),
            config.strides,
            (config.stem_height, config.stem_width),
        )
        time_features = 2 * config.levels
        stem_outputs = math.prod(self.stem_grid) * config.widths[0]
        chain = [3 * time_features, *config.stem_widths, stem_outputs]
        self.stem = make_mlp(chain, config.activation)
        self.style_features = 3 * time_features if config.style_input == "patch" else time_features
        chain = [self.style_features, *[config.style_width] * 2] if config.modulation else []
        self.style = make_mlp(chain, config.activation)
        self.blocks = nn.ModuleList()
        for (before, after), stride in zip(pairwise(config.widths), config.strides, strict=True):
            self.blocks.append(_StyledBlock(before, after, stride, config))
        self.head = nn.Conv2d(config.widths[-1], 3, 1)

    @classmethod
    def configure(cls, video: VideoSpec, *, width: float, settings: Mapping[str, Any]) -> PSNeRVConfig:
        """See :meth:`VideoModel.configure`; ``width`` is C0 before rounding.

        Frames are cut into 4×4 patches, small ones into fewer, so that a patch has at least 16 pixels a side.
        """
        chosen = dict(settings)
        rows = chosen.setdefault("patch_rows", _patch_count(video.height))
        cols = chosen.setdefault("patch_cols", _patch_count(video.width))
        patch_size = _patch_size(video, rows, cols)
        strides = chosen.setdefault("strides", choose_strides(*patch_size, target_grid=cls.scaling.grid))
        if "widths" not in chosen:
            # C0 twice, then half as much after each stage.
            lower = min(max(LOWER_WIDTH_FACTOR * math.sqrt(width), MIN_WIDTH), LOWER_WIDTH)
            first = taper(width, 1, reduction=1, lower=2)
            second = taper(width, 1, reduction=1, lower=MIN_WIDTH)
            chosen["widths"] = first + second + taper(width / 2, len(strides) - 1, reduction=2, lower=lower)
        return PSNeRVConfig(**cls.scale(video, width, chosen))

    def coded_size(self) -> tuple[int, int]:
        """See :meth:`VideoModel.coded_size`: patches, each its first grid times all strides."""
        height, width = enlarged(self.stem_grid, self.config.strides)
        return self.patch_grid.rows * height, self.patch_grid.cols * width

    def decode(self, query: Query) -> Tensor:
        """See :meth:`IndexModel.decode`: patches of the model's own grid, or whole frames put together.

        Raises
        ------
        ValueError
            If the query is for patches of another grid.
        """
        if query.grid == self.patch_grid:
            return self.decode_patches(query)
        if not query.grid.is_whole_frame:
            raise ValueError(f"this model has patches of {self.patch_grid}, not of {query.grid}")
        patches_NCHW = self.decode_patches(all_patches(query.time_N, self.patch_grid))
        height, width = self.coded_size()
        return join(patches_NCHW, self.patch_grid, height=height, width=width)

    def check_patches(self, grid: PatchGrid) -> None:
        """See :meth:`VideoModel.check_patches`: the model's own patches, or whole frames."""
        if not grid.is_whole_frame and grid != self.patch_grid:
            rows, cols = self.patch_grid.rows, self.patch_grid.cols
            raise UsageError(
                f"this network has {rows}×{cols} patches, not {grid.rows}×{grid.cols}: set fit.patches to "
                f"[{rows}, {cols}] or [1, 1]"
            )

    def decode_patches(self, query: Query) -> Tensor:
        """Return the patches of ``query``, each alone: (N, 3, H, W)."""
        feature_NF = self._encode(query).to(self.head.weight)
        # The stem's outputs are (C0, h0, w0) of each patch, row by row.
        feature_NCHW = self.stem(feature_NF).view(len(query), self.config.widths[0], *self.stem_grid)
        # Features of the time come first: a style of the time alone is made from those.
        style_NF = self.style(feature_NF[:, : self.style_features])
        for block in self.blocks:
            feature_NCHW = block(feature_NCHW, style_NF)
        return squash(self.head(feature_NCHW), self.config.output, self.config.output_offset)

    @no_graph  # exact integers are no graph
    def _encode(self, query: Query) -> Tensor:
        """Return float64 features (N, 6 · levels) of time, row and column, on the CPU."""
        grid, num_frames = self.patch_grid, self.video.num_frames
        rows = []
        for time, row, col in zip(
            query.time_N.tolist(), query.row_N.tolist(), query.col_N.tolist(), strict=True
        ):
            place = self._encode_one(row, grid.rows) + self._encode_one(col, grid.cols)
            rows.append(self._encode_one(time, num_frames) + place)
        return torch.tensor(rows, dtype=torch.float64).view(-1, 6 * self.config.levels)

    def _encode_one(self, place: float, count: int) -> tuple[float, ...]:
        """Encode the middle of interval ``place`` of ``count`` equal ones."""
        config = self.config
        # Frame 0 of 4 lies at 1/8, frame 1 at 3/8, …: never at an end of the video.
        position = (Fraction(place) + Fraction(1, 2)) / count
        return encode_position(position, base=config.base, levels=config.levels, order=config.encoding_order)


def _patch_size(video: VideoSpec, rows: int, cols: int) -> tuple[int, int]:
    """Return rows and columns of pixels of each of ``rows`` × ``cols`` patches, rounded up."""
    return -(-video.height // rows), -(-video.width // cols)


def _patch_count(length: int) -> int:
    return max(1, min(MAX_PATCHES_PER_SIDE, length // MIN_PATCH_SIDE))
