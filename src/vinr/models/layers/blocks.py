"""Stages of convolutions that enlarge a feature map, what stands around them, and the settings of both.

::

    embedding or first grid ──> [conv → s²·C → depth to space s → act] per stage ──> conv ──> colours

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vinr.models.base import HybridModel, Latents, ModelConfig
from vinr.video.spec import FrameSource, Query, VideoSpec

if TYPE_CHECKING:
    from vinr.models.layers.convnext import ConvNeXtEncoder

ActivationName = Literal[
    "gelu", "relu", "leaky_relu", "leaky_relu_0.1", "relu6", "silu", "softplus", "hardswish", "sin"
]
OutputName = Literal["tanh", "sigmoid", "offset"]

Width = Annotated[int, Field(ge=1, le=4096)]
Kernel = Annotated[int, Field(ge=1, le=15)]
Strides = Annotated[tuple[Annotated[int, Field(ge=1, le=16)], ...], Field(min_length=1, max_length=8)]
Widths = Annotated[tuple[Width, ...], Field(min_length=2, max_length=9)]

# Settings of many models, whose defaults differ.
Activation = Annotated[ActivationName, Field(description="non-linearity after each layer but the last")]
Output = Annotated[OutputName, Field(description="last step: ½ tanh + ½, sigmoid, or plus output_offset")]
FirstKernel = Annotated[Kernel, Field(description="kernel of the first stage, odd; it grows by 2 per stage")]
LargestKernel = Annotated[Kernel, Field(description="largest kernel of a stage, odd")]
HeadKernel = Annotated[Kernel, Field(description="kernel of the last convolution, odd")]

MAX_UPSAMPLING = 1024
# The two-step block works at a quarter of its input's channels.
SQUEEZE = 4


class Sine(nn.Module):
    """The activation sin(x), frequency 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Return sin(x)."""
        return torch.sin(x)


def make_activation(name: ActivationName) -> nn.Module:
    """Return a new activation layer; ``gelu`` is the exact (erf) form, ``leaky_relu`` has slope 0.01."""
    if name == "leaky_relu_0.1":
        return nn.LeakyReLU(0.1)
    kinds: dict[str, type[nn.Module]] = {
        "gelu": nn.GELU,
        "relu": nn.ReLU,
        "leaky_relu": nn.LeakyReLU,
        "relu6": nn.ReLU6,
        "silu": nn.SiLU,
        "softplus": nn.Softplus,
        "hardswish": nn.Hardswish,
        "sin": Sine,
    }
    return kinds[name]()


def make_mlp(widths: Sequence[int], activation: ActivationName) -> nn.Sequential:
    """Return linear layers between neighbouring ``widths``, the activation after each, the last included."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), make_activation(activation)]
    return nn.Sequential(*layers)


def squash(raw_NCHW: Tensor, output: OutputName, offset: float = 0.5) -> Tensor:
    """Map a head's outputs to colours: ½·tanh + ½, the sigmoid, or plus ``offset`` (which has no bounds)."""
    if output == "tanh":
        return 0.5 * torch.tanh(raw_NCHW) + 0.5
    return torch.sigmoid(raw_NCHW) if output == "sigmoid" else raw_NCHW + offset


def require_whole_frames(query: Query) -> None:
    """Refuse patches, for models whose stages see the whole frame."""
    if not query.grid.is_whole_frame:
        raise ValueError(f"this model decodes whole frames only, not patches of {query.grid}")


def stage_kernels(kernel_min: int, kernel_max: int, num_stages: int) -> tuple[int, ...]:
    """Return the kernel of each stage, growing by 2: min(``kernel_min`` + 2 i, ``kernel_max``)."""
    return tuple(min(kernel_min + 2 * stage, kernel_max) for stage in range(num_stages))


def padded(length: int, multiple: int) -> int:
    """Return ``length`` rounded up to a multiple."""
    return -(-length // multiple) * multiple


def padded_size(video: VideoSpec, strides: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of a frame, each rounded up to a multiple of the product of ``strides``."""
    return enlarged(grid_size(video.height, video.width, strides), strides)


def grid_size(height: int, width: int, strides: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns that ``strides`` enlarge to a frame, or to just more than the frame."""
    multiple = math.prod(strides)
    return -(-height // multiple), -(-width // multiple)


def enlarged(grid: tuple[int, int], strides: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of ``grid`` after stages of ``strides``."""
    multiple = math.prod(strides)
    return grid[0] * multiple, grid[1] * multiple


def check_stages(strides: Sequence[int], widths: Sequence[int]) -> None:
    """Raise ValueError unless there is a width before the first stage and after each, and a sane scale."""
    if len(widths) != len(strides) + 1:
        raise ValueError(f"{len(strides)} strides need {len(strides) + 1} widths, got {len(widths)}")
    if math.prod(strides) > MAX_UPSAMPLING:
        raise ValueError(f"strides {tuple(strides)} multiply to more than {MAX_UPSAMPLING}")


def check_kernels(*kernels: int) -> None:
    """Raise ValueError unless all kernels are odd."""
    if not all(kernel % 2 for kernel in kernels):
        raise ValueError(f"kernels must be odd, got {kernels}")


class StagesConfig(ModelConfig):
    """Settings of a decoder made of upsampling stages; models whose defaults differ state their own."""

    size_fields: ClassVar[tuple[str, ...]] = ("widths",)

    strides: Strides = Field(description="upsampling of each stage, 1 to 16")
    widths: Widths = Field(description="channels before the first stage and after each, 1 to 4096")
    activation: Activation = "gelu"
    output: Output = "tanh"
    output_offset: float = Field(
        0.5, ge=-1, le=1, description="added under output = offset, which has no bounds"
    )

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        check_stages(self.strides, self.widths)
        return self


class ConvStagesConfig(StagesConfig):
    """Settings of a decoder whose stages are plain convolutions, kernels growing, and whose head is one."""

    kernel_min: FirstKernel = 3
    kernel_max: LargestKernel = 3
    head_kernel: HeadKernel = 3

    @model_validator(mode="after")
    def _check_kernels(self) -> Self:
        check_kernels(self.kernel_min, self.kernel_max, self.head_kernel)
        return self

    @property
    def kernels(self) -> tuple[int, ...]:
        """Kernel of each stage."""
        return stage_kernels(self.kernel_min, self.kernel_max, len(self.strides))

    def make_head(self) -> nn.Conv2d:
        """Return the last convolution, from features to three colours."""
        return nn.Conv2d(self.widths[-1], 3, self.head_kernel, padding=self.head_kernel // 2)


class UpsampleBlock(nn.Module):
    """Convolution to ``stride``² times the channels → depth to space → activation.

    Channel c · s² + y · s + x of the convolution becomes pixel (y, x) of channel c.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        kernel: int,
        activation: ActivationName,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels * stride**2, kernel, padding=kernel // 2)
        self.shuffle = nn.PixelShuffle(stride) if stride > 1 else nn.Identity()
        self.activation = make_activation(activation)

    def forward(self, feature_NCHW: Tensor) -> Tensor:
        """Return features with ``stride`` times the rows and columns."""
        out: Tensor = self.activation(self.shuffle(self.conv(feature_NCHW)))
        return out


def make_stages(config: ConvStagesConfig, blocks_per_stage: int = 1) -> list[UpsampleBlock]:
    """Return the blocks of all stages in order; the first one of a stage upsamples."""
    blocks = []
    before = config.widths[0]
    for stride, kernel, after in zip(config.strides, config.kernels, config.widths[1:], strict=True):
        for place in range(blocks_per_stage):
            inputs, step = (before, stride) if place == 0 else (after, 1)
            block = UpsampleBlock(inputs, after, stride=step, kernel=kernel, activation=config.activation)
            blocks.append(block)
        before = after
    return blocks


class TwoStepBlock(nn.Module):
    """Upsampling with fewer weights than one convolution to ``stride``² times the channels.

    Towards more channels: 3×3 to a quarter of the inputs, depth to space, 3×3, activation, with none between.
    Towards fewer: 3×3, 3×3, depth to space, activation.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, activation: ActivationName
    ) -> None:
        super().__init__()
        self.squeezed = in_channels <= out_channels
        middle = max(in_channels // SQUEEZE, 1) if self.squeezed else out_channels
        scale = stride**2
        first, second = (middle * scale, out_channels) if self.squeezed else (middle, out_channels * scale)
        self.conv1 = nn.Conv2d(in_channels, first, 3, padding=1)
        self.conv2 = nn.Conv2d(middle, second, 3, padding=1)
        self.shuffle = nn.PixelShuffle(stride)
        self.activation = make_activation(activation)

    def forward(self, feature_NCHW: Tensor) -> Tensor:
        """Return features with ``stride`` times the rows and columns."""
        feature_NCHW = self.conv1(feature_NCHW)
        if self.squeezed:
            feature_NCHW = self.conv2(self.shuffle(feature_NCHW))
        else:
            feature_NCHW = self.shuffle(self.conv2(feature_NCHW))
        out: Tensor = self.activation(feature_NCHW)
        return out


# -- embeddings of frames, before the stages -----------------------------------------------------------------


class EmbeddingConfig(ConvStagesConfig):
    """Settings of decoders that start from an embedding of the frame, and of the encoder that makes it."""

    embedding_channels: Width = Field(16, description="channels of a frame's stored embedding")
    encoder_strides: Strides | None = Field(None, description="reductions of the encoder; none: strides")
    encoder_width: Width = Field(64, description="channels of all encoder stages but the last")
    encoder_depth: int = Field(1, ge=1, le=32, description="ConvNeXt blocks per encoder stage")

    @property
    def analysis_strides(self) -> tuple[int, ...]:
        """Strides of the encoder."""
        return self.encoder_strides or self.strides

    def make_encoder(self) -> ConvNeXtEncoder:
        """Return the network from frames to embeddings."""
        from vinr.models.layers.convnext import ConvNeXtEncoder  # decoding has no encoder

        num_stages = len(self.analysis_strides)
        widths = [self.encoder_width] * (num_stages - 1) + [self.embedding_channels]
        return ConvNeXtEncoder(self.analysis_strides, widths, [self.encoder_depth] * num_stages)


class EmbeddingModel(HybridModel):
    """A model with one stored embedding (d, h, w) per frame, made by a ConvNeXt encoder."""

    Config: ClassVar[type[EmbeddingConfig]]
    encoder: ConvNeXtEncoder | None

    def __init__(self, config: EmbeddingConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.config = config
        self.encoder = config.make_encoder() if with_encoder else None

    @classmethod
    def configure(cls, video: VideoSpec, *, width: float, settings: Mapping[str, Any]) -> Any:
        """See :meth:`VideoModel.configure`.

        Embeddings get 16 channels, or as many (at least one) as keep them within 35 % of all parameters.
        """
        from vinr.sizing.strides import affordable_latents  # decoding chooses no sizes

        chosen = cls.scale(video, width, settings)
        if "embedding_channels" not in chosen:
            thin = cls.on_meta(cls.Config(**chosen, embedding_channels=1), video)
            cells = math.prod(thin.per_frame_shapes()["embedding"]) * video.num_frames
            affordable = affordable_latents(thin.num_stored() - cells) / cells
            most = cls.Config.model_fields["embedding_channels"].default
            chosen["embedding_channels"] = max(1, min(most, int(affordable)))
        return cls.Config(**chosen)

    @final
    def coded_size(self) -> tuple[int, int]:
        """See :meth:`VideoModel.coded_size`: multiples of the product of the encoder's strides."""
        return padded_size(self.video, self.config.analysis_strides)

    @final
    def per_frame_shapes(self) -> dict[str, tuple[int, ...]]:
        """See :meth:`VideoModel.per_frame_shapes`: one embedding (d, h, w) per frame."""
        size = grid_size(self.video.height, self.video.width, self.config.analysis_strides)
        return {"embedding": (self.config.embedding_channels, *size)}

    @final
    def frames_using_latents(self, first: int, stop: int) -> range:
        """See :meth:`VideoModel.frames_using_latents`: a frame needs its own."""
        return range(first, stop)

    def encode(self, source: FrameSource, index_N: Tensor) -> Latents:
        """See :meth:`HybridModel.encode`."""
        if self.encoder is None:
            raise ValueError("the encoder was dropped; give no source")
        return Latents({"embedding": self.encoder(self.read_frames(source, index_N))})
