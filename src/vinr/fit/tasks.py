"""Which pixels a fit sees, and which are scored."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from vinr.video.spec import FrameSource, VideoSpec

__all__ = ["Reconstruct", "Task"]


class Task(ABC):
    """What a fit is for. The loop asks these questions and knows no task by name."""

    @abstractmethod
    def training_frames(self, spec: VideoSpec) -> Tensor:
        """Return the frames (int64, rising) that an epoch visits."""

    @abstractmethod
    def visible(self, source: FrameSource) -> FrameSource:
        """Return the source as an encoder may see it (held-out pixels removed)."""

    @abstractmethod
    def weight(self, index_N: Tensor) -> Tensor | None:
        """Return weight_N1HW in [0, 1] of each pixel in the loss, or None where all count fully."""


class Reconstruct(Task):
    """Represent every pixel of every frame."""

    def training_frames(self, spec: VideoSpec) -> Tensor:
        """All frames."""
        return torch.arange(spec.num_frames)

    def visible(self, source: FrameSource) -> FrameSource:
        """Everything."""
        return source

    def weight(self, index_N: Tensor) -> Tensor | None:
        """Every pixel counts fully."""
        return None
