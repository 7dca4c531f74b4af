"""Writes frames and audio into mp4, mov, Matroska or WebM through libav's encoders.

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
from av.rational import AVRational
from av.stream import Disposition
from av.video.stream import VideoStream

from vinr.errors import InputError, OutputError, UsageError, argument, unknown
from vinr.files import as_output_error
from vinr.temporaries import Maker
from vinr.video.audio_copy import AudioCopier, audio_codecs
from vinr.video.audio_section import MATROSKA_OPTIONS, AudioSource
from vinr.video.color import LAST_X265_PRIMARIES, SILENT, ColorConverter, tag_color
from vinr.video.encoders import open_encoder, safe_options, why_refused
from vinr.video.hdr import DIALECTS, with_hdr
from vinr.video.libav import explain, move_packet
from vinr.video.matroska import state_shape
from vinr.video.spec import BitDepth, Hdr, Levels, Ticks, Timeline, VideoSpec
from vinr.video.tag_names import PRIMARIES

MP4, MOV, WEBM = "mp4", "mov", "webm"
# These store how long each frame is shown, in the order of decoding.
STEPPED: Final = {f".{MP4}", f".{MOV}"}
# Ticks of a track in a second, and how many of them a frame of mp4 may last. libav takes fewer than the first
# where the frames allow it.
FINEST_TICKS: Final = 90_000
MAX_STEP: Final = 2**31 - 1
# Times in Matroska are whole ones.
MILLISECOND: Final = Fraction(1, 1000)

# By suffix: libav's muxer, and its options.
FORMATS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    # The index at the front lets a browser start before it has the whole file. Tracks begin at multiples of
    # the movie's time scale, by default a millisecond.
    ".mp4": (MP4, {"movflags": "+faststart", "movie_timescale": "90000"}),
    ".mov": (MOV, {"movflags": "+faststart", "movie_timescale": "90000"}),
    ".mkv": ("matroska", MATROSKA_OPTIONS),
    ".webm": (WEBM, MATROSKA_OPTIONS),
}
# What WebM may hold.
WEBM_AUDIO: Final = {"opus", "vorbis"}


@dataclass(frozen=True)
class _Codec:
    """An encoder of libav, its pixel formats for 8 bits, and those for 10 bits.

    The second of each is for sizes that are not both even. ``has_b_frames``: whether it may store frames in
    another order than they are shown. ``crf``: how coarse, if nothing is asked for, and at most; None where
    nothing is lost.
    """

    encoder: str
    formats_8: tuple[str, str]
    formats_10: tuple[str, str]
    crf: tuple[int, int] | None = None
    formats: tuple[str, ...] = (".mkv", ".mov", ".mp4")
    options: Mapping[str, str] = field(default_factory=dict)
    small_frame_options: Mapping[str, str] = field(default_factory=dict)
    has_b_frames: bool = False

    def options_for(self, spec: VideoSpec, crf: int | None) -> dict[str, str]:
        """Return the encoder's options for frames of a size and colour, and the quality ``crf``."""
        is_small = min(spec.height, spec.width) < SMALL_SIDE and max(spec.height, spec.width) < LARGE_SIDE
        options = {**self.options, **(self.small_frame_options if is_small else {})}
        if crf is not None:
            options["crf"] = str(crf)
        options = with_hdr(self.encoder, options, spec.color.hdr)
        return safe_options(self.encoder, options, width=spec.width, num_frames=spec.num_frames)

    def format_for(self, spec: VideoSpec) -> str:
        """Return the pixel format for frames of ``spec``."""
        even_format, odd_format = self.formats_8 if spec.bit_depth == 8 else self.formats_10
        return even_format if spec.height % 2 == 0 and spec.width % 2 == 0 else odd_format


# FFV1 takes 2×300 and 128×128 in one slice, but not 272×640; with its own choice of slices it fails at 2×1.
SMALL_SIDE: Final = 16
LARGE_SIDE: Final = 256

# What muxers raise for a track that they cannot hold.
REFUSALS: Final = (
    av.error.ArgumentError,
    av.error.InvalidDataError,
    av.error.NotImplementedError,
    av.error.PatchWelcomeError,
)

# These CRFs cost a network of 32 dB 0.1 dB against the source, and a video takes about as many bytes as the
# file of its network; at CRF 10 it took two and a half times as many, for no more. In x264 and x265 4:2:0
# needs even sizes; SVT-AV1 and VP9 pad and crop by themselves, and SVT-AV1 has only 4:2:0. FFV1 keeps RGB.
YUV: Final = ("yuv420p", "yuv444p")
YUV_10: Final = ("yuv420p10le", "yuv444p10le")
AV1_FILES: Final = (".mkv", ".mp4", ".webm")
VP9_OPTIONS: Final = {"b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}
CODECS: Final[dict[str, _Codec]] = {
    "x264": _Codec("libx264", YUV, YUV_10, crf=(18, 51), has_b_frames=True),
    "x265": _Codec(
        "libx265", YUV, YUV_10, crf=(18, 51), options={"x265-params": "log-level=none"}, has_b_frames=True
    ),
    "av1": _Codec(
        "libsvtav1", YUV[:1] * 2, YUV_10[:1] * 2, crf=(24, 63), formats=AV1_FILES, options={"preset": "8"}
    ),
    "vp9": _Codec(
        "libvpx-vp9", YUV[:1] * 2, YUV_10[:1] * 2, crf=(24, 63), formats=AV1_FILES, options=VP9_OPTIONS
    ),
    # FFV1 cuts frames into slices by itself, and fails if one has fewer than a few pixels.
    "ffv1": _Codec(
        "ffv1", ("bgr0",) * 2, ("gbrp10le",) * 2, formats=(".mkv",), small_frame_options={"slices": "1"}
    ),
}


# Few players show 10-bit H.264.
DEFAULT_CODECS: Final[dict[BitDepth, str]] = {8: "x264", 10: "x265"}
WEBM_CODEC: Final = "vp9"


class ContainerWriter:
    """An mp4 or Matroska file being written to ``path``; messages name ``target``, its final name.

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
        audio: AudioSource | None,
        codec: str | None,
        crf: int | None = None,
    ) -> None:
        suffix = target.suffix.lower()
        if codec is None:
            codec = WEBM_CODEC if suffix == f".{WEBM}" else DEFAULT_CODECS[spec.bit_depth]
        self._settings = _codec(codec, suffix)
        self._crf = _checked_crf(codec, self._settings, crf)
        self.written = codec if self._crf is None else f"{codec} at CRF {self._crf}"
        self._left_out = _left_out(codec, self._settings, spec)
        if suffix == f".{WEBM}" and audio is not None and not audio_codecs(audio) <= WEBM_AUDIO:
            self._left_out += ("the audio is left out: .webm holds Opus and Vorbis alone; .mkv keeps it",)
            audio = None
        if suffix not in STEPPED and _shortest_step(timeline) < MILLISECOND:
            close = "frames that are closer than a millisecond may get the same time"
            self._left_out += (f"{target}: {close}; .mp4 keeps them apart",)
        self._path, self._target, self._spec = path, target, spec
        self._timeline = timeline
        self._time_base = 1 / timeline.frame_rate if timeline.pts is None else timeline.time_base
        self._pixel_format = self._settings.format_for(spec)
        self._converter = ColorConverter(spec.color)
        format_name, options = FORMATS[suffix]
        if suffix in STEPPED:
            options = {**options, **_track_options(timeline, target)}
        with self._writing():
            self._container = av.open(str(path), "w", format=format_name, options=options)
        self._maker = Maker()
        self._waiting: Packet[VideoStream] | None = None
        self._begin: Fraction | None = None  # decoding time of the first packet, in seconds
        self._audio: AudioCopier | None = None
        try:
            self._stream = self._add_video(spec, codec)
            if audio is not None:
                self._audio = AudioCopier(audio, self._container)
            with self._writing(), self._checking_audio():
                self._container.start_encoding()
        except BaseException:
            self.close()
            raise

    def put(self, rgb_HWC: Levels, index: int) -> None:
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
            if self._waiting is not None:
                self._write(self._waiting, is_last=True)
            if self._audio is not None:
                self._audio.copy_until(None)
            with self._checking_audio():
                self._container.close()
        if self._spec.pixel_aspect != 1 and self._target.suffix.lower() not in STEPPED:
            self._state_shape()

    def _state_shape(self) -> None:
        spec = self._spec
        with as_output_error(str(self._target)):
            is_stated = state_shape(self._path, spec.height, spec.width, spec.pixel_aspect)
        if not is_stated:
            shape = f"pixels {spec.pixel_aspect} times as wide as high"
            self._left_out += (f"{self._target}: {shape} may be shown as square; write .mp4",)

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
            options={**self._settings.options_for(spec, self._crf), **self._order_options()},
        )
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = spec.width, spec.height, self._pixel_format
        stream.codec_context.time_base = self._time_base
        stream.disposition = Disposition.default
        if self._container.format.name in (MP4, MOV) and self._settings.encoder == "libx265":
            # Apple's players take H.265 in mp4 by this name alone.
            stream.codec_context.codec_tag = "hvc1"
        tag_color(stream.codec_context, spec.color, self._pixel_format)
        if spec.pixel_aspect != 1:
            stream.codec_context.sample_aspect_ratio = spec.pixel_aspect
        try:
            open_encoder(stream.codec_context)
        except av.FFmpegError as error:
            size, rate = {"height": spec.height, "width": spec.width}, self._timeline.frame_rate
            cause = why_refused(self._settings.encoder, error, frame_rate=rate, **size)
            raise UsageError(f"{codec} {cause}; write .y4m, PNG, or ffv1 in .mkv") from error
        return stream

    def _order_options(self) -> dict[str, str]:
        """Return the options of an encoder for its order of frames."""
        # mp4 stores when frames are decoded. At uneven times with B-frames these steps would not add up to
        # the duration of the video, which players take for it.
        is_stepped = self._target.suffix.lower() in STEPPED
        is_uneven = self._timeline.pts is not None
        return {"bf": "0"} if is_stepped and is_uneven and self._settings.has_b_frames else {}

    def _mux(self, packets: list[Packet[VideoStream]]) -> None:
        # One packet behind, since the duration of the last one is that of no other.
        for packet in packets:
            if self._waiting is not None:
                self._write(self._waiting)
            self._waiting = packet

    def _write(self, packet: Packet[VideoStream], *, is_last: bool = False) -> None:
        decoded = None if packet.dts is None else packet.dts * packet.time_base
        if self._begin is None:
            self._begin = decoded
        seconds = self._duration(packet, is_last=is_last)
        if seconds is not None:
            # In the ticks of the file, which are finer than those of a constant rate.
            assert self._stream.time_base is not None
            packet.rescale_ts(AVRational(*self._stream.time_base.as_integer_ratio()))
            packet.duration = max(round(seconds / self._stream.time_base), 1)
        if self._audio is not None:
            if self._audio.lead:
                move_packet(packet, self._audio.lead)
            # Interleaved with the video, so that a player finds both close together.
            if packet.dts is not None:
                self._audio.copy_until(Fraction(packet.dts) * packet.time_base)
        self._container.mux(packet)

    def _duration(self, packet: Packet[VideoStream], *, is_last: bool) -> Fraction | None:
        """Return how long the frame of a packet is shown, or what is left for the last packet.

        Matroska ends where the frame ends that ends last: at uneven times that need not be the last one, if
        encoders give all the same duration. In mp4 the durations of the packets, in the order of decoding,
        add up to that of the video; those between follow from the times.
        """
        timeline = self._timeline
        shown_last = timeline.seconds(timeline.num_frames - 1)
        if packet.pts is not None and abs(packet.pts * packet.time_base - shown_last) < packet.time_base / 2:
            return timeline.duration - shown_last
        is_uneven = timeline.pts is not None
        if is_uneven and packet.pts is not None and self._target.suffix.lower() not in STEPPED:
            index = timeline.index_at((packet.pts + Fraction(1, 2)) * packet.time_base)
            return timeline.seconds(index + 1) - timeline.seconds(index)
        if not is_last or packet.dts is None or self._begin is None:
            return None
        total = timeline.duration - timeline.seconds(0)
        rest = total - (packet.dts * packet.time_base - self._begin)
        return rest if rest > 0 else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user about what the file cannot hold, and audio that is not copied as it is."""
        return (*self._left_out, *(() if self._audio is None else self._audio.notes))

    @contextmanager
    def _checking_audio(self) -> Iterator[None]:
        """Name the audio in errors of muxers, which check it when they write the header or the index."""
        try:
            yield
        except REFUSALS as error:
            if self._audio is None:
                raise
            problem = f"cannot hold {self._audio.names} audio: {explain(error)}"
            raise InputError(f"{self._target}: {problem}; write .mkv, or leave it out") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except av.FFmpegError as error:
            raise OutputError(f"{self._target}: cannot be written: {explain(error)}") from error


def _left_out(name: str, codec: _Codec, spec: VideoSpec) -> tuple[str, ...]:
    """Return lines for the user about what the file cannot state."""
    notes = []
    if spec.color.hdr != Hdr() and codec.encoder not in DIALECTS:
        notes.append(f"{name} cannot store HDR metadata (display, light levels): it is left out")
    primaries = SILENT if spec.color.tags is None else spec.color.tags.primaries
    if codec.encoder == "libx265" and primaries in PRIMARIES and primaries > LAST_X265_PRIMARIES:
        notes.append(f"{name} cannot state primaries {PRIMARIES[primaries]}: they are left out")
    return tuple(notes)


def _shortest_step(timeline: Timeline) -> Fraction:
    """Return the seconds from a frame to the next where they are closest; the last frame does not count."""
    if timeline.num_frames == 1:
        return timeline.duration
    if isinstance(timeline.pts, Ticks):
        return int(np.diff(timeline.pts.values).min()) * timeline.time_base
    return 1 / timeline.frame_rate


def _track_options(timeline: Timeline, target: Path) -> dict[str, str]:
    """Return the options of mp4 for the longest time that a frame is shown: a step has 31 bits.

    Raises
    ------
    UsageError
        If it would be more than that in milliseconds.
    """
    longest = timeline.duration - timeline.seconds(timeline.num_frames - 1)
    if isinstance(timeline.pts, Ticks) and timeline.num_frames > 1:
        longest = max(longest, int(np.diff(timeline.pts.values).max()) * timeline.time_base)
    elif timeline.num_frames > 1:
        longest = max(longest, 1 / timeline.frame_rate)
    if longest * FINEST_TICKS <= MAX_STEP:
        return {}
    ticks = MAX_STEP // longest
    if ticks < 1000:
        days = MAX_STEP // (1000 * 24 * 3600)
        raise UsageError(f"{target}: mp4 cannot show a frame for more than {days} days; write .mkv")
    return {"video_track_timescale": "1000"}


def _checked_crf(name: str, codec: _Codec, crf: int | None) -> int | None:
    """Return the CRF to write with, None for a codec that loses nothing."""
    if codec.crf is None:
        if crf is not None:
            raise UsageError(f"{argument('crf', crf)} has no effect: {name} loses nothing; leave it out")
        return None
    usual, most = codec.crf
    if crf is not None and not 0 <= crf <= most:
        raise UsageError(f"{argument('crf', crf)}: {name} takes 0 (best) to {most}, usually {usual}")
    return usual if crf is None else crf


def _codec(name: str, suffix: str) -> _Codec:
    settings = CODECS.get(name)
    if settings is None:
        raise UsageError(unknown("codec", name, sorted(CODECS)))
    if suffix not in settings.formats:
        raise UsageError(f"{suffix} cannot hold {name}; write {' or '.join(settings.formats)}")
    return settings
