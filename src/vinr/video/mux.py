"""Writes frames and audio into mp4 or Matroska through libav's encoders.

Axes: H rows, W columns, C colour channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vinr.errors import InputError, OutputError, UsageError
from vinr.temporaries import Maker
from vinr.video.audio import MATROSKA_OPTIONS, AudioCopier
from vinr.video.color import ColorConverter, tag_color
from vinr.video.encoders import safe_options
from vinr.video.hdr import DIALECTS, with_hdr
from vinr.video.libav import explain
from vinr.video.spec import Audio, Hdr, Timeline, VideoSpec

# By suffix: libav's muxer, and its options.
FORMATS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    # The index at the front lets a browser start before it has the whole file.
    ".mp4": ("mp4", {"movflags": "+faststart"}),
    ".mkv": ("matroska", MATROSKA_OPTIONS),
}


@dataclass(frozen=True)
class _Codec:
    """An encoder of libav; ``odd_format`` is the pixel format for sizes that are not both even.

    ``states_aspect``: whether its stream states the shape of pixels.
    """

    encoder: str
    even_format: str
    odd_format: str
    formats: tuple[str, ...] = (".mkv", ".mp4")
    options: Mapping[str, str] = field(default_factory=dict)
    small_frame_options: Mapping[str, str] = field(default_factory=dict)
    states_aspect: bool = False

    def options_for(self, spec: VideoSpec) -> dict[str, str]:
        """Return the encoder's options for frames of a size and colour."""
        is_small = min(spec.height, spec.width) < SMALL_SIDE and max(spec.height, spec.width) < LARGE_SIDE
        options = {**self.options, **(self.small_frame_options if is_small else {})}
        options = with_hdr(self.encoder, options, spec.color.hdr)
        return safe_options(self.encoder, options, width=spec.width, num_frames=spec.num_frames)


# FFV1 takes 2×300 and 128×128 in one slice, but not 272×640; with its own choice of slices it fails at 2×1.
SMALL_SIDE: Final = 16
LARGE_SIDE: Final = 256

# These CRFs are near-transparent: the output should show the network's errors, not the encoder's. In x264 and
# x265 4:2:0 needs even sizes; SVT-AV1 pads and crops by itself, and has only 4:2:0. FFV1 keeps RGB.
CODECS: Final[dict[str, _Codec]] = {
    "x264": _Codec("libx264", "yuv420p", "yuv444p", options={"crf": "10"}, states_aspect=True),
    "x265": _Codec(
        "libx265",
        "yuv420p",
        "yuv444p",
        options={"crf": "10", "x265-params": "log-level=none"},
        states_aspect=True,
    ),
    "av1": _Codec("libsvtav1", "yuv420p", "yuv420p", options={"crf": "4", "preset": "8"}),
    # FFV1 cuts frames into slices by itself, and fails if one has fewer than a few pixels.
    "ffv1": _Codec("ffv1", "bgr0", "bgr0", formats=(".mkv",), small_frame_options={"slices": "1"}),
}


class ContainerWriter:
    """An mp4 or Matroska file being written to ``path``; messages name ``target``, its final name.

    ``notes`` are lines for the user about what the file cannot hold.

    Raises
    ------
    UsageError
        If the codec is unknown, the container cannot hold it, or it refuses the frame size.
    InputError
        If the container cannot hold the audio.
    OutputError
        If the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        spec: VideoSpec,
        timeline: Timeline,
        *,
        target: Path,
        audio: Audio | None,
        codec: str,
    ) -> None:
        suffix = target.suffix.lower()
        self._settings = _codec(codec, suffix)
        self.notes = _left_out(codec, self._settings, suffix, spec)
        self._target = target
        self._timeline = timeline
        self._time_base = 1 / timeline.frame_rate if timeline.pts is None else timeline.time_base
        is_even = spec.height % 2 == 0 and spec.width % 2 == 0
        self._pixel_format = self._settings.even_format if is_even else self._settings.odd_format
        self._converter = ColorConverter(spec.color)
        format_name, options = FORMATS[suffix]
        with self._writing():
            self._container = av.open(str(path), "w", format=format_name, options=options)
        self._maker = Maker()
        self._audio: AudioCopier | None = None
        try:
            self._stream = self._add_video(spec, codec)
            if audio is not None:
                self._audio = AudioCopier(audio, self._container)
            with self._writing():
                self._start()
        except BaseException:
            self.close()
            raise

    def put(self, rgb_HWC: NDArray[np.uint8], index: int) -> None:
        """Encode frame number ``index``."""
        frame = self._converter.from_rgb(rgb_HWC, self._pixel_format)
        frame.time_base = self._time_base
        frame.pts = index if self._timeline.pts is None else self._timeline.pts[index]
        with self._writing():
            self._mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Write the frames that the encoder still holds and the rest of the audio, then close the file."""
        with self._writing():
            self._mux(self._stream.encode(None))
            if self._audio is not None:
                self._audio.copy_until(None)
            self._container.close()

    def close(self) -> None:
        """Release everything; without :meth:`finish` the file is left incomplete."""
        if self._audio is not None:
            self._audio.close()
        # Closing writes the end of the file, which fails again if writing has failed before.
        with suppress(av.FFmpegError):
            self._maker.close(self._container)

    def _add_video(self, spec: VideoSpec, codec: str) -> VideoStream:
        stream = self._container.add_stream(
            self._settings.encoder,
            rate=self._timeline.frame_rate,
            options=self._settings.options_for(spec),
        )
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = spec.width, spec.height, self._pixel_format
        stream.codec_context.time_base = self._time_base
        tag_color(stream.codec_context, spec.color, self._pixel_format)
        if spec.pixel_aspect != 1:
            stream.codec_context.sample_aspect_ratio = spec.pixel_aspect
        try:
            stream.codec_context.open()
        except av.FFmpegError as error:
            problem = f"{codec} cannot encode frames of {spec.height}x{spec.width}: {explain(error)}"
            raise UsageError(f"{problem}; write .y4m, PNG, or ffv1 in .mkv") from error
        return stream

    def _start(self) -> None:
        try:
            self._container.start_encoding()
        except av.FFmpegError as error:
            if self._audio is None:
                raise
            # Muxers check the codecs when they write the header.
            names = ", ".join(stream.codec_context.name for stream in self._container.streams.audio)
            raise InputError(f"{self._target}: cannot hold {names} audio: {explain(error)}") from error

    def _mux(self, packets: list[Packet[VideoStream]]) -> None:
        for packet in packets:
            if self._audio is not None and packet.dts is not None:
                # Interleaved with the video, so that a player finds both close together.
                self._audio.copy_until(Fraction(packet.dts) * packet.time_base)
            self._container.mux(packet)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except av.FFmpegError as error:
            raise OutputError(f"{self._target}: cannot be written: {explain(error)}") from error


def _left_out(name: str, codec: _Codec, suffix: str, spec: VideoSpec) -> tuple[str, ...]:
    """Return lines for the user about what the file cannot state."""
    notes = []
    if spec.color.hdr != Hdr() and codec.encoder not in DIALECTS:
        notes.append(f"{name} cannot store HDR metadata (display, light levels): it is left out")
    # libav's Matroska writer states no shape of pixels when called by PyAV; some codecs do so themselves.
    if spec.pixel_aspect != 1 and suffix == ".mkv" and not codec.states_aspect:
        shape = f"pixels {spec.pixel_aspect} times as wide as high"
        notes.append(f"{name} in .mkv cannot store {shape}: players show them as square; write x264")
    return tuple(notes)


def _codec(name: str, suffix: str) -> _Codec:
    settings = CODECS.get(name)
    if settings is None:
        raise UsageError(f"codec {name} is unknown; choose one of {', '.join(sorted(CODECS))}")
    if suffix not in settings.formats:
        raise UsageError(f"{suffix} cannot hold {name}; write {' or '.join(settings.formats)}")
    return settings
