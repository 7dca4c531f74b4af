"""Quality and rate, each measure once, with its domain and averaging in its name.

Frames are red, green and blue together, without weights, in [0, 1] (levels divided by 255, or 1023). Every
measure of a clip states how it averages: PSNR *mean over frames* is what the papers print; PSNR *pooled* is
that of the mean squared error, always at most the former.

YUV-PSNR 6:1:1 is the codec community's: (6 · PSNR of Y + PSNR of U + PSNR of V) / 8 of Y'CbCr 4:2:0 of
their bit depth, made from the RGB frames with the reference's matrix and range (see :mod:`vinr.video.color`).

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import numpy as np
import torch
from torch import Tensor

from vinr.errors import InputError, format_frame, plural
from vinr.quality.measures import ms_ssim_per_frame as ms_ssim_with_window
from vinr.quality.measures import mse_per_frame, psnr_from_mse_db
from vinr.quality.record import Quality, psnr_of_mse_db
from vinr.video.color import ColorConverter, planes_of
from vinr.video.spec import (
    BitDepth,
    ColorSpec,
    FrameBatch,
    FrameSource,
    FrameStream,
    Levels,
    Planes,
    VideoSpec,
    depth_of,
    max_level,
    to_unit,
)

YUV_FORMATS: Final[dict[BitDepth, str]] = {8: "yuv420p", 10: "yuv420p10le"}
# Luma counts six times as much as either chroma, which have a quarter of its samples each.
YUV_WEIGHTS = (6, 1, 1)

MS_SSIM_WINDOW_OF_SIDE = ((160, 11), (64, 5))
"""Smaller sides above the first number are measured with the second; below, five scales do not fit."""


def psnr_per_frame_db(prediction_NCHW: Tensor, target_NCHW: Tensor) -> Tensor:
    """Return −10·log10(MSE + 1e-9) of each frame in dB, 90 for identical frames: Tensor[N]."""
    return psnr_from_mse_db(mse_per_frame(prediction_NCHW, target_NCHW))


def mean_frame_psnr_db(prediction_NCHW: Tensor, target_NCHW: Tensor) -> float:
    """Return the mean over frames of their PSNR in dB."""
    return float(psnr_per_frame_db(prediction_NCHW, target_NCHW).mean())


def pooled_psnr_db(prediction_NCHW: Tensor, target_NCHW: Tensor) -> float:
    """Return the PSNR in dB of the squared error averaged over all frames."""
    return float(psnr_from_mse_db(mse_per_frame(prediction_NCHW, target_NCHW).mean()))


def ms_ssim_window(height: int, width: int) -> int | None:
    """Return the side of the Gaussian window for MS-SSIM of such frames.

    11 where the smaller side is above 160, 5 (as in HiNeRV) above 64, else None: no room for five scales.
    """
    # Five scales halve the frame four times, and the window has to fit into the last: (11 - 1) · 2⁴ = 160.
    for side, window in MS_SSIM_WINDOW_OF_SIDE:
        if min(height, width) > side:
            return window
    return None


def ms_ssim_per_frame(prediction_NCHW: Tensor, target_NCHW: Tensor) -> Tensor | None:
    """Return the MS-SSIM of each frame, 0 to 1: Tensor[N]; None where :func:`ms_ssim_window` is None."""
    window = ms_ssim_window(*prediction_NCHW.shape[2:])
    return None if window is None else ms_ssim_with_window(prediction_NCHW, target_NCHW, window=window)


def bits_per_pixel(num_bytes: int, num_pixels: int) -> float:
    """Return 8 · bytes of the file / (frames · rows · columns)."""
    return 8 * num_bytes / num_pixels


def kilobits_per_second(num_bytes: int, seconds: float) -> float:
    """Return thousands of bits of the file a second of video."""
    return 8 * num_bytes / seconds / 1000


def yuv_psnr_611_db(mse_of_planes: Sequence[float], *, white: int = 255) -> float:
    """Return (6 · PSNR_Y + PSNR_U + PSNR_V) / 8 in dB of mean squared errors of samples 0 to ``white``."""
    # psnr_from_mse_db takes values in [0, 1]: samples are 255 times as large, their squares 255² times.
    psnr_db = psnr_from_mse_db(torch.tensor(mse_of_planes, dtype=torch.float64) / white**2)
    weight = torch.tensor(YUV_WEIGHTS, dtype=torch.float64)
    return float((weight * psnr_db).sum() / weight.sum())


class YuvPsnrMeter:
    """Measures YUV-PSNR 6:1:1 of a clip frame by frame; ``color`` is the reference's."""

    def __init__(self, color: ColorSpec) -> None:
        self._converter = ColorConverter(color)
        self._mse: list[tuple[float, ...]] = []
        self._white = 255

    def planes(self, rgb_NCHW: Tensor) -> list[Planes]:
        """Return the 4:2:0 planes of frames, at their bit depth."""
        depth = depth_of(rgb_NCHW)
        self._white = max_level(depth)
        # The converter takes images as they lie in memory: rows, columns, colours side by side.
        frames_NHWC = rgb_NCHW.permute(0, 2, 3, 1).cpu().contiguous().numpy()
        # Y (H, W), U and V (H/2, W/2), rounded up, of each frame.
        return [planes_of(self._converter.from_rgb(rgb_HWC, YUV_FORMATS[depth])) for rgb_HWC in frames_NHWC]

    def add(self, decoded: Sequence[Planes], reference: Sequence[Planes]) -> None:
        """Take the planes of as many frames of each, of equal sizes."""
        for frame, original in zip(decoded, reference, strict=True):
            sizes, original_sizes = list(map(np.shape, frame)), list(map(np.shape, original))
            if sizes != original_sizes:
                raise ValueError(f"plane sizes differ: {sizes}, {original_sizes}")
            self._mse.append(tuple(map(_mse_of_planes, frame, original)))

    def mean_frame_psnr_db(self) -> float:
        """Return the mean over frames of their 6:1:1 PSNR in dB."""
        return fmean(yuv_psnr_611_db(mse, white=self._white) for mse in self._mse)

    def pooled_psnr_db(self) -> float:
        """Return the 6:1:1 PSNR in dB of squared errors averaged over all frames, plane by plane."""
        # (N, 3) ─> (3,): planes have different sizes, so that each is averaged by itself.
        return yuv_psnr_611_db(np.mean(self._mse, axis=0).tolist(), white=self._white)


def _mse_of_planes(plane: Levels, original: Levels) -> float:
    # Unsigned differences would wrap around at 0.
    return float(np.square(np.subtract(plane, original, dtype=np.float64)).mean())


@dataclass(frozen=True)
class ClipQuality:
    """Quality of each frame of a clip against its reference, both of one bit depth; the rest is made from it.

    ``per_frame_mse``: mean squared errors, colours in [0, 1]. MS-SSIM is None, with its window, where the
    frames are too small for it. The figures of Y'CbCr (6:1:1, mean over frames and pooled) are None where
    they were not asked for.
    """

    per_frame_mse: tuple[float, ...]
    per_frame_ms_ssim: tuple[float, ...] | None
    ms_ssim_window: int | None
    yuv_psnr_db: float | None = None
    pooled_yuv_psnr_db: float | None = None

    def __post_init__(self) -> None:
        if not self.per_frame_mse:
            raise ValueError("a clip has at least one frame")
        if (self.per_frame_ms_ssim is None) != (self.ms_ssim_window is None):
            raise ValueError("MS-SSIM and its window go together")
        if self.per_frame_ms_ssim is not None and len(self.per_frame_ms_ssim) != self.num_frames:
            raise ValueError(f"{self.num_frames} frames, {len(self.per_frame_ms_ssim)} values of MS-SSIM")

    def part(self, first: int, stop: int) -> Quality:
        """Return the quality of frames ``first`` … ``stop`` − 1 together."""
        ms_ssim = self.per_frame_ms_ssim
        in_part = None if ms_ssim is None else ms_ssim[first:stop]
        return Quality.of(self.per_frame_mse[first:stop], in_part, self.ms_ssim_window)

    @property
    def whole(self) -> Quality:
        """The quality of all frames together."""
        return self.part(0, self.num_frames)

    @property
    def num_frames(self) -> int:
        """How many frames were measured."""
        return len(self.per_frame_mse)

    @property
    def per_frame_psnr_db(self) -> tuple[float, ...]:
        """PSNR of each frame, dB."""
        return tuple(map(psnr_of_mse_db, self.per_frame_mse))

    @property
    def psnr_db(self) -> float:
        """Mean over frames of their PSNR, dB."""
        return self.whole.psnr_db

    @property
    def pooled_psnr_db(self) -> float:
        """PSNR of the mean squared error, dB."""
        return self.whole.pooled_psnr_db

    @property
    def ms_ssim(self) -> float | None:
        """Mean over frames of their MS-SSIM."""
        return self.whole.ms_ssim


class ClipQualityMeter:
    """Measures a clip a few frames at a time, in order; with ``color``, the reference's, also its Y'CbCr."""

    def __init__(self, color: ColorSpec | None = None) -> None:
        self._yuv = None if color is None else YuvPsnrMeter(color)
        self._mse: list[float] = []
        self._ms_ssim: list[float] = []
        self._size: torch.Size | None = None

    def add(
        self, decoded_NCHW: Tensor, reference_NCHW: Tensor, *, planes: Sequence[Planes] | None = None
    ) -> None:
        """Take frames of equal shape and bit depth, the same in every call.

        ``planes`` are those of the decoded frames where the decoder has them; else RGB is converted.
        """
        if depth_of(decoded_NCHW) != depth_of(reference_NCHW):
            raise ValueError(f"bit depths differ: {decoded_NCHW.dtype} and {reference_NCHW.dtype}")
        size = decoded_NCHW.shape[1:]
        if reference_NCHW.shape != decoded_NCHW.shape or self._size not in (None, size):
            raise ValueError(
                f"frame shapes differ: {tuple(decoded_NCHW.shape)}, {tuple(reference_NCHW.shape)}, "
                f"before {self._size and tuple(self._size)}"
            )
        self._size = size
        # PSNR is exact in float64; MS-SSIM would be slow there, and float32 gives it to 1e-6.
        mse_N = mse_per_frame(to_unit(decoded_NCHW, torch.float64), to_unit(reference_NCHW, torch.float64))
        self._mse += mse_N.tolist()
        ms_ssim_N = ms_ssim_per_frame(to_unit(decoded_NCHW), to_unit(reference_NCHW))
        if ms_ssim_N is not None:
            self._ms_ssim += ms_ssim_N.tolist()
        if self._yuv is not None:
            decoded_planes = self._yuv.planes(decoded_NCHW) if planes is None else planes
            self._yuv.add(decoded_planes, self._yuv.planes(reference_NCHW))

    def quality(self) -> ClipQuality:
        """Return the quality of all frames so far (at least one)."""
        if self._size is None:
            raise ValueError("no frame was measured yet")
        return ClipQuality(
            per_frame_mse=tuple(self._mse),
            per_frame_ms_ssim=tuple(self._ms_ssim) or None,
            ms_ssim_window=ms_ssim_window(*self._size[1:]),
            yuv_psnr_db=None if self._yuv is None else self._yuv.mean_frame_psnr_db(),
            pooled_yuv_psnr_db=None if self._yuv is None else self._yuv.pooled_psnr_db(),
        )


@torch.no_grad()
def compare(
    decoded: FrameStream | FrameSource,
    reference: FrameStream | FrameSource,
    *,
    batch_size: int = 4,
    yuv: bool = False,
    on_frame: Callable[[int, int], None] | None = None,
) -> ClipQuality:
    """Return the quality of ``decoded`` against ``reference``, frame by frame.

    Parameters
    ----------
    decoded, reference
        Streams, which are read once and together; of sources all frames are read in order.
    batch_size
        Frames measured at a time.
    yuv
        Whether to measure YUV-PSNR 6:1:1 too: on the planes of decoded frames that have them, so that a codec
        is measured on what it decodes, else on planes made from RGB.
    on_frame
        Called after each frame with the number of frames measured so far, and of all frames.

    Raises
    ------
    InputError
        If the two differ in bit depth, frame size or number of frames, or one of them yields other frames
        than it announced: fewer, larger, or in another order.
    UsageError
        If ``batch_size`` is below 1.
    """
    decoded, reference = _as_stream(decoded), _as_stream(reference)
    got, wanted = decoded.spec, reference.spec
    if got.bit_depth != wanted.bit_depth:
        raise InputError(
            f"cannot compare frames of {got.bit_depth} bits with a reference of {wanted.bit_depth}; "
            "read or round both to one bit depth"
        )
    if (got.num_frames, got.height, got.width) != (wanted.num_frames, wanted.height, wanted.width):
        raise InputError(
            f"cannot compare {plural(got.num_frames, 'frame')} of {format_frame(got.height, got.width)} "
            f"with a reference of "
            f"{plural(wanted.num_frames, 'frame')} of {format_frame(wanted.height, wanted.width)}; give "
            f"the same frames and size"
        )
    meter = ClipQualityMeter(wanted.color if yuv else None)
    num_done = 0
    for decoded_batch, reference_batch in zip(
        decoded.batched(batch_size), reference.batched(batch_size), strict=False
    ):
        # A stream that ends early leaves a shorter batch, or none: num_done tells below.
        if len(decoded_batch) != len(reference_batch):
            break
        for batch in (decoded_batch, reference_batch):
            _check_order(batch, num_done, got)
        decoded_NCHW = decoded_batch.rgb_NCHW
        # Frames decoded on a GPU are measured there: the figures alone come back.
        reference_NCHW = reference_batch.rgb_NCHW.to(decoded_NCHW.device)
        meter.add(decoded_NCHW, reference_NCHW, planes=decoded_batch.planes if yuv else None)
        for _ in range(len(decoded_batch)):
            num_done += 1
            if on_frame is not None:
                on_frame(num_done, got.num_frames)
    if num_done != got.num_frames:
        raise InputError(
            f"a stream ends after {num_done} of {got.num_frames} frames, or yields more; "
            "it can be read once only"
        )
    return meter.quality()


def _check_order(batch: FrameBatch, first: int, spec: VideoSpec) -> None:
    """Raise InputError unless ``batch`` holds the frames ``first`` … of a video of that size."""
    expected = list(range(first, first + len(batch)))
    if batch.index_N.tolist() != expected:
        raise InputError(
            f"a stream yields frames {batch.index_N.tolist()} where frames {expected} were due; "
            "a stream yields all frames once, in order"
        )
    if batch.rgb_NCHW.shape[2:] != (spec.height, spec.width):
        height, width = batch.rgb_NCHW.shape[2:]
        raise InputError(
            f"a stream yields frames of {format_frame(height, width)}, announced were frames of "
            f"{spec.width}×{spec.height}"
        )


def _as_stream(frames: FrameStream | FrameSource) -> FrameStream:
    if not isinstance(frames, (FrameStream, FrameSource)):
        raise TypeError(f"compare takes a FrameStream or a FrameSource, not {type(frames).__name__}")
    return frames if isinstance(frames, FrameStream) else FrameStream.of(frames)
