"""What a fit is for: which pixels it sees, what it compares with, and what the other frames get.

::

    source ── target ──> frames of the loss, each pixel times its weight
           └─ visible ─> frames that encoders, keyframes and neighbours may see

Nothing else of the source reaches the network, so what ``target`` hides or weighs 0 and ``visible`` replaces
cannot leak into it.

Tasks other than :class:`Reconstruct` are defined in :mod:`vinr.tasks`.

Axes: N frames of a batch, H rows, W columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from vinr.models import VideoModel
from vinr.video.spec import FrameSource, VideoSpec


class Task(ABC):
    """What a fit is for. The loop asks these questions and knows no task by name."""

    @abstractmethod
    def describe(self) -> str:
        """Return what tells this task from others; a checkpoint of another task is refused."""

    @abstractmethod
    def training_frames(self, spec: VideoSpec) -> Tensor:
        """Return the frames (int64, rising) that an epoch visits."""

    @abstractmethod
    def target(self, source: FrameSource) -> FrameSource:
        """Return what the loss compares frames with."""

    @abstractmethod
    def visible(self, source: FrameSource) -> FrameSource:
        """Return what an encoder may see of :meth:`target`: held-out pixels replaced."""

    @abstractmethod
    def weight(self, index_N: Tensor) -> Tensor | None:
        """Return weight_N1HW in [0, 1] of each pixel in the loss, or None where all count fully."""

    @abstractmethod
    def complete(self, model: VideoModel) -> None:
        """Give frames that were not trained on their latents, once the fit has ended."""


class Reconstruct(Task):
    """Represent every pixel of every frame."""

    def describe(self) -> str:
        """See :meth:`Task.describe`."""
        return "reconstruct"

    def training_frames(self, spec: VideoSpec) -> Tensor:
        """All frames."""
        return torch.arange(spec.num_frames)

    def target(self, source: FrameSource) -> FrameSource:
        """The frames as they are."""
        return source

    def visible(self, source: FrameSource) -> FrameSource:
        """Everything."""
        return source

    def weight(self, index_N: Tensor) -> Tensor | None:
        """Every pixel counts fully."""
        return None

    def complete(self, model: VideoModel) -> None:
        """Every frame was trained on."""
