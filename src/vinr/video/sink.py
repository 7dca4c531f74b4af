"""Writes frames to mp4, Matroska, y4m or PNG; an output appears whole or not at all.

::

    rgb_NCHW ── write ──> mp4, mkv   encoded, with sound and timestamps
                          y4m, -     Y'CbCr 4:4:4, every sample; - and pipes take it as it comes
                          PNG        exact, a folder or a pattern of names

y4m is written 4:4:4: on 4 frames of the Bunny clip RGB → y4m → RGB measures 52.7 dB so, and 46.0 dB with
4:2:0, where the loss of chroma alone would be seen beside a good decoder's error; also 4:4:4 keeps odd sizes.
y4m cannot say its matrix and readers take it as BT.601, so it is written as BT.601 whatever the input was.

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
from pathlib import Path
from typing import BinaryIO, Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vinr.errors import OutputError, UsageError
from vinr.files import atomic_files, atomic_folder, atomic_path, check_suffix, said_of
from vinr.temporaries import Maker
from vinr.video.color import ColorConverter
from vinr.video.mux import FORMATS, ContainerWriter
from vinr.video.spec import Timeline, VideoSpec

STDOUT: Final = "-"
Y4M_SUFFIX: Final = ".y4m"
Y4M_FORMAT: Final = "yuv444p"
PNG_NAME: Final = "frame_%05d.png"
PNG_GLOB: Final = "frame_*.png"
# Batches that may wait to be written: they even out who is faster at the moment, and lie in memory.
QUEUE_LENGTH: Final = 4
# One number, as in f_%04d.png, and no other per cent sign.
PATTERN: Final = re.compile(r"[^%]*%(0[1-9]\d?)?d[^%]*\.png", re.IGNORECASE)


class Sink(ABC):
    """Takes the frames of a video in order; see :func:`open_sink`."""

    def __init__(self, spec: VideoSpec, timeline: Timeline) -> None:
        self.spec = spec
        self.timeline = timeline
        self._num_written = 0
        self._maker = Maker()

    @final
    def check_process(self) -> None:
        """Raise :class:`OutputError` in a child that was forked since the output was opened."""
        if not self._maker.is_here:
            raise OutputError(
                "the output is written by the process that this one was forked from; "
                "end the child with os._exit"
            )

    @final
    def write(self, rgb_NCHW: Tensor) -> None:
        """Write the next N frames, uint8 of the size of ``spec``, on any device.

        Raises
        ------
        OutputError
            If the system refuses to write, and in a forked child.
        """
        self.check_process()
        expected = (3, self.spec.height, self.spec.width)
        if rgb_NCHW.dtype != torch.uint8 or rgb_NCHW.ndim != 4 or tuple(rgb_NCHW.shape[1:]) != expected:
            raise ValueError(
                f"frames must be uint8 (N, {expected}), got {rgb_NCHW.dtype} {tuple(rgb_NCHW.shape)}"
            )
        if self._num_written + rgb_NCHW.shape[0] > self.timeline.num_frames:
            raise ValueError(f"more frames than the {self.timeline.num_frames} of the timeline")
        for rgb_HWC in rgb_NCHW.permute(0, 2, 3, 1).cpu().contiguous().numpy():
            self._put(rgb_HWC, self._num_written)
            self._num_written += 1

    @final
    def finish(self) -> None:
        """Complete the output; called by :func:`open_sink` when its body ends well."""
        self.check_process()
        if self._num_written != self.timeline.num_frames:
            raise ValueError(f"{self._num_written} of {self.timeline.num_frames} frames were written")
        self._finish()

    @abstractmethod
    def _put(self, rgb_HWC: NDArray[np.uint8], index: int) -> None:
        """Write frame number ``index``."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what is held back."""


@contextmanager
def open_sink(
    output: str,
    spec: VideoSpec,
    timeline: Timeline,
    *,
    audio: bytes | None = None,
    codec: str = "x264",
    force: bool = False,
) -> Iterator[Sink]:
    """Open an output for the ``timeline.num_frames`` frames that are written in the body.

    When the body raises, nothing is left and an existing output stays as it was (standard output and pipes
    excepted). How each output behaves when the process is killed: docs/outputs.md.

    Parameters
    ----------
    output
        A name ending in ``.mp4``, ``.mkv`` or ``.y4m``; a folder (no suffix, or ending in ``/``) for PNGs,
        ``frame_00000.png`` and on; a pattern of PNG names as ``f_%04d.png``, counted from 0; ``-`` for y4m
        on standard output. A named pipe or device takes y4m as standard output does.
    spec, timeline
        Frame size and colour; when the frames are shown. y4m and PNG have a constant rate, the timeline's.
    audio
        Sound as :meth:`vinr.video.source.VideoReader.audio` gives it; y4m and PNG go without.
    codec
        ``x264``, ``x265``, ``av1``, or ``ffv1`` (lossless, .mkv only). Matters to mp4 and mkv alone.
    force
        Replace an existing output. A folder that holds anything but ``frame_*.png`` is never replaced.

    Raises
    ------
    UsageError
        If name, codec and frame size do not go together.
    InputError
        If the output cannot hold the sound's codec.
    OutputError
        If the output exists, its folder is missing, or the system refuses to write.
    """
    name = Path(output).name.lower()
    if name in (*FORMATS, Y4M_SUFFIX, ".png") and not _is_named_folder(output):
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
            else:
                writer = ContainerWriter(temporary, spec, timeline, target=target, audio=audio, codec=codec)
                stack.callback(writer.close)
                sink = _ContainerSink(spec, timeline, writer)
        yield sink
        sink.finish()


@contextmanager
def written_behind(sink: Sink) -> Iterator[Callable[[Tensor], None]]:
    """Give a function that writes as :meth:`Sink.write` does, in a thread, while the body goes on.

    An error of writing is raised by the next call, or where the body ends. When the body raises, frames that
    wait are dropped. Either way the thread has ended afterwards, and the sink can be closed.
    """
    waiting: deque[Future[None]] = deque()
    failed = False

    def write_next(rgb_NCHW: Tensor) -> None:
        nonlocal failed
        if failed:
            return  # nothing may follow a frame that is missing
        try:
            sink.write(rgb_NCHW)
        except BaseException:
            failed = True
            raise

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="vinr-writer") as thread:

        def write(rgb_NCHW: Tensor) -> None:
            sink.check_process()  # the thread is not in a forked child
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
        super().__init__(spec, timeline)
        self._writer = writer

    def _put(self, rgb_HWC: NDArray[np.uint8], index: int) -> None:
        self._writer.put(rgb_HWC, index)

    def _finish(self) -> None:
        self._writer.finish()


class _Y4mSink(Sink):
    """YUV4MPEG2: a line of text, then each frame as a line and its three planes."""

    def __init__(self, spec: VideoSpec, timeline: Timeline, file: BinaryIO, name: str) -> None:
        super().__init__(spec, timeline)
        self._file = file
        self._name = name
        self._converter = ColorConverter(replace(spec.color, matrix="bt601"))

    def _put(self, rgb_HWC: NDArray[np.uint8], index: int) -> None:
        frame = self._converter.from_rgb(rgb_HWC, Y4M_FORMAT)
        header = self._header() if index == 0 else b""
        self._output(header + b"FRAME\n" + frame.to_ndarray().tobytes())

    def _finish(self) -> None:
        self._output(b"")

    def _header(self) -> bytes:
        rate = self.timeline.frame_rate
        color_range = self.spec.color.range.upper()
        size = f"W{self.spec.width} H{self.spec.height}"
        rate_text = f"F{rate.numerator}:{rate.denominator}"
        return f"YUV4MPEG2 {size} {rate_text} Ip A1:1 C444 XCOLORRANGE={color_range}\n".encode()

    def _output(self, data: bytes) -> None:
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise OutputError(f"{self._name}: cannot be written: {error.strerror or error}") from error


class _PngSink(Sink):
    """Numbered PNG files in one folder."""

    def __init__(self, spec: VideoSpec, timeline: Timeline, folder: Path, name: str = PNG_NAME) -> None:
        super().__init__(spec, timeline)
        self._folder = folder
        self._name = name

    def _put(self, rgb_HWC: NDArray[np.uint8], index: int) -> None:
        path = self._folder / (self._name % self.timeline.number(index))
        try:
            Image.fromarray(rgb_HWC).save(path, format="PNG")
        except OSError as error:
            raise OutputError(f"{path.name}: cannot be written: {error.strerror or error}") from error

    def _finish(self) -> None:
        """Nothing is held back."""


def _is_stream(output: str) -> bool:
    """Return whether ``output`` is a named pipe or a device, which holds nothing that could be replaced."""
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
            f"give a name without a suffix or with {Y4M_SUFFIX} to get y4m"
        )
    with said_of(Path(output)), Maker().closing(open(output, "wb")) as file:
        yield file


def _is_folder(output: str) -> bool:
    return _is_named_folder(output) or not Path(output).suffix


def _is_named_folder(output: str) -> bool:
    """Return whether ``output`` can be nothing but a folder."""
    return output.endswith("/") or Path(output).is_dir()


def _checked_file(output: str) -> Path:
    target = Path(output)
    allowed = (*FORMATS, Y4M_SUFFIX)
    if target.suffix.lower() not in allowed:
        raise UsageError(
            f"{output}: end the name in {', '.join(allowed)}, or give a folder or f_%04d.png for PNGs"
        )
    return target


def _is_pattern(output: str) -> bool:
    """Return whether ``output`` was meant as a pattern; videos and folders may have a per cent sign too."""
    path = Path(output)
    if _is_named_folder(output) or path.suffix.lower() in (*FORMATS, Y4M_SUFFIX):
        return False
    return "%" in (output if path.suffix.lower() == ".png" else path.name)


def _checked_pattern(output: str) -> Path:
    pattern = Path(output)
    if not PATTERN.fullmatch(pattern.name):
        raise UsageError(f"{output}: a pattern has one number and ends in .png, as f_%04d.png")
    return pattern
