"""What the models that start from a grid of cells share: that grid, and the parts of E-NeRV.

::

    cells (y, x) ──> sin, cos ──> layers, transformers ──> (C0, h, w)
    feature (C0, h, w) ──> [instance norm, · γ + β ──> convolutions, depth to space s, act] per stage
    condition ──> linear, act ─────────────┘                                               ──> 1×1 conv

Axes: N frames of a batch, P cells of the grid in row-major order, F features, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vinr.errors import UsageError
from vinr.models._sizing import MAX_CELLS
from vinr.models._stored import no_graph
from vinr.models.layers.blocks import ActivationName, UpsampleBlock, make_activation
from vinr.models.layers.encodings import EncodingOrder, EncodingPrecision, encode_position
from vinr.sharing import LruCache

GainName = Literal["gamma", "1+gamma"]

# Highest frequency: beyond it angles of a float32 encoding would overflow.
MAX_FREQUENCY_DIGITS = 30
# The two-step block works at a quarter of its input's channels.
SQUEEZE = 4

_INSTANCE_EPS = 1e-5
_SMALL_STD = 0.02


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
    # Small whatever a file asks for: transformers compare each cell with each.
    if math.prod(chosen) > MAX_CELLS:
        raise UsageError(
            f"a stem grid of {chosen[0]}×{chosen[1]} has more than {MAX_CELLS} cells; take larger strides"
        )
    return chosen


def shrunk(full: int, width: float, *, full_width: float, lowest: int) -> int:
    """Return ``full`` · ``width`` / ``full_width``, rounded, within ``lowest`` … ``full``; widths are C0s."""
    return min(max(round(full * width / full_width), lowest), full)


class GridEncoding:
    """Encodings of the cells of a grid: those of row y / height, then those of column x / width.

    They carry no information of the video, so they are computed, not stored: when first asked for, since
    counting a network's numbers does not take them.
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
        self.num_features = 4 * levels
        self._grid = grid
        self._encode = partial(encode_position, base=base, levels=levels, order=order, precision=precision)
        self._used: LruCache[tuple[torch.dtype, torch.device], Tensor] = LruCache(2)

    def _exact(self) -> Tensor:
        lines = [[self._encode(Fraction(place, length)) for place in range(length)] for length in self._grid]
        cells = [(*row, *column) for row in lines[0] for column in lines[1]]
        return torch.tensor(cells, dtype=torch.float64)

    @no_graph  # remembers a copy, which is no graph
    def like(self, weight: Tensor) -> Tensor:
        """Return the encodings (P, 4 · levels) in the type and on the device of ``weight``."""

        def make() -> Tensor:
            # What is remembered from decoding must serve fitting too.
            with torch.inference_mode(False):
                return self._exact().to(weight.device, weight.dtype)

        return self._used.get((weight.dtype, weight.device), make)


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


class InstanceModulation(nn.Module):
    """Adaptive instance normalisation: γ · x̂ + β, where x̂ is x normalised over the pixels of each channel.

    γ and β come from a condition vector: one linear layer, and ``activation`` (None: none). Statistics are
    those of the input, when decoding too; eps is 1e-5. Under ``1+gamma`` the gain is 1 + γ, and the layer
    starts close to plain normalisation; not exactly there, or no gradient would reach the condition.
    """

    def __init__(
        self,
        condition_features: int,
        channels: int,
        *,
        activation: ActivationName | None = "gelu",
        gain: GainName = "gamma",
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(condition_features, 2 * channels)
        self.activation = nn.Identity() if activation is None else make_activation(activation)
        self.offset = 1.0 if gain == "1+gamma" else 0.0
        if gain == "1+gamma":
            nn.init.normal_(self.linear.weight, std=_SMALL_STD)
            nn.init.zeros_(self.linear.bias)

    def forward(self, feature_NCHW: Tensor, condition_NF: Tensor) -> Tensor:
        """Return features of the same shape; ``condition_NF`` holds one vector a sample."""
        # Gains stay in at least float32 under automatic mixed precision, as normalisation layers keep them.
        exact = torch.promote_types(feature_NCHW.dtype, torch.float32)
        parts: Tensor = self.activation(self.linear(condition_NF)).to(exact)
        gain_NC, shift_NC = parts.chunk(2, dim=1)
        gain_NC = gain_NC + self.offset
        count, channels, height, width = feature_NCHW.shape
        if height * width == 1:
            # A single pixel equals its mean, so x̂ is 0.
            return (feature_NCHW - feature_NCHW) + shift_NC.to(feature_NCHW.dtype).view(-1, channels, 1, 1)
        # Samples fold into channels: batch normalisation then has one mean, gain and shift for each of both.
        folded = feature_NCHW.reshape(1, count * channels, height, width)
        out = F.batch_norm(
            folded, None, None, gain_NC.reshape(-1), shift_NC.reshape(-1), training=True, eps=_INSTANCE_EPS
        )
        return out.reshape(count, channels, height, width)


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
