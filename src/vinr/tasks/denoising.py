"""How much noise a network leaves out when it is fitted to nothing but a noisy clip.

Axes: N frames of a batch, T frames of the video.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from vinr.config import Preset
from vinr.fit import Event, Task, fit, ignore
from vinr.models import VideoModel
from vinr.tasks.frames import FittedFrames, plain_fit, psnr_of_frames_db
from vinr.tasks.noise import Noise, NoisyFrames
from vinr.video.spec import FrameSource, VideoSpec


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


@dataclass(frozen=True)
class DenoisingScore:
    """PSNR against the clean clip: of the noisy one (``input_psnr_db``), and of the network fitted to that.

    ``noisy_psnr_db`` is the network's against what it was fitted to. Means over frames of rounded colours.
    """

    noise: Noise
    psnr_db: float
    input_psnr_db: float
    noisy_psnr_db: float
    num_epochs: float
    seconds: float


def measure_denoising(
    source: FrameSource,
    preset: Preset,
    noise: Noise,
    *,
    device: str = "cpu",
    on_event: Callable[[Event], None] = ignore,
) -> DenoisingScore:
    """Put ``noise`` on ``source``, fit the result, and compare with the clean frames.

    ``preset`` needs a complete architecture (:func:`vinr.encoding.plan.choose_preset`).
    """
    task = Denoise(noise)
    result = fit(source, plain_fit(preset), task, device=device, on_event=on_event)
    # Noise depends on the number of a frame alone: this is the clip that the fit saw.
    fitted, noisy = FittedFrames(result.model, source.spec), task.target(source)
    # clean ──noise──> noisy ──fit──> fitted       psnr        fitted against clean
    #   └────────────────┴──────────────┘          input       noisy against clean
    #                                              noisy       fitted against noisy
    every_T = torch.arange(source.spec.num_frames)
    return DenoisingScore(
        noise=noise,
        psnr_db=fmean(psnr_of_frames_db(fitted, source, every_T)),
        input_psnr_db=fmean(psnr_of_frames_db(noisy, source, every_T)),
        noisy_psnr_db=fmean(psnr_of_frames_db(fitted, noisy, every_T)),
        num_epochs=result.num_epochs,
        seconds=result.seconds,
    )
