"""HNeRV: a ConvNeXt encoder and a convolutional decoder fitted to one video.

H. Chen, M. Gwilliam, S.-N. Lim, A. Shrivastava, "HNeRV: A Hybrid Neural Representation for Videos", CVPR
2023, https://arxiv.org/abs/2304.02633. The presets reproduce its tables of the Bunny clip and of UVG.

::

    frame (3, H, W) ──> ConvNeXt stages ──> embedding (d, h, w)     while fitting; stored, one a frame
    embedding ──> 1×1 conv, act (C0) ──> [conv k → s²·C → depth to space s → act] per stage
              ──> 3×3 conv ──> tanh

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, model_validator
from torch import Tensor, nn

from vinr.models._base import HybridModel, ModelConfig
from vinr.models._blocks import (
    ActivationName,
    ConvNeXtEncoder,
    Kernel,
    OutputName,
    Strides,
    UpsampleBlock,
    Width,
    Widths,
    check_kernels,
    check_stages,
    padded,
    require_whole_frames,
    squash,
    stage_kernels,
)
from vinr.models._sizing import choose_strides, taper
from vinr.models._stored import Latents
from vinr.video.spec import FrameSource, Query, VideoSpec

__all__ = ["HNeRV", "HNeRVConfig"]

# Supplement, Table 17: channels shrink by r = 1.2 a stage, not below 12.
REDUCTION = 1.2
LOWER_WIDTH = 12
# Bounds of configure(): the thinnest decoder, and the share of the stored numbers that latents may take.
MIN_WIDTH = 4
MAX_LATENT_SHARE = 0.35


class HNeRVConfig(ModelConfig):
    """Architecture of HNeRV; the defaults are those of the paper (supplement, Table 17)."""

    size_fields: ClassVar[tuple[str, ...]] = ("widths",)

    strides: Strides = Field(description="upsampling of each decoder stage, 1 to 16")
    widths: Widths = Field(description="channels after the stem and after each stage, 1 to 4096")
    embedding_channels: Width = Field(16, description="channels of a frame's stored embedding")
    encoder_strides: Strides | None = Field(None, description="reductions of the encoder; none: strides")
    encoder_width: Width = Field(64, description="channels of all encoder stages but the last")
    encoder_depth: int = Field(1, ge=1, le=32, description="ConvNeXt blocks an encoder stage")
    kernel_min: Kernel = Field(1, description="kernel of the first stage, odd; it grows by 2 a stage")
    kernel_max: Kernel = Field(5, description="largest kernel of a stage, odd")
    head_kernel: Kernel = Field(3, description="kernel of the last convolution, odd")
    blocks_per_stage: int = Field(1, ge=1, le=8, description="convolutions a stage; the first one upsamples")
    activation: ActivationName = Field("gelu", description="non-linearity after the stem and each block")
    output: OutputName = Field("tanh", description="last step: ½ tanh + ½, sigmoid, or plus output_offset")
    output_offset: float = Field(
        0.5, ge=-1, le=1, description="added under output = offset, which has no bounds"
    )

    @model_validator(mode="after")
    def _check(self) -> HNeRVConfig:
        check_stages(self.strides, self.widths)
        check_kernels(self.kernel_min, self.kernel_max, self.head_kernel)
        if math.prod(self.analysis_strides) % math.prod(self.strides):
            raise ValueError(
                f"encoder_strides {self.encoder_strides} must multiply to a multiple of the product of "
                f"strides {self.strides}"
            )
        check_stages(self.analysis_strides, [1] * (len(self.analysis_strides) + 1))
        return self

    @property
    def analysis_strides(self) -> tuple[int, ...]:
        """Strides of the encoder."""
        return self.encoder_strides or self.strides


class HNeRV(HybridModel):
    """HNeRV (CVPR 2023): stored per-frame embeddings, decoded by a convolutional network."""

    Config = HNeRVConfig

    def __init__(self, config: HNeRVConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.config = config
        self.encoder = _make_encoder(config) if with_encoder else None
        stem_stride = math.prod(config.analysis_strides) // math.prod(config.strides)
        self.stem = UpsampleBlock(
            config.embedding_channels,
            config.widths[0],
            stride=stem_stride,
            kernel=1,
            activation=config.activation,
        )
        self.blocks = nn.Sequential(*_make_blocks(config))
        self.head = nn.Conv2d(config.widths[-1], 3, config.head_kernel, padding=config.head_kernel // 2)

    @classmethod
    def configure(cls, video: VideoSpec, *, width: float, settings: Mapping[str, Any]) -> HNeRVConfig:
        """See :meth:`VideoModel.configure`; ``width`` is C0 before rounding.

        Embeddings get 16 channels, or as many (at least one) as keep them within 35 % of the stored numbers.
        """
        chosen = dict(settings)
        chosen.setdefault("strides", choose_strides(video.height, video.width))
        num_widths = len(chosen["strides"]) + 1
        lower = max(MIN_WIDTH, min(LOWER_WIDTH, width))
        chosen.setdefault("widths", taper(width, num_widths, reduction=REDUCTION, lower=lower))
        if "embedding_channels" not in chosen:
            thin = cls.on_meta(HNeRVConfig(**chosen, embedding_channels=1), video)
            cells = math.prod(thin.per_frame_shapes()["embedding"]) * video.num_frames
            affordable = (thin.num_stored() - cells) * MAX_LATENT_SHARE / (1 - MAX_LATENT_SHARE)
            default = HNeRVConfig.model_fields["embedding_channels"].default
            chosen["embedding_channels"] = max(1, min(default, int(affordable / cells)))
        return HNeRVConfig(**chosen)

    def coded_size(self) -> tuple[int, int]:
        """See :meth:`VideoModel.coded_size`: multiples of the product of the encoder's strides."""
        multiple = math.prod(self.config.analysis_strides)
        return padded(self.video.height, multiple), padded(self.video.width, multiple)

    def per_frame_shapes(self) -> dict[str, tuple[int, ...]]:
        """See :meth:`VideoModel.per_frame_shapes`: one embedding (d, h, w) a frame."""
        height, width = self.coded_size()
        multiple = math.prod(self.config.analysis_strides)
        return {"embedding": (self.config.embedding_channels, height // multiple, width // multiple)}

    def encode(self, source: FrameSource, index_N: Tensor) -> Latents:
        """See :meth:`HybridModel.encode`."""
        if self.encoder is None:
            raise ValueError("the encoder was dropped; give no source")
        return Latents({"embedding": self.encoder(self.read_frames(source, index_N))})

    def decode(self, query: Query, latents: Latents) -> Tensor:
        """See :meth:`HybridModel.decode`; under ``output = "offset"`` values may leave [0, 1]."""
        require_whole_frames(query)
        feature_NCHW = self.blocks(self.stem(latents.per_frame["embedding"]))
        return squash(self.head(feature_NCHW), self.config.output, self.config.output_offset)


def _make_encoder(config: HNeRVConfig) -> ConvNeXtEncoder:
    strides = config.analysis_strides
    widths = [config.encoder_width] * (len(strides) - 1) + [config.embedding_channels]
    return ConvNeXtEncoder(strides, widths, [config.encoder_depth] * len(strides))


def _make_blocks(config: HNeRVConfig) -> list[UpsampleBlock]:
    kernels = stage_kernels(config.kernel_min, config.kernel_max, len(config.strides))
    blocks = []
    for number, (stride, kernel) in enumerate(zip(config.strides, kernels, strict=True)):
        before, after = config.widths[number : number + 2]
        steps = [(before, stride)] + [(after, 1)] * (config.blocks_per_stage - 1)
        blocks += [
            UpsampleBlock(inputs, after, stride=step, kernel=kernel, activation=config.activation)
            for inputs, step in steps
        ]
    return blocks
