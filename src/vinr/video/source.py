"""Reads a video file, a folder of images or raw YUV as RGB frames, edited and in order.

::

    file ── libav ─┐
    folder ────────┼─> upright rgb_HWC ── Edit: crop, resize ──> FrameTensor rgb_NCHW
    raw .yuv ──────┘

Axes: N frames, C colour channels (red, green, blue), H rows, W columns.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import islice
from os import fspath
from pathlib import Path
from typing import BinaryIO, Final, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from vinr.errors import InputError, UsageError, argument
from vinr.units import SizeLike
from vinr.video.asked_edit import AskedEdit
from vinr.video.edit import Edit
from vinr.video.images import FRAME_RATE, FolderInput
from vinr.video.libav import UnknownFormatError, UnreadableError, VideoFile
from vinr.video.names import clip_name
from vinr.video.pictures import PicturesInput, has_several_pictures, is_photograph
from vinr.video.pipes import KeptPipe, is_pipe, pipe_name
from vinr.video.raw import DOUBTFUL_SUFFIXES, RAW_DEMUXER, describe_raw, is_raw
from vinr.video.reading import ReadOptions
from vinr.video.spec import TYPES, Audio, BitDepth, ColorSpec, Levels, Timeline, VideoSpec
from vinr.video.stream import StreamInput

ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class FrameInput(Protocol):
    """Decoded originals, upright, before any edit."""

    path: Path
    num_frames: int
    height: int
    width: int
    color: ColorSpec
    pixel_aspect: Fraction
    bit_depth: BitDepth

    def timeline(self, first: int, stop: int) -> Timeline:
        """Return when frames ``first`` ≤ i < ``stop`` are shown, the first of them at 0."""
        ...

    def inspect(self, first: int, stop: int) -> tuple[str, ...]:
        """Return lines for the user about frames ``first`` ≤ i < ``stop``; InputError if one is cut off."""
        ...

    def decode(self, first: int) -> Iterator[Levels]:
        """Yield frames ``first``, ``first`` + 1, … as rgb_HWC of ``bit_depth``."""
        ...

    def write_audio(
        self, first: int, stop: int, target: BinaryIO, on_note: Callable[[str], None]
    ) -> Fraction | None:
        """Write the audio of those frames to ``target``; return its start, as in :class:`Audio`.

        None if there is none. Tell of tracks that are left out.
        """
        ...


@dataclass(frozen=True)
class FrameTensor:
    """Frames held in memory, a :class:`~vinr.video.spec.FrameSource`.

    ``rgb_NCHW`` has ``spec.num_frames`` frames of ``spec.height`` × ``spec.width``: uint8, or uint16 where
    ``spec.bit_depth`` is 10.
    """

    rgb_NCHW: Tensor
    spec: VideoSpec

    def __post_init__(self) -> None:
        expected = (self.spec.num_frames, 3, self.spec.height, self.spec.width)
        dtype = TYPES[self.spec.bit_depth]
        if self.rgb_NCHW.dtype != dtype or tuple(self.rgb_NCHW.shape) != expected:
            raise ValueError(f"frames must be {dtype} {expected}, got {self}")

    def frames(self, index_N: Tensor) -> Tensor:
        """Return rgb_NCHW of frames ``index_N`` (int64).

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
    edit; ``edit`` is the edit with its end filled in; ``options`` are as given; ``name`` is the file's or
    folder's, without its suffix and without characters that a clip's name may not have.
    """

    def __init__(
        self,
        frame_input: FrameInput,
        edit: Edit,
        name: str,
        *,
        options: ReadOptions | None = None,
        notes: Sequence[str] = (),
        pipe: KeptPipe | None = None,
    ) -> None:
        self._input, self._pipe = frame_input, pipe
        self.options = options or ReadOptions()
        self._first, self._stop = edit.frame_range(frame_input.num_frames)
        self.edit = replace(edit, first_frame=self._first, stop_frame=self._stop)
        self.name = clip_name(name)
        self.original = (frame_input.height, frame_input.width)
        self._notes = *notes, *frame_input.inspect(self._first, self._stop)
        self._audio_notes: list[str] = []
        self.timeline = frame_input.timeline(self._first, self._stop)
        height, width = edit.output_size(*self.original)
        self.spec = VideoSpec(
            num_frames=self._stop - self._first,
            height=height,
            width=width,
            frame_rate=self.timeline.frame_rate,
            color=frame_input.color,
            pixel_aspect=edit.output_aspect(frame_input.pixel_aspect, *self.original),
            bit_depth=frame_input.bit_depth,
        )
        self._decoder: Generator[Levels] | None = None
        self._position = 0
        self._is_closed = False

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
        size = (spec.num_frames, 3, spec.height, spec.width)
        rgb_NCHW = np.empty(size, dtype=np.uint8 if spec.bit_depth == 8 else np.uint16)
        with self._naming():
            decoder = self._decode_from(self._first + first)
            # Straight into one array: a list of frames would take twice the memory.
            for number, rgb_HWC in enumerate(islice(decoder, spec.num_frames)):
                rgb_NCHW[number] = self.edit.apply(rgb_HWC).transpose(2, 0, 1)
                self._position += 1
            if self._position == self._input.num_frames:
                self._finish()
        return FrameTensor(torch.from_numpy(rgb_NCHW), spec)

    def frames(self, index_N: Tensor) -> Tensor:
        """Return rgb_NCHW of frames ``index_N`` (int64); fast where they follow those read last.

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

    def write_audio(self, target: BinaryIO) -> Fraction | None:
        """Write the audio of the frames to ``target``, an empty file that can seek, a packet at a time.

        Returns its start, as in :class:`Audio`; None if there is none.

        Raises
        ------
        InputError
            If it cannot be read, or has a codec that can be stored in no way.
        """
        notes: list[str] = []
        with self._naming():
            start = self._input.write_audio(self._first, self._stop, target, notes.append)
        self._audio_notes = notes
        return start

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user, such as that the file may be cut short; usually none."""
        return self._named(self._notes)

    @property
    def audio_notes(self) -> tuple[str, ...]:
        """Lines for the user about audio that is left out; usually none. They are known once it is read."""
        return self._named(self._audio_notes)

    @property
    def has_audio(self) -> bool:
        """Whether the frames have audio."""
        return self._audio is not None

    @cached_property
    def _audio(self) -> Audio | None:
        target = io.BytesIO()
        start = self.write_audio(target)
        return None if start is None else Audio(target.getvalue(), start)

    def close(self) -> None:
        """Stop decoding and close the file."""
        self._stop_decoding()
        if self._pipe is not None and not self._is_closed:
            self._pipe.close()
        self._is_closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _decode_from(self, index: int) -> Iterator[Levels]:
        if self._decoder is None or self._position != index:
            self._stop_decoding()
            self._decoder = self._generate(index)
            self._position = index
        return self._decoder

    def _generate(self, index: int) -> Generator[Levels]:
        yield from self._input.decode(index)

    def _finish(self) -> None:
        """Ask the decoder for one more frame after the last, so that it can report a wrong count."""
        assert self._decoder is not None
        next(self._decoder, None)
        self._stop_decoding()

    def _stop_decoding(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    def _named(self, notes: Sequence[str]) -> tuple[str, ...]:
        return tuple(notes) if self._pipe is None else tuple(map(self._pipe.rename, notes))

    def _naming(self) -> AbstractContextManager[None]:
        return nullcontext() if self._pipe is None else self._pipe.named()


def open_video(
    path: str | Path,
    *,
    crop: SizeLike | None = None,
    resize: SizeLike | None = None,
    frames: tuple[int | None, int | None] | None = None,
    edit: Edit | AskedEdit | None = None,
    options: ReadOptions | None = None,
) -> VideoReader:
    """Open a video, to be edited as it is read.

    Parameters
    ----------
    path
        Any file that libav opens (mp4, mkv, webm, mov, y4m, …); ``-`` for standard input, or another pipe; a
        folder of images in the order of their numbers; or raw video (``.yuv``) with size, rate and format in
        its name: ``beauty_1920x1080_120fps_420_8bit.yuv``.
    crop
        Size of the centred part to keep: (rows, columns), or as people write it (:class:`FrameSize`).
    resize
        Size after that, likewise: block averages if it shrinks by whole factors, else bicubic.
    frames
        First frame, and the frame before which to stop; ``None`` for start and end.
    edit
        All three at once, as in ``VideoReader.edit``; not together with the others.
    options
        What the file does not say, such as the size of raw video, or leaves open, such as one of several
        streams.

    Raises
    ------
    InputError
        If the input is missing, empty, cut short, damaged, or of an unsupported format.
    UsageError
        If crop, frame range or options do not fit the video.
    """
    if edit is None:
        first, stop = frames or (None, None)
        edit = AskedEdit(crop, resize, first or 0, stop)
    elif (crop, resize, frames) != (None, None, None):
        raise UsageError("use either an edit, or crop, resize and frames, not both")
    options, source = options or ReadOptions(), fspath(path)
    if not source:  # pathlib takes it for the current folder
        raise InputError("'': the name is empty; give a video, a folder of images, or - for a pipe")
    if is_pipe(source):
        return _open_pipe(source, edit, options)
    opened, notes = _open_input(Path(path), source, options)
    edit, changes = _settle(edit, opened, source)
    name = Path(os.path.realpath(source)).stem
    return VideoReader(opened, edit, name, options=options, notes=(*notes, *changes))


def _settle(edit: Edit | AskedEdit, opened: FrameInput, source: str) -> tuple[Edit, list[str]]:
    """Return the edit for what was opened, and lines for the user."""
    if isinstance(edit, Edit):
        return edit, []
    settled, notes = edit.for_video(opened.height, opened.width)
    return settled, [f"{source}: {note}" for note in notes]


def _open_pipe(source: str, edit: Edit | AskedEdit, options: ReadOptions) -> VideoReader:
    """Open what comes out of a pipe."""
    with ExitStack() as stack:
        pipe = KeptPipe.open(source)
        stack.callback(pipe.close)
        with pipe.named():
            opened, notes = _open_input(pipe.path, source, options)
            settled, changes = _settle(edit, opened, source)
            notes = (*notes, *changes)
            reader = VideoReader(opened, settled, pipe_name(source), options=options, notes=notes, pipe=pipe)
        stack.pop_all()
        return reader


def _open_input(path: Path, source: str, options: ReadOptions) -> tuple[FrameInput, tuple[str, ...]]:
    """Return what is read, and lines for the user on how it is taken; ``source`` is how the user names it."""
    if path.is_dir():
        options.refuse(source, ("stream", "deinterlace"), "is a folder of images")
        options.refuse(source, ("pixel_format", "raw_size"), "is a folder, not raw video")
        return FolderInput(path, rate=options.rate or FRAME_RATE, bit_depth=options.bit_depth), ()
    if path.is_file() and is_raw(source, options):
        raw = describe_raw(path, source, options)
        file = VideoFile(path, format_name=RAW_DEMUXER, options=raw.options, codec_tag=raw.codec_tag)
        return _open_stream(file, options), raw.notes
    options.refuse(source, ("pixel_format",), f"is not raw video, unless {argument('raw_size')} says so")
    if path.is_file() and has_several_pictures(path):
        options.refuse(source, ("stream", "deinterlace"), "is a file of pictures")
        return PicturesInput(path, rate=options.rate, bit_depth=options.bit_depth), ()
    options.refuse(source, ("rate",), "is neither raw video nor a folder of images; its own times count")
    if not path.exists() and ADDRESS.match(source):
        raise InputError(f"{source}: URLs are not read; download the video, or pipe it in as -")
    try:
        return _open_stream(VideoFile(path), options), ()
    except UnreadableError as error:
        # Photographs with something behind them: another view, a preview, a short film.
        if not isinstance(error, UnknownFormatError) or not is_photograph(path):
            if Path(source).suffix.lower() in DOUBTFUL_SUFFIXES:
                ways = f"{argument('raw_size')} (height x width) and {argument('rate')}"
                problem = f"not a readable video; if it is raw video, give {ways}"
                raise InputError(f"{source}: {problem}") from error
            raise
        options.refuse(source, ("stream", "deinterlace"), "is a photograph")
        return PicturesInput(path, bit_depth=options.bit_depth), ()


def _open_stream(file: VideoFile, options: ReadOptions) -> StreamInput:
    return StreamInput(
        file, stream=options.stream, bit_depth=options.bit_depth, deinterlace=options.deinterlace
    )
