"""Features normalised and modulated: gain and shift of each channel from a condition vector.

::

    feature (C0, h, w) ──> [instance norm, · γ + β ──> convolutions, depth to space s, act] per stage
    condition ──> linear, act ─────────────┘                                               ──> 1×1 conv

Axes: N frames of a batch, F features, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vinr.models.layers.blocks import ActivationName, TwoStepBlock, UpsampleBlock, make_activation

GainName = Literal["gamma", "1+gamma"]

INSTANCE_EPS = 1e-5
SMALL_STD = 0.02


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
            nn.init.normal_(self.linear.weight, std=SMALL_STD)
            nn.init.zeros_(self.linear.bias)

    def forward(self, feature_NCHW: Tensor, condition_NF: Tensor) -> Tensor:
        """Return features of the same shape; ``condition_NF`` holds one vector a sample."""
        # Gains stay in at least float32 under automatic mixed precision, as normalisation layers keep them.
        exact = torch.promote_types(feature_NCHW.dtype, torch.float32)
        parts: Tensor = self.activation(self.linear(condition_NF)).to(exact)
        # The first half of the outputs are gains, the second half shifts.
        gain_NC, shift_NC = parts.chunk(2, dim=1)
        gain_NC = gain_NC + self.offset
        count, channels, height, width = feature_NCHW.shape
        if height * width == 1:
            # A single pixel equals its mean, so x̂ is 0.
            return (feature_NCHW - feature_NCHW) + shift_NC.to(feature_NCHW.dtype).view(-1, channels, 1, 1)
        # Samples fold into channels: batch normalisation then has one mean, gain and shift for each of both.
        folded = feature_NCHW.reshape(1, count * channels, height, width)
        out = F.batch_norm(
            folded, None, None, gain_NC.reshape(-1), shift_NC.reshape(-1), training=True, eps=INSTANCE_EPS
        )
        return out.reshape(count, channels, height, width)


class PlainNorm(nn.Module):
    """Instance normalisation without parameters: each channel of a frame gets mean 0 and variance 1."""

    def forward(self, feature_NCHW: Tensor, condition_NF: Tensor | None) -> Tensor:
        """Return features of the same shape, zeros where there is only one pixel; no condition is needed."""
        exact_NCHW = feature_NCHW.to(torch.promote_types(feature_NCHW.dtype, torch.float32))
        variance_NC11, mean_NC11 = torch.var_mean(exact_NCHW, (2, 3), correction=0, keepdim=True)
        normed_NCHW = (exact_NCHW - mean_NC11) * torch.rsqrt(variance_NC11 + INSTANCE_EPS)
        return normed_NCHW.to(feature_NCHW.dtype)


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
