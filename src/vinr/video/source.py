"""Reads a video file, a folder of images or raw YUV as uint8 RGB frames, edited and in order.

::

    file ── libav ─┐
    folder ────────┼─> upright rgb_HWC ── Edit: crop, resize ──> FrameTensor rgb_NCHW
    raw .yuv ──────┘

Axes: N frames, C colour channels (red, green, blue), H rows, W columns.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Final, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vinr.errors import InputError, UsageError, plural
from vinr.video.edit import Edit
from vinr.video.images import FolderInput
from vinr.video.names import clip_name
from vinr.video.spec import Audio, ColorSpec, Timeline, VideoSpec
from vinr.video.stream import StreamInput

RAW_SUFFIX: Final = ".yuv"
# Beauty_1920x1080_120fps_420_8bit_YUV.yuv and foreman_352x288_29.97.yuv, but not clip_352x288_10bit.yuv.
RAW_NAME: Final = re.compile(
    r"(?<!\d)(\d{1,5})x(\d{1,5})_(\d{1,4}(?:\.\d{1,3})?)(?:fps|hz)?(?![\d.]*\d)", re.IGNORECASE
)


class FrameInput(Protocol):
    """Decoded originals, upright, before any edit."""

    path: Path
    num_frames: int
    height: int
    width: int
    color: ColorSpec

    def timeline(self, first: int, stop: int) -> Timeline:
        """Return when frames ``first`` ≤ i < ``stop`` are shown, the first of them at 0."""
        ...

    def inspect(self, first: int, stop: int) -> tuple[str, ...]:
        """Return lines for the user about frames ``first`` ≤ i < ``stop``; InputError if one is cut off."""
        ...

    def decode(self, first: int) -> Iterator[NDArray[np.uint8]]:
        """Yield frames ``first``, ``first`` + 1, … as uint8 rgb_HWC."""
        ...

    def audio(self, first: int, stop: int) -> Audio | None:
        """Return the audio of those frames, ``None`` if there is none."""
        ...


@dataclass(frozen=True)
class FrameTensor:
    """Frames held in memory, a :class:`~vinr.video.spec.FrameSource`.

    ``rgb_NCHW`` is uint8 with ``spec.num_frames`` frames of ``spec.height`` × ``spec.width``.
    """

    rgb_NCHW: Tensor
    spec: VideoSpec

    def __post_init__(self) -> None:
        expected = (self.spec.num_frames, 3, self.spec.height, self.spec.width)
        if self.rgb_NCHW.dtype != torch.uint8 or tuple(self.rgb_NCHW.shape) != expected:
            raise ValueError(f"frames must be uint8 {expected}, got {self}")

    def frames(self, index_N: Tensor) -> Tensor:
        """Return uint8 rgb_NCHW of frames ``index_N`` (int64).

        Raises
        ------
        IndexError
            If an index is not in 0 … ``spec.num_frames`` − 1.
        """
        outside_N = (index_N < 0) | (index_N >= self.spec.num_frames)
        if bool(outside_N.any()):
            raise IndexError(f"frame {int(index_N[outside_N][0])} of {self.spec.num_frames}")
        return self.rgb_NCHW[index_N]

    def __repr__(self) -> str:
        return f"FrameTensor({self.rgb_NCHW.dtype} {tuple(self.rgb_NCHW.shape)}, {self.spec})"


class VideoReader:
    """A video that is read from front to back, after its edit; a context manager. See :func:`open_video`.

    ``spec`` and ``timeline`` describe the frames as read; ``original`` is (rows, columns) upright, before the
    edit; ``edit`` is the edit with its end filled in; ``name`` is the file's or folder's, without its suffix
    and without characters that a clip's name may not have.
    """

    def __init__(self, frame_input: FrameInput, edit: Edit) -> None:
        self._input = frame_input
        self._first, self._stop = edit.frame_range(frame_input.num_frames)
        self.edit = replace(edit, first_frame=self._first, stop_frame=self._stop)
        self.name = clip_name(Path(os.path.realpath(frame_input.path)).stem)
        self.original = (frame_input.height, frame_input.width)
        self._notes = frame_input.inspect(self._first, self._stop)
        self.timeline = frame_input.timeline(self._first, self._stop)
        height, width = edit.output_size(*self.original)
        self.spec = VideoSpec(
            num_frames=self._stop - self._first,
            height=height,
            width=width,
            frame_rate=self.timeline.frame_rate,
            color=frame_input.color,
        )
        self._decoder: Generator[NDArray[np.uint8]] | None = None
        self._position = 0

    def read(self, first: int = 0, stop: int | None = None) -> FrameTensor:
        """Return frames ``first`` ≤ i < ``stop`` (to the end if ``None``), counted after the edit.

        A call that begins where the last one stopped continues decoding there; any other seeks.

        Raises
        ------
        IndexError
            If the range is empty or reaches outside the video.
        InputError
            If a frame is damaged or missing.
        """
        stop = self.spec.num_frames if stop is None else stop
        if not 0 <= first < stop <= self.spec.num_frames:
            raise IndexError(f"frames {first}:{stop} of {self.spec.num_frames}")
        spec = replace(self.spec, num_frames=stop - first, span_lengths=())
        rgb_NCHW = np.empty((spec.num_frames, 3, spec.height, spec.width), dtype=np.uint8)
        decoder = self._decode_from(self._first + first)
        # Straight into one array: a list of frames would take twice the memory.
        for number, rgb_HWC in enumerate(islice(decoder, spec.num_frames)):
            rgb_NCHW[number] = self.edit.apply(rgb_HWC).transpose(2, 0, 1)
            self._position += 1
        if self._position == self._input.num_frames:
            self._finish()
        return FrameTensor(torch.from_numpy(rgb_NCHW), spec)

    def frames(self, index_N: Tensor) -> Tensor:
        """Return uint8 rgb_NCHW of frames ``index_N`` (int64); fast where they follow those read last.

        Raises
        ------
        IndexError, InputError
            As from :meth:`read`.
        """
        first, count = int(index_N[0]), len(index_N)
        if torch.equal(index_N, torch.arange(first, first + count)):
            return self.read(first, first + count).rgb_NCHW
        return torch.cat([self.read(index, index + 1).rgb_NCHW for index in index_N.tolist()])

    def audio(self) -> Audio | None:
        """Return the audio of the frames, ``None`` if there is none."""
        return self._audio

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user, such as that the file may be cut short; usually none."""
        return self._notes

    @property
    def has_audio(self) -> bool:
        """Whether the frames have audio."""
        return self._audio is not None

    @cached_property
    def _audio(self) -> Audio | None:
        return self._input.audio(self._first, self._stop)

    def close(self) -> None:
        """Stop decoding and close the file."""
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _decode_from(self, index: int) -> Iterator[NDArray[np.uint8]]:
        if self._decoder is None or self._position != index:
            self.close()
            self._decoder = self._generate(index)
            self._position = index
        return self._decoder

    def _generate(self, index: int) -> Generator[NDArray[np.uint8]]:
        yield from self._input.decode(index)

    def _finish(self) -> None:
        """Ask the decoder for one more frame after the last, so that it can report a wrong count."""
        assert self._decoder is not None
        next(self._decoder, None)
        self.close()


def open_video(
    path: str | Path,
    *,
    crop: tuple[int, int] | None = None,
    resize: tuple[int, int] | None = None,
    frames: tuple[int | None, int | None] | None = None,
    edit: Edit | None = None,
) -> VideoReader:
    """Open a video, to be edited as it is read.

    Parameters
    ----------
    path
        Any file that libav opens (mp4, mkv, webm, mov, y4m, …), a folder of images in the order of their
        names, or raw planar 8-bit 4:2:0 (``.yuv``) with size and rate in its name:
        ``beauty_1920x1080_120fps.yuv``.
    crop
        (rows, columns) of the centred part to keep.
    resize
        (rows, columns) after that: block averages if it shrinks by whole factors, else bicubic.
    frames
        First frame, and the frame before which to stop; ``None`` for start and end.
    edit
        All three at once, as in ``VideoReader.edit``; not together with the others.

    Raises
    ------
    InputError
        If the input is missing, empty, cut short, damaged, or of an unsupported format.
    UsageError
        If crop or frame range do not fit the video.
    """
    if edit is None:
        first, stop = frames or (None, None)
        edit = Edit(crop, resize, first or 0, stop)
    elif (crop, resize, frames) != (None, None, None):
        raise UsageError("use either an edit, or crop, resize and frames, not both")
    path = Path(path)
    return VideoReader(_open_input(path), edit)


def _open_input(path: Path) -> FrameInput:
    if path.is_dir():
        return FolderInput(path)
    if path.suffix.lower() == RAW_SUFFIX and path.is_file():
        return _open_raw(path)
    return StreamInput(path)


def _open_raw(path: Path) -> StreamInput:
    """Open raw planar 8-bit 4:2:0 video: nothing but samples, so the name must state size and rate."""
    name = RAW_NAME.search(path.stem)
    if name is None:
        raise InputError(
            f"{path}: raw video needs size and rate in its name, such as clip_1920x1080_120fps.yuv"
        )
    if re.search(r"(9|1\d)bit|422|444", path.stem[name.end() :], re.IGNORECASE):
        raise InputError(f"{path}: by its name not 8-bit 4:2:0, the only raw format that can be read")
    width, height, rate = int(name[1]), int(name[2]), _exact_rate(name[3])
    num_bytes = path.stat().st_size
    # Y at full size, Cb and Cr at half of it in both directions, rounded up.
    frame_bytes = width * height + 2 * ((width + 1) // 2) * ((height + 1) // 2)
    if min(width, height) < 1 or rate <= 0 or num_bytes == 0 or num_bytes % frame_bytes:
        frames = f"whole {width}x{height} 4:2:0 frames of {frame_bytes} bytes"
        raise InputError(f"{path}: {plural(num_bytes, 'byte')} are not {frames}")
    options = {"video_size": f"{width}x{height}", "pixel_format": "yuv420p", "framerate": str(rate)}
    return StreamInput(path, format_name="rawvideo", options=options)


def _exact_rate(text: str) -> Fraction:
    """Return frames per second; 23.976, 29.97 and 59.94 stand for 24, 30 and 60 times 1000/1001."""
    rate = Fraction(text)
    ntsc = Fraction(round(rate) * 1000, 1001)
    return ntsc if rate.denominator != 1 and abs(rate - ntsc) < Fraction(1, 100) else rate
