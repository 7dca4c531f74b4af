"""Layers that several models share, and the bounded settings that describe them.

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from vinr.models._base import ModelConfig
from vinr.video.spec import Query, VideoSpec

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
FirstKernel = Annotated[Kernel, Field(description="kernel of the first stage, odd; it grows by 2 a stage")]
LargestKernel = Annotated[Kernel, Field(description="largest kernel of a stage, odd")]
HeadKernel = Annotated[Kernel, Field(description="kernel of the last convolution, odd")]

_MAX_UPSAMPLING = 1024
_NORM_EPS = 1e-6


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
    """Map a head's numbers to colours: ½·tanh + ½, the sigmoid, or plus ``offset`` (which has no bounds)."""
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
    multiple = math.prod(strides)
    return padded(video.height, multiple), padded(video.width, multiple)


def check_stages(strides: Sequence[int], widths: Sequence[int]) -> None:
    """Raise ValueError unless there is a width before the first stage and after each, and a sane scale."""
    if len(widths) != len(strides) + 1:
        raise ValueError(f"{len(strides)} strides need {len(strides) + 1} widths, got {len(widths)}")
    if math.prod(strides) > _MAX_UPSAMPLING:
        raise ValueError(f"strides {tuple(strides)} multiply to more than {_MAX_UPSAMPLING}")


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
    for number, (stride, kernel) in enumerate(zip(config.strides, config.kernels, strict=True)):
        before, after = config.widths[number : number + 2]
        steps = [(before, stride)] + [(after, 1)] * (blocks_per_stage - 1)
        blocks += [
            UpsampleBlock(inputs, after, stride=step, kernel=kernel, activation=config.activation)
            for inputs, step in steps
        ]
    return blocks


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each pixel, eps 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, feature_NCHW: Tensor) -> Tensor:
        """Return normalised features of the same shape."""
        feature_NHWC = feature_NCHW.permute(0, 2, 3, 1)
        normed_NHWC = F.layer_norm(feature_NHWC, self.weight.shape, self.weight, self.bias, _NORM_EPS)
        return normed_NHWC.permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7×7 → LayerNorm → Linear ×4 → GELU → Linear → layer scale, added to the input.

    Liu et al., "A ConvNet for the 2020s", CVPR 2022.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise_conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=_NORM_EPS)
        self.linear1 = nn.Linear(channels, 4 * channels)
        self.linear2 = nn.Linear(4 * channels, channels)
        self.layer_scale = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, feature_NCHW: Tensor) -> Tensor:
        """Return features of the same shape."""
        branch_NHWC: Tensor = self.norm(self.depthwise_conv(feature_NCHW).permute(0, 2, 3, 1))
        branch_NHWC = self.linear2(F.gelu(self.linear1(branch_NHWC))) * self.layer_scale
        return feature_NCHW + branch_NHWC.permute(0, 3, 1, 2)


class _EncoderStage(nn.Module):
    """Strided convolution with a LayerNorm before it (after it in the first stage), then ConvNeXt blocks."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, depth: int, *, first: bool) -> None:
        super().__init__()
        self.norm_first = not first
        self.downsample_conv = nn.Conv2d(in_channels, out_channels, stride, stride)
        self.downsample_norm = ChannelNorm(out_channels if first else in_channels)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(out_channels) for _ in range(depth)))

    def forward(self, feature_NCHW: Tensor) -> Tensor:
        if self.norm_first:
            feature_NCHW = self.downsample_conv(self.downsample_norm(feature_NCHW))
        else:
            feature_NCHW = self.downsample_norm(self.downsample_conv(feature_NCHW))
        out: Tensor = self.blocks(feature_NCHW)
        return out


class ConvNeXtEncoder(nn.Module):
    """Turns frames into small embeddings: one stage of stride, norm and ConvNeXt blocks after another.

    Parameters
    ----------
    strides
        Reduction of each stage; rows and columns must be divisible by their product.
    widths
        Channels after each stage; the last one is the embedding's. Nothing follows the last stage.
    depths
        ConvNeXt blocks of each stage.
    in_channels
        Channels of the input, 3 for frames.
    """

    def __init__(
        self, strides: Sequence[int], widths: Sequence[int], depths: Sequence[int], *, in_channels: int = 3
    ) -> None:
        super().__init__()
        inputs = [in_channels, *widths[:-1]]
        self.stages = nn.Sequential(
            *(
                _EncoderStage(before, after, stride, depth, first=number == 0)
                for number, (before, after, stride, depth) in enumerate(
                    zip(inputs, widths, strides, depths, strict=True)
                )
            )
        )
        self.apply(_init_like_convnext)

    def forward(self, rgb_NCHW: Tensor) -> Tensor:
        """Return embeddings, rows and columns divided by the product of the strides."""
        out: Tensor = self.stages(rgb_NCHW)
        return out


def _init_like_convnext(module: nn.Module) -> None:
    """Draw weights of convolutions and linears from N(0, 0.02²) cut at ±2, and set biases to 0."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
