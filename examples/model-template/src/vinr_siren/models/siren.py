"""SIREN: a network of sines from place and time to a colour.

V. Sitzmann, J. N. P. Martel, A. W. Bergman, D. B. Lindell, G. Wetzstein, "Implicit Neural Representations
with Periodic Activation Functions", NeurIPS 2020, https://arxiv.org/abs/2006.09661.

::

    row, column, time in [-1, 1] ──> sin(ω·linear) ──> sin(ω·linear) per hidden layer ──> linear ──> sigmoid

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from vinr.errors import UsageError
from vinr.models import IndexModel, ModelConfig
from vinr.video.spec import Query, VideoSpec

NUM_HIDDEN = 3
Width = Annotated[int, Field(ge=1, le=4096)]


class SirenConfig(ModelConfig):
    """Architecture of SIREN. It is read from files of strangers: every number and list is bounded."""

    # What `--params` may change by small steps to come closer to a size.
    size_fields: ClassVar[tuple[str, ...]] = ("widths",)

    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=16)] = Field(
        description="width of each hidden layer"
    )
    omega: float = Field(30.0, gt=0, le=1000, description="frequency of the sines")


class Siren(IndexModel):
    """SIREN (NeurIPS 2020): a network of sines from place and time to a colour."""

    Config = SirenConfig

    def __init__(self, config: SirenConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.config = config
        sizes = (3, *config.widths)
        self.hidden = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(sizes))
        self.head = nn.Linear(sizes[-1], 3)
        self._spread()

    @torch.no_grad()
    def _spread(self) -> None:
        """Draw weights as the paper does, so that every layer sees the whole range of its sine."""
        for number, layer in enumerate(self.hidden):
            inputs = layer.weight.shape[1]
            limit = 1 / inputs if number == 0 else math.sqrt(6 / inputs) / self.config.omega
            layer.weight.uniform_(-limit, limit)

    @classmethod
    def configure(cls, video: VideoSpec, *, width: float, settings: Mapping[str, Any]) -> SirenConfig:
        """Return a configuration; ``width`` is a dial with which the number of parameters rises."""
        return SirenConfig(**{"widths": (max(round(width), 1),) * NUM_HIDDEN, **settings})

    def coded_size(self) -> tuple[int, int]:
        """Return rows and columns that the network gives: those of the frame, as it needs no padding."""
        return self.video.height, self.video.width

    def decode(self, query: Query) -> Tensor:
        """Return float rgb_NCHW in [0, 1]."""
        if not query.grid.is_whole_frame:
            raise UsageError("Siren knows whole frames only: leave fit.patches at [1, 1]")
        # Everything is computed where the weights are, and as exactly: on a GPU, on `meta`, in float64.
        like = self.head.weight
        rows, columns = self.coded_size()
        row_H = torch.linspace(-1, 1, rows, device=like.device, dtype=like.dtype)
        column_W = torch.linspace(-1, 1, columns, device=like.device, dtype=like.dtype)
        # Time is in frames; exact in float64 until it lies in [-1, 1].
        time_N = (2 * query.time_N.double() / max(self.video.num_frames - 1, 1) - 1).to(like)
        time_NHW, row_NHW, column_NHW = torch.meshgrid(time_N, row_H, column_W, indexing="ij")
        feature_NHWC = torch.stack([row_NHW, column_NHW, time_NHW], dim=-1)
        for layer in self.hidden:
            feature_NHWC = torch.sin(self.config.omega * layer(feature_NHWC))
        rgb_NHWC: Tensor = torch.sigmoid(self.head(feature_NHWC))
        return rgb_NHWC.permute(0, 3, 1, 2)
