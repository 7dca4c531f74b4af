"""What a fit is for: which pixels it sees, what it compares with, and what the other frames get.

::

    source ── target ──> frames of the loss, each pixel times its weight
           └─ visible ─> frames that encoders, keyframes and neighbours may see

Nothing else of the source reaches the network, so what ``target`` hides or weighs 0 and ``visible`` replaces
cannot leak into it.

Axes: N frames of a batch, T frames of the video, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vinr.errors import InputError, UsageError
from vinr.fit.neighbours import Neighbours, find_neighbours
from vinr.fit.noise import Noise, NoisyFrames
from vinr.models import HybridModel, VideoModel
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


@dataclass(frozen=True)
class Interpolate(Task):
    """Fit every ``every``-th frame of each clip, the first among them; hold the others out.

    Encoders find in the place of a held-out frame the mix of the trained frames around it, weighted by time,
    and after the fit its latents are that mix of theirs (Boosting-NeRV: the mean of both neighbours'). Frames
    behind the last trained one get what that has.

    Raises
    ------
    UsageError
        If ``every`` is below 2.
    """

    every: int = 2

    def __post_init__(self) -> None:
        if self.every < 2:
            raise UsageError(f"every {self.every}: fit every 2nd frame or fewer, so that some are held out")

    def describe(self) -> str:
        """See :meth:`Task.describe`."""
        return f"interpolate {self.every}"

    def training_frames(self, spec: VideoSpec) -> Tensor:
        """Every ``every``-th frame of each clip."""
        return self._is_trained(spec).nonzero().flatten()

    def held_out_frames(self, spec: VideoSpec) -> Tensor:
        """Return the frames (int64, rising) that are not trained on.

        Raises
        ------
        UsageError
            If there are none: every clip has one frame.
        """
        held_out_N = (~self._is_trained(spec)).nonzero().flatten()
        if not len(held_out_N):
            raise UsageError("clips of one frame have none to hold out; give clips of two frames or more")
        return held_out_N

    def neighbours(self, spec: VideoSpec) -> Neighbours:
        """Return the trained frames around each frame."""
        return find_neighbours(spec.span_lengths, self.training_frames(spec))

    def target(self, source: FrameSource) -> FrameSource:
        """The frames as they are; held-out ones are in no batch."""
        return source

    def visible(self, source: FrameSource) -> FrameSource:
        """Trained frames, and mixes of them."""
        return _MixedFrames(source, self.neighbours(source.spec))

    def weight(self, index_N: Tensor) -> Tensor | None:
        """Every pixel of a trained frame counts fully."""
        return None

    def complete(self, model: VideoModel) -> None:
        """Mix the latents of the trained frames."""
        _mix_latents(model, self.neighbours(model.video))

    def _is_trained(self, spec: VideoSpec) -> Tensor:
        place_T = torch.cat([torch.arange(length) for length in spec.span_lengths])
        return place_T % self.every == 0


@dataclass(frozen=True, eq=False)
class Inpaint(Task):
    """Leave masked pixels out: weight 0 in the loss, black to encoders (HNeRV).

    Every term of the loss compares both images with masked pixels black, so that windows of SSIM and waves of
    the Fourier transform that reach across a mask see the same there. A frame masked altogether is not
    trained on; its latents are mixed from those of its neighbours in time.

    Parameters
    ----------
    mask_T1HW
        Bool, True where a pixel is masked.

    Raises
    ------
    InputError
        If every pixel is masked; later, if the frames differ from the mask in number or size.
    """

    mask_T1HW: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        if self.mask_T1HW.dtype != torch.bool or self.mask_T1HW.ndim != 4 or self.mask_T1HW.shape[1] != 1:
            raise ValueError(f"a mask is bool (T, 1, H, W), got {self.mask_T1HW.dtype} {self._size}")
        if bool(self.mask_T1HW.all()):
            raise InputError("the mask covers every pixel of every frame: nothing is left to fit")

    @property
    def _size(self) -> tuple[int, ...]:
        return tuple(self.mask_T1HW.shape)

    def describe(self) -> str:
        """See :meth:`Task.describe`."""
        bits = np.packbits(self.mask_T1HW.cpu().numpy()).tobytes()
        return f"inpaint {self._size} {hashlib.sha256(bits).hexdigest()}"

    def training_frames(self, spec: VideoSpec) -> Tensor:
        """Frames that have a pixel left."""
        return (~self.mask_T1HW).flatten(1).any(1).nonzero().flatten()

    def target(self, source: FrameSource) -> FrameSource:
        """The frames as they are; masked pixels weigh nothing."""
        spec = source.spec
        if self._size != (spec.num_frames, 1, spec.height, spec.width):
            count, _, height, width = self._size
            raise InputError(
                f"the mask has {count} frames of {height}×{width}, the video {spec.num_frames} of "
                f"{spec.height}×{spec.width}; give a mask of the same size"
            )
        return source

    def visible(self, source: FrameSource) -> FrameSource:
        """The frames, masked pixels black."""
        return _MaskedFrames(source, self.mask_T1HW)

    def weight(self, index_N: Tensor) -> Tensor | None:
        """0 where masked, else 1."""
        mask_N1HW = self.mask_T1HW[index_N.to(self.mask_T1HW.device)]
        return (~mask_N1HW).to(index_N.device, torch.float32)

    def complete(self, model: VideoModel) -> None:
        """Mix latents for frames that are masked altogether."""
        trained_N = self.training_frames(model.video)
        _mix_latents(model, find_neighbours(model.video.span_lengths, trained_N))


@dataclass(frozen=True)
class Denoise(Task):
    """Fit a noisy copy of the clip, and nothing else: a small network has no room for noise (NeRV)."""

    noise: Noise

    def describe(self) -> str:
        """See :meth:`Task.describe`."""
        return f"denoise {self.noise}"

    def training_frames(self, spec: VideoSpec) -> Tensor:
        """All frames."""
        return torch.arange(spec.num_frames)

    def target(self, source: FrameSource) -> FrameSource:
        """The noisy frames; the same every time."""
        return NoisyFrames(source, self.noise)

    def visible(self, source: FrameSource) -> FrameSource:
        """All that is left: the noisy frames."""
        return source

    def weight(self, index_N: Tensor) -> Tensor | None:
        """Every pixel counts fully."""
        return None

    def complete(self, model: VideoModel) -> None:
        """Every frame was trained on."""


class _MixedFrames:
    """Each frame a mix of the trained frames around it; trained frames as they are."""

    def __init__(self, source: FrameSource, neighbours: Neighbours) -> None:
        self._source, self._neighbours = source, neighbours
        self.spec = source.spec

    def frames(self, index_N: Tensor) -> Tensor:
        """Return uint8 rgb_NCHW."""
        near = self._neighbours.of(index_N)
        before_NCHW = self._source.frames(near.before_T).float()
        after_NCHW = self._source.frames(near.after_T).float()
        return near.lerp(before_NCHW, after_NCHW).round().to(torch.uint8)


class _MaskedFrames:
    """Frames with masked pixels black."""

    def __init__(self, source: FrameSource, mask_T1HW: Tensor) -> None:
        self._source, self._mask_T1HW = source, mask_T1HW
        self.spec = source.spec

    def frames(self, index_N: Tensor) -> Tensor:
        """Return uint8 rgb_NCHW."""
        rgb_NCHW = self._source.frames(index_N)
        mask_N1HW = self._mask_T1HW[index_N.to(self._mask_T1HW.device)]
        return rgb_NCHW.masked_fill(mask_N1HW.to(rgb_NCHW.device), 0)


@torch.no_grad()
def _mix_latents(model: VideoModel, neighbours: Neighbours) -> None:
    """Replace the latents of frames that are no neighbours of themselves by mixes of those that are."""
    if not isinstance(model, HybridModel) or model.latents is None:
        return
    for value in model.latents.per_frame.values():
        before, after = value[neighbours.before_T], value[neighbours.after_T]
        value.copy_(neighbours.lerp(before, after))
