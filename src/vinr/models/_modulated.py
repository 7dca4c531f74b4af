"""What the models with modulated instance normalisation share: grids, and E-NeRV's decoder.

::

    feature (C0, h, w) ──> [instance norm, · γ + β ──> convolutions, depth to space s, act] per stage
    condition ──> linear, act ─────────────┘                                               ──> 1×1 conv

Axes: N frames of a batch, P cells of the grid in row-major order, F features, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

from vinr.errors import UsageError
from vinr.models._blocks import ActivationName, InstanceModulation, UpsampleBlock, make_activation
from vinr.models._encodings import EncodingOrder, EncodingPrecision, encode_position

__all__ = ["GridEncoding", "ModulatedDecoder", "TwoStepBlock", "check_frequencies", "cover_frame"]

# Highest frequency: beyond it angles of a float32 encoding would overflow.
MAX_FREQUENCY_DIGITS = 30
# A stem's grid stays small whatever a file asks for: transformers compare each cell with each.
MAX_CELLS = 4096
# The two-step block works at a quarter of its input's channels.
SQUEEZE = 4


def check_frequencies(base: float, levels: int) -> None:
    """Raise ValueError if the fastest wave of an encoding lies beyond 1e30."""
    if levels * math.log10(base) > MAX_FREQUENCY_DIGITS:
        raise ValueError(f"base {base} to the power of levels {levels} exceeds 1e{MAX_FREQUENCY_DIGITS}")


def cover_frame(
    height: int, width: int, strides: Sequence[int], grid: tuple[int | None, int | None]
) -> tuple[int, int]:
    """Return rows and columns of the first grid: those of ``grid``, where None as many as are needed.

    ``height`` and ``width`` are the pixels that the grid, enlarged by ``strides``, must cover.

    Raises
    ------
    UsageError
        If the given grid is too small, or the grid has more than 4096 cells.
    """
    multiple = math.prod(strides)
    needed = -(-height // multiple), -(-width // multiple)
    chosen = grid[0] or needed[0], grid[1] or needed[1]
    if chosen[0] < needed[0] or chosen[1] < needed[1]:
        raise UsageError(
            f"a stem grid of {chosen[0]}×{chosen[1]} is too small for {height}×{width} pixels, which need "
            f"{needed[0]}×{needed[1]}; leave stem_height and stem_width out"
        )
    if math.prod(chosen) > MAX_CELLS:
        raise UsageError(
            f"a stem grid of {chosen[0]}×{chosen[1]} has more than {MAX_CELLS} cells; take larger strides"
        )
    return chosen


class GridEncoding:
    """Encodings of the cells of a grid: those of row y / height, then those of column x / width.

    They carry no information of the video, so they are computed, not stored.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        *,
        base: float,
        levels: int,
        order: EncodingOrder,
        precision: EncodingPrecision = "exact",
    ) -> None:
        lines = [
            [
                encode_position(
                    Fraction(place, length), base=base, levels=levels, order=order, precision=precision
                )
                for place in range(length)
            ]
            for length in grid
        ]
        cells = [(*row, *column) for row in lines[0] for column in lines[1]]
        self.num_features = 4 * levels
        # Built for a network without memory too, so the device is named.
        self._exact_PF = torch.tensor(cells, dtype=torch.float64, device="cpu")
        self._used_PF = self._exact_PF

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # remembers a copy, which is no graph
    def like(self, weight: Tensor) -> Tensor:
        """Return the encodings (P, 4 · levels) in the type and on the device of ``weight``."""
        if (self._used_PF.dtype, self._used_PF.device) != (weight.dtype, weight.device):
            self._used_PF = self._exact_PF.to(weight)
        return self._used_PF


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


class _ModulatedStage(nn.Module):
    """Instance normalisation with gain and shift from the condition (or none), then an upsampling block."""

    def __init__(self, block: nn.Module, modulation: InstanceModulation | None) -> None:
        super().__init__()
        self.modulation = modulation
        self.block = block

    def forward(self, feature_NCHW: Tensor, condition_NF: Tensor) -> Tensor:
        if self.modulation is not None:
            feature_NCHW = self.modulation(feature_NCHW, condition_NF)
        out: Tensor = self.block(feature_NCHW)
        return out


class ModulatedDecoder(nn.Module):
    """Upsampling stages, the first one in two steps, each with the condition's gain and shift at its input.

    Parameters
    ----------
    widths
        Channels of the input and after each stage.
    condition_features
        Length of the condition vector; 0: stages are neither normalised nor modulated.
    """

    def __init__(
        self,
        widths: Sequence[int],
        strides: Sequence[int],
        *,
        condition_features: int,
        activation: ActivationName,
    ) -> None:
        super().__init__()
        stages = []
        for number, stride in enumerate(strides):
            before, after = widths[number : number + 2]
            block: nn.Module
            if number == 0:
                block = TwoStepBlock(before, after, stride=stride, activation=activation)
            else:
                block = UpsampleBlock(before, after, stride=stride, kernel=3, activation=activation)
            modulation = None
            if condition_features:
                modulation = InstanceModulation(condition_features, before, activation=activation)
            stages.append(_ModulatedStage(block, modulation))
        self.stages = nn.ModuleList(stages)
        self.head = nn.Conv2d(widths[-1], 3, 1)

    def forward(self, feature_NCHW: Tensor, condition_NF: Tensor) -> Tensor:
        """Return the head's three channels, not yet squashed to colours."""
        for stage in self.stages:
            feature_NCHW = stage(feature_NCHW, condition_NF)
        out: Tensor = self.head(feature_NCHW)
        return out
