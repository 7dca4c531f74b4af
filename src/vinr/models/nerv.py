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
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator
from torch import Tensor, nn

from vinr.errors import UsageError
from vinr.models._base import IndexModel, ModelConfig
from vinr.models._blocks import (
    ActivationName,
    Kernel,
    OutputName,
    Strides,
    UpsampleBlock,
    Width,
    Widths,
    check_kernels,
    check_stages,
    make_activation,
    require_whole_frames,
    squash,
    stage_kernels,
)
from vinr.models._encodings import EncodingOrder, EncodingPrecision, TimeEncoding, TimeNorm
from vinr.models._sizing import choose_strides, taper
from vinr.video.spec import Query, VideoSpec

__all__ = ["NeRV", "NeRVConfig"]

# The baseline of HNeRV: channels halve at each stage, not below 12, from a stem grid of 8 × 16.
REDUCTION = 2.0
LOWER_WIDTH = 12
TARGET_GRID = (8, 16)
# Four times the usual cost of a larger grid: each cell takes a row of C0 · 160 numbers in the stem.
GRID_COST = 0.016
# The thinnest network that configure() makes.
MIN_WIDTH = 4
MIN_STEM_WIDTH = 2
MIN_LEVELS = 16
# Highest frequency: beyond it float32 angles would overflow.
MAX_FREQUENCY_DIGITS = 30

StemWidths = Annotated[tuple[Width, ...], Field(max_length=4)]


class NeRVConfig(ModelConfig):
    """Architecture of NeRV; the defaults are those of the baseline in HNeRV's repository."""

    size_fields: ClassVar[tuple[str, ...]] = ("widths",)

    strides: Strides = Field(description="upsampling of each stage, 1 to 16")
    widths: Widths = Field(description="channels of the stem's grid and after each stage, 1 to 4096")
    base: float = Field(
        1.25, gt=1, le=10, description="ratio of neighbouring frequencies of the time encoding"
    )
    levels: int = Field(80, ge=1, le=256, description="frequencies of the time encoding")
    encoding_order: EncodingOrder = Field("blocks", description="sines, then cosines; or one after the other")
    encoding_precision: EncodingPrecision = Field(
        "exact", description="roundings of the encoding; float32 kinds repeat the published checkpoints'"
    )
    time_norm: TimeNorm = Field("i/T", description="time of frame i of T frames")
    stem_widths: StemWidths = Field((), description="hidden widths of the stem's linear layers, at most four")
    stem_height: int | None = Field(
        None, ge=1, le=512, description="rows of the stem's grid; none: as needed"
    )
    stem_width: int | None = Field(
        None, ge=1, le=512, description="columns of the stem's grid; none: as needed"
    )
    kernel_min: Kernel = Field(3, description="kernel of the first stage, odd; it grows by 2 a stage")
    kernel_max: Kernel = Field(3, description="largest kernel of a stage, odd")
    head_kernel: Kernel = Field(3, description="kernel of the last convolution, odd")
    activation: ActivationName = Field("gelu", description="non-linearity after each layer but the last")
    output: OutputName = Field("tanh", description="last step: ½ tanh + ½, sigmoid, or plus output_offset")
    output_offset: float = Field(
        0.5, ge=-1, le=1, description="added under output = offset, which has no bounds"
    )

    @model_validator(mode="after")
    def _check(self) -> NeRVConfig:
        check_stages(self.strides, self.widths)
        check_kernels(self.kernel_min, self.kernel_max, self.head_kernel)
        if self.levels * math.log10(self.base) > MAX_FREQUENCY_DIGITS:
            raise ValueError(
                f"base {self.base} to the power of levels {self.levels} exceeds 1e{MAX_FREQUENCY_DIGITS}"
            )
        return self


class NeRV(IndexModel):
    """NeRV (NeurIPS 2021): the frame number, encoded by sines, decoded by a convolutional network."""

    Config = NeRVConfig

    def __init__(self, config: NeRVConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.config = config
        self.encoding = TimeEncoding(
            video.num_frames,
            config.base,
            config.levels,
            config.encoding_order,
            config.time_norm,
            config.encoding_precision,
        )
        self.stem_grid = _stem_grid(config, video)
        inputs = [self.encoding.num_features, *config.stem_widths]
        outputs = [*config.stem_widths, math.prod(self.stem_grid) * config.widths[0]]
        layers: list[nn.Module] = []
        for before, after in zip(inputs, outputs, strict=True):
            layers += [nn.Linear(before, after), make_activation(config.activation)]
        self.stem = nn.Sequential(*layers)
        kernels = stage_kernels(config.kernel_min, config.kernel_max, len(config.strides))
        stages = zip(config.widths, config.widths[1:], config.strides, kernels, strict=False)
        self.blocks = nn.Sequential(
            *(
                UpsampleBlock(before, after, stride=stride, kernel=kernel, activation=config.activation)
                for before, after, stride, kernel in stages
            )
        )
        self.head = nn.Conv2d(config.widths[-1], 3, config.head_kernel, padding=config.head_kernel // 2)

    @classmethod
    def configure(cls, video: VideoSpec, *, width: float, settings: Mapping[str, Any]) -> NeRVConfig:
        """See :meth:`VideoModel.configure`; ``width`` is C0 before rounding.

        Below C0 = 4, where the first linear layer is nearly the whole network, the time encoding gets fewer
        of its 80 frequencies too, down to 16.
        """
        chosen = dict(settings)
        default = NeRVConfig.model_fields["levels"].default
        chosen.setdefault("levels", min(max(round(default * width / MIN_WIDTH), MIN_LEVELS), default))
        chosen.setdefault(
            "strides", choose_strides(video.height, video.width, target_grid=TARGET_GRID, grid_cost=GRID_COST)
        )
        if "widths" not in chosen:
            lower = max(MIN_WIDTH, min(LOWER_WIDTH, width))
            tail = taper(width, len(chosen["strides"]) + 1, reduction=REDUCTION, lower=lower)[1:]
            chosen["widths"] = (*taper(width, 1, reduction=REDUCTION, lower=MIN_STEM_WIDTH), *tail)
        return NeRVConfig(**chosen)

    def coded_size(self) -> tuple[int, int]:
        """See :meth:`VideoModel.coded_size`: the stem's grid times the product of the strides."""
        multiple = math.prod(self.config.strides)
        return self.stem_grid[0] * multiple, self.stem_grid[1] * multiple

    def decode(self, query: Query) -> Tensor:
        """See :meth:`IndexModel.decode`; under ``output = "offset"`` values may leave [0, 1]."""
        require_whole_frames(query)
        feature_NF = self.encoding(query.time_N).to(self.head.weight)
        feature_NCHW = self.stem(feature_NF).view(-1, self.config.widths[0], *self.stem_grid)
        return squash(self.head(self.blocks(feature_NCHW)), self.config.output, self.config.output_offset)


def _stem_grid(config: NeRVConfig, video: VideoSpec) -> tuple[int, int]:
    """Return rows and columns of the stem's grid: those configured, or just enough to cover the frame."""
    multiple = math.prod(config.strides)
    needed = -(-video.height // multiple), -(-video.width // multiple)
    grid = config.stem_height or needed[0], config.stem_width or needed[1]
    if grid[0] < needed[0] or grid[1] < needed[1]:
        raise UsageError(
            f"a stem grid of {grid[0]}×{grid[1]} is too small for {video.height}×{video.width} frames, which "
            f"need {needed[0]}×{needed[1]}; leave stem_height and stem_width out"
        )
    return grid
