"""Fitted networks without a file: their frames, and how close these are to others, where it matters.

Axes: N frames of a batch, T frames of the video, C channels, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vinr.config import Preset
from vinr.device import exact_float32
from vinr.models import VideoModel
from vinr.quality.measures import psnr_from_mse_db
from vinr.video.spec import FrameSource, Query, VideoSpec, computable, to_levels, to_unit


def plain_fit(preset: Preset) -> Preset:
    """Return ``preset`` without its phases, which prepare for a file: here nothing is coded."""
    return preset.model_copy(update={"fit": preset.fit.model_copy(update={"phases": ()})})


class FittedFrames:
    """The frames of a fitted network; a :class:`~vinr.video.spec.FrameSource`.

    They are computed one at a time, as a decoder does, but nothing is quantised except the colours.
    """

    def __init__(self, model: VideoModel, spec: VideoSpec) -> None:
        self._model = model
        self.spec = spec

    def frames(self, index_N: Tensor) -> Tensor:
        """Return levels rgb_NCHW, on the CPU."""
        device = next(self._model.parameters()).device
        # One frame at a time: a frame of a batch may be rounded otherwise than the same frame alone.
        with torch.inference_mode(), exact_float32(device):
            queries = map(Query.of_frames, torch.split(index_N.to(device), 1))
            depth = self.spec.bit_depth
            return torch.cat([to_levels(self._model(query), depth).cpu() for query in queries])


class FilledFrames:
    """Frames of ``outside``, where masked those of ``inside``; a :class:`~vinr.video.spec.FrameSource`."""

    def __init__(self, outside: FrameSource, inside: FrameSource, mask_T1HW: Tensor) -> None:
        self._outside, self._inside, self._mask_T1HW = outside, inside, mask_T1HW
        self.spec = outside.spec

    def frames(self, index_N: Tensor) -> Tensor:
        """Return levels rgb_NCHW."""
        outside_NCHW, inside_NCHW = self._outside.frames(index_N), self._inside.frames(index_N)
        return torch.where(self._mask_T1HW[index_N], inside_NCHW, outside_NCHW)


class MaskedFrames:
    """Frames with masked pixels black."""

    def __init__(self, source: FrameSource, mask_T1HW: Tensor) -> None:
        self._source, self._mask_T1HW = source, mask_T1HW
        self.spec = source.spec

    def frames(self, index_N: Tensor) -> Tensor:
        """Return levels rgb_NCHW."""
        rgb_NCHW = self._source.frames(index_N)
        # Indices, mask and frames may be on three devices; one channel of mask serves all colours.
        mask_N1HW = self._mask_T1HW[index_N.to(self._mask_T1HW.device)]
        return computable(rgb_NCHW).masked_fill(mask_N1HW.to(rgb_NCHW.device), 0).view(rgb_NCHW.dtype)


def psnr_of_frames_db(
    decoded: FrameSource, reference: FrameSource, index_N: Tensor, mask_T1HW: Tensor | None = None
) -> tuple[float, ...]:
    """Return the PSNR of each frame of ``index_N`` in dB, as :func:`vinr.quality.clip.psnr_per_frame_db`.

    With a mask that of the pixels where it is True, of the frames that have such.
    """
    psnr_db = []
    for index in index_N.tolist():
        one_N = torch.tensor([index])
        pair = decoded.frames(one_N), reference.frames(one_N)
        error_NCHW = to_unit(pair[0], torch.float64) - to_unit(pair[1], torch.float64)
        if mask_T1HW is not None:
            # mask_T1HW[index] is (1, H, W): it chooses pixels of (1, H, W, C), all colours of each
            error_NCHW = error_NCHW.permute(0, 2, 3, 1)[mask_T1HW[index]]
        # A frame without such pixels has no PSNR; it is left out, so that means are of those that have one.
        if error_NCHW.numel():
            psnr_db.append(float(psnr_from_mse_db(error_NCHW.square().mean())))
    return tuple(psnr_db)
