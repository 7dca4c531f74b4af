"""Writes frames to video files, y4m, GIF or PNG; an output appears complete or not at all.

::

    rgb_NCHW ── write ──> mp4, mov   encoded, with audio and timestamps; mkv and webm, too
                          y4m, -     Y'CbCr 4:4:4, every sample; - and pipes get it frame by frame
                          GIF        256 colours per frame
                          PNG        exact, a folder or a pattern of names; of 10 bits as 16

y4m is written 4:4:4: on 4 frames of the Bunny clip RGB → y4m → RGB measures 52.7 dB, but 46.0 dB with 4:2:0,
where the loss of chroma alone would show beside a good network's error; 4:4:4 also keeps odd sizes. y4m
cannot state its matrix and readers assume BT.601, so it is written as BT.601 whatever the input was.

Axes: N frames, C colour channels (red, green, blue), H rows, W columns.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Final, final

from av.video.codeccontext import VideoCodecContext
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from vinr.errors import OutputError, UsageError
from vinr.files import as_output_error, atomic_files, atomic_folder, atomic_path, check_suffix
from vinr.temporaries import Maker
from vinr.video.audio_section import AudioSource
from vinr.video.color import RGB, ColorConverter, planes_of
from vinr.video.gif import SUFFIX as GIF_SUFFIX
from vinr.video.gif import GifWriter
from vinr.video.mux import FORMATS, ContainerWriter
from vinr.video.spec import TYPES, BitDepth, Levels, Timeline, VideoSpec
from vinr.video.tag_names import special_colors

STDOUT: Final = "-"
Y4M_SUFFIX: Final = ".y4m"
FILES: Final = (*FORMATS, GIF_SUFFIX, Y4M_SUFFIX)
# By bit depth: pixel format, and what a header calls it.
Y4M_FORMATS: Final[dict[BitDepth, tuple[str, str]]] = {
    8: ("yuv444p", "C444"),
    10: ("yuv444p10le", "C444p10 XYSCSS=444P10"),
}
PNG_FORMAT: Final = "rgb48be"
PNG_NAME: Final = "frame_%05d.png"
# How the chunk cICP says that samples take all values.
FULL_RANGE: Final = 1
PNG_GLOB: Final = "frame_*.png"
# Batches in memory that may wait to be written: enough to even out varying speeds.
QUEUE_LENGTH: Final = 4
# One number, as in f_%04d.png, and no other per cent sign.
PATTERN: Final = re.compile(r"[^%]*%(0[1-9]\d?)?d[^%]*\.png", re.IGNORECASE)


class Sink(ABC):
    """Takes the frames of a video in order; see :func:`open_sink`."""

    def __init__(self, spec: VideoSpec, timeline: Timeline, notes: tuple[str, ...] = ()) -> None:
        self.spec = spec
        self.timeline = timeline
        self._notes = notes
        self._num_written = 0
        self._maker = Maker()

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user about what is written otherwise than it was given; usually none."""
        return self._notes

    @property
    def written(self) -> str:
        """What is written, in words: a codec and its quality, or a format."""
        return "y4m"

    @final
    def leave_out(self, codec: str | None, crf: int | None, audio: AudioSource | None) -> None:
        """Note that y4m, GIF and PNG are written without a codec, and without audio."""
        for name, value in (("codec", codec), ("crf", crf)):
            if value is not None:
                problem = f"{name} {value} has no effect: {self.written} has none"
                self._notes += (f"{problem}; write .mkv or .mp4 for it",)
        if audio is not None:
            left_out = f"the audio is left out: {self.written} has none"
            self._notes += (f"{left_out}; write .mkv or .mp4 to keep it",)

    @final
    def check_process(self) -> None:
        """Raise :class:`OutputError` in a child that was forked since the output was opened."""
        if not self._maker.is_here:
            owner = "the process that this one was forked from"
            raise OutputError(f"the output is written by {owner}; end the child with os._exit")

    @final
    def write(self, rgb_NCHW: Tensor) -> None:
        """Write the next N frames, of size and bit depth of ``spec``, on any device.

        Raises
        ------
        OutputError
            If the system refuses to write, and in a forked child.
        """
        self.check_process()
        expected, dtype = (3, self.spec.height, self.spec.width), TYPES[self.spec.bit_depth]
        if rgb_NCHW.dtype != dtype or rgb_NCHW.ndim != 4 or tuple(rgb_NCHW.shape[1:]) != expected:
            raise ValueError(
                f"frames must be {dtype} (N, {expected}), got {rgb_NCHW.dtype} {tuple(rgb_NCHW.shape)}"
            )
        if self._num_written + rgb_NCHW.shape[0] > self.timeline.num_frames:
            raise ValueError(f"more frames than the {self.timeline.num_frames} of the timeline")
        for rgb_HWC in rgb_NCHW.permute(0, 2, 3, 1).cpu().contiguous().numpy():
            self._put(rgb_HWC, self._num_written)
            self._num_written += 1

    @final
    def finish(self) -> None:
        """Complete the output; called by :func:`open_sink` when its body ends without an error."""
        self.check_process()
        if self._num_written != self.timeline.num_frames:
            raise ValueError(f"{self._num_written} of {self.timeline.num_frames} frames were written")
        self._finish()

    @abstractmethod
    def _put(self, rgb_HWC: Levels, index: int) -> None:
        """Write frame number ``index``."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what an encoder still holds."""


@contextmanager
def open_sink(
    output: str,
    spec: VideoSpec,
    timeline: Timeline,
    *,
    audio: AudioSource | None = None,
    codec: str | None = None,
    crf: int | None = None,
    force: bool = False,
) -> Iterator[Sink]:
    """Open an output for the ``timeline.num_frames`` frames that are written in the body.

    When the body raises, nothing is left and an existing output stays as it was (except for standard output
    and pipes). What is left when the process is killed: docs/outputs.md.

    Parameters
    ----------
    output
        A name ending in ``.mp4``, ``.mov``, ``.mkv``, ``.webm``, ``.gif`` or ``.y4m``; a folder (no suffix,
        or ending in ``/``) for PNGs, ``frame_00000.png`` and on; a pattern of PNG names as ``f_%04d.png``,
        counted from 0; ``-`` for y4m on standard output. A named pipe or device gets y4m, as standard output
        does.
    spec, timeline
        Frame size, bit depth and colour; when the frames are shown. y4m and PNG have the timeline's constant
        rate.
    audio
        Audio, such as :meth:`vinr.video.source.VideoReader.audio` returns; y4m and PNG have none, and a note
        says so.
    codec
        ``x264``, ``x265``, ``av1``, ``vp9``, or ``ffv1`` (lossless, .mkv only), for videos; for frames of
        8 bits ``x264`` and of 10 bits ``x265`` if None, for .webm ``vp9``.
    crf
        How coarse the codec is, from 0 (best) to 51 or, of ``av1`` and ``vp9``, 63; 18 or 24 if None.
    force
        Replace an existing output. A folder with anything but ``frame_*.png`` in it is never replaced.

    Raises
    ------
    UsageError
        If name, codec and frame size do not fit together.
    InputError
        If the output cannot hold the audio codec.
    OutputError
        If the output exists, its folder is missing, or the system refuses to write.
    """
    name = Path(output).name.lower()
    if name in (*FILES, ".png") and not _is_named_folder(output):
        check_suffix(Path(output), name, "output")
    with ExitStack() as stack:
        if output == STDOUT and sys.stdout is None:
            raise OutputError("standard output is closed; name a file")
        if output == STDOUT:
            sink: Sink = _Y4mSink(spec, timeline, sys.stdout.buffer, "standard output")
        elif _is_stream(output):
            file = stack.enter_context(_opened_stream(output))
            sink = _Y4mSink(spec, timeline, file, output)
        elif _is_pattern(output):
            pattern = _checked_pattern(output)
            numbers = range(timeline.num_frames) if timeline.numbers is None else timeline.numbers
            folder = stack.enter_context(atomic_files(pattern, numbers, force=force))
            sink = _PngSink(spec, timeline, folder, pattern.name)
        elif _is_folder(output):
            folder = stack.enter_context(atomic_folder(output, replaceable=PNG_GLOB, force=force))
            sink = _PngSink(spec, timeline, folder)
        else:
            target = _checked_file(output)
            temporary = stack.enter_context(atomic_path(target, force=force))
            if target.suffix.lower() == Y4M_SUFFIX:
                file = stack.enter_context(Maker().closing(temporary.open("xb")))
                sink = _Y4mSink(spec, timeline, file, str(target))
            elif target.suffix.lower() == GIF_SUFFIX:
                sink = _GifSink(spec, timeline, GifWriter(temporary, spec, timeline, target))
            else:
                writer = ContainerWriter(
                    temporary, spec, timeline, target=target, audio=audio, codec=codec, crf=crf
                )
                stack.callback(writer.close)
                sink = _ContainerSink(spec, timeline, writer)
        if not isinstance(sink, _ContainerSink):
            sink.leave_out(codec, crf, audio)
        yield sink
        sink.finish()


def size_of_output(output: str) -> int | None:
    """Return the bytes of a file, or of the images in a folder; None of a stream, and of a pattern."""
    path = Path(output)
    if path.is_dir():
        return sum(image.stat().st_size for image in path.glob(PNG_GLOB))
    return path.stat().st_size if output != STDOUT and path.is_file() else None


@contextmanager
def written_behind(sink: Sink) -> Iterator[Callable[[Tensor], None]]:
    """Yield a function that writes as :meth:`Sink.write` does, in a thread, while the body continues.

    An error of writing is raised by the next call, or where the body ends. When the body raises, waiting
    frames are dropped. Either way the thread has ended afterwards, and the sink can be closed.
    """
    waiting: deque[Future[None]] = deque()
    failed = False

    def write_next(rgb_NCHW: Tensor) -> None:
        nonlocal failed
        if failed:
            return  # no frame may follow a missing one
        try:
            sink.write(rgb_NCHW)
        except BaseException:
            failed = True
            raise

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="vinr-writer") as thread:

        def write(rgb_NCHW: Tensor) -> None:
            sink.check_process()  # the thread is not in a forked child
            # result() waits where the queue is full, and raises what writing has raised.
            while waiting and (waiting[0].done() or len(waiting) >= QUEUE_LENGTH):
                waiting.popleft().result()
            waiting.append(thread.submit(write_next, rgb_NCHW))

        try:
            yield write
            for result in waiting:
                result.result()
        except BaseException:
            thread.shutdown(cancel_futures=True)
            raise


class _ContainerSink(Sink):
    def __init__(self, spec: VideoSpec, timeline: Timeline, writer: ContainerWriter) -> None:
        super().__init__(spec, timeline, writer.notes)
        self._writer = writer

    def _put(self, rgb_HWC: Levels, index: int) -> None:
        self._writer.put(rgb_HWC, index)

    def _finish(self) -> None:
        self._writer.finish()
        self._notes = self._writer.notes

    @property
    def written(self) -> str:
        """Codec and CRF."""
        return self._writer.written


class _GifSink(Sink):
    def __init__(self, spec: VideoSpec, timeline: Timeline, writer: GifWriter) -> None:
        super().__init__(spec, timeline, writer.notes)
        self._writer = writer

    @property
    def written(self) -> str:
        """The format."""
        return "GIF"

    def _put(self, rgb_HWC: Levels, index: int) -> None:
        self._writer.put(rgb_HWC)

    def _finish(self) -> None:
        self._writer.finish()


class _Y4mSink(Sink):
    """YUV4MPEG2: a line of text, then each frame as a line and its three planes."""

    # YUV4MPEG2 W64 H48 F25:1 Ip A1:1 C444 XCOLORRANGE=LIMITED\n
    # FRAME\n | Y, H × W bytes | Cb, H × W | Cr, H × W | FRAME\n | …
    # Samples of 10 bits take two bytes each, the low one first.
    def __init__(self, spec: VideoSpec, timeline: Timeline, file: BinaryIO, name: str) -> None:
        super().__init__(spec, timeline, _y4m_notes(spec, timeline))
        self._file = file
        self._name = name
        self._converter = ColorConverter(replace(spec.color, matrix="bt601"))

    def _put(self, rgb_HWC: Levels, index: int) -> None:
        frame = self._converter.from_rgb(rgb_HWC, Y4M_FORMATS[self.spec.bit_depth][0])
        header = self._header() if index == 0 else b""
        planes = [plane.astype(plane.dtype.newbyteorder("<")).tobytes() for plane in planes_of(frame)]
        self._output(b"".join([header, b"FRAME\n", *planes]))

    def _finish(self) -> None:
        self._output(b"")

    def _header(self) -> bytes:
        rate = self.timeline.frame_rate
        color_range = self.spec.color.range.upper()
        sampling = Y4M_FORMATS[self.spec.bit_depth][1]
        size = f"W{self.spec.width} H{self.spec.height}"
        rate_text = f"F{rate.numerator}:{rate.denominator}"
        aspect = self.spec.pixel_aspect
        shape = f"A{aspect.numerator}:{aspect.denominator}"
        return f"YUV4MPEG2 {size} {rate_text} Ip {shape} {sampling} XCOLORRANGE={color_range}\n".encode()

    def _output(self, data: bytes) -> None:
        with as_output_error(self._name):
            self._file.write(data)
            self._file.flush()


class _PngSink(Sink):
    """Numbered PNG files in one folder."""

    def __init__(self, spec: VideoSpec, timeline: Timeline, folder: Path, name: str = PNG_NAME) -> None:
        super().__init__(spec, timeline, _png_notes(spec))
        self._folder = folder
        self._name = name
        # Of ordinary colours nothing is said, as in most images: viewers agree on what they are.
        tags = spec.color.tags if special_colors(spec.color.tags) else None
        self._converter = ColorConverter(replace(spec.color, tags=tags))
        self._chunks = PngInfo()
        if tags is not None:
            self._chunks.add(b"cICP", bytes((tags.primaries, tags.transfer, RGB, FULL_RANGE)))

    @property
    def written(self) -> str:
        """The format."""
        return "PNG"

    def _put(self, rgb_HWC: Levels, index: int) -> None:
        name = self._name % self.timeline.number(index)
        with as_output_error(name):
            if self.spec.bit_depth == 8:
                Image.fromarray(rgb_HWC).save(self._folder / name, format="PNG", pnginfo=self._chunks)
            else:
                (self._folder / name).write_bytes(_deep_png(self._converter, rgb_HWC))

    def _finish(self) -> None:
        """Do nothing: each image is complete when it is written."""


def _y4m_notes(spec: VideoSpec, timeline: Timeline) -> tuple[str, ...]:
    notes = []
    if special := special_colors(spec.color.tags):
        notes.append(
            f"y4m cannot state {special} colours, and players show wrong ones; .mkv and .mp4 keep them"
        )
    if timeline.pts is not None or timeline.last_seconds is not None:
        rate = f"{float(timeline.frame_rate):.5g} frames per second"
        notes.append(f"y4m has no times: all frames are shown at {rate}; .mkv and .mp4 keep their times")
    return tuple(notes)


def _png_notes(spec: VideoSpec) -> tuple[str, ...]:
    if spec.pixel_aspect == 1:
        return ()
    shape = f"pixels are {spec.pixel_aspect} times as wide as high"
    return (f"{shape}, but viewers of PNG show them as square; .mkv, .mp4 and .y4m keep their shape",)


def _deep_png(converter: ColorConverter, rgb_HWC: Levels) -> bytes:
    """Return a PNG of 16 bits, which Pillow does not write in colour; level v of 1023 is v · 65535 / 1023."""
    encoder = VideoCodecContext.create("png", "w")
    encoder.height, encoder.width, encoder.pix_fmt = *rgb_HWC.shape[:2], PNG_FORMAT
    encoder.time_base = Fraction(1)
    frame = converter.from_rgb(rgb_HWC, PNG_FORMAT)
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    return b"".join(map(bytes, packets))


def _is_stream(output: str) -> bool:
    """Return whether ``output`` is a named pipe or a device, which has no content to replace."""
    try:
        mode = os.stat(output).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


@contextmanager
def _opened_stream(output: str) -> Iterator[BinaryIO]:
    suffix = Path(output).suffix.lower()
    if suffix not in ("", Y4M_SUFFIX):
        raise OutputError(
            f"{output}: is not a regular file, which {suffix} needs; "
            f"use a name without a suffix or with {Y4M_SUFFIX} for y4m"
        )
    with as_output_error(output), Maker().closing(open(output, "wb")) as file:
        yield file


def _is_folder(output: str) -> bool:
    return _is_named_folder(output) or not Path(output).suffix


def _is_named_folder(output: str) -> bool:
    """Return whether ``output`` can only be a folder."""
    return output.endswith("/") or Path(output).is_dir()


def _checked_file(output: str) -> Path:
    target = Path(output)
    if target.suffix.lower() not in FILES:
        raise UsageError(
            f"{output}: end the name in {', '.join(FILES)}, or use a folder or f_%04d.png for PNGs"
        )
    return target


def _is_pattern(output: str) -> bool:
    """Return whether ``output`` is meant as a pattern; names of videos and folders may have a % too."""
    path = Path(output)
    if _is_named_folder(output) or path.suffix.lower() in FILES:
        return False
    return "%" in (output if path.suffix.lower() == ".png" else path.name)


def _checked_pattern(output: str) -> Path:
    pattern = Path(output)
    if not PATTERN.fullmatch(pattern.name):
        raise UsageError(f"{output}: a pattern has one number and ends in .png, such as f_%04d.png")
    return pattern
