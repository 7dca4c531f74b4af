"""Copies an AUDIO section to an output; what the output cannot hold is decoded to PCM."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Final, Protocol, cast

from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.error import ArgumentError
from av.packet import Packet

from vinr.errors import InputError
from vinr.video.audio_section import (
    MATROSKA,
    UNKNOWN,
    UNUSABLE,
    AudioSource,
    CopiedTrack,
    choose_format,
    codec_name,
    copy_track,
    describe_track,
    find_begin,
    find_layout,
    open_section,
)
from vinr.video.libav import explain, move_packet

# By the samples that a decoder gives, in planes or not: PCM that holds all their bits.
PCM_BY_SAMPLES: Final = {
    "u8": "pcm_s16le",
    "s16": "pcm_s16le",
    "s32": "pcm_s32le",
    "flt": "pcm_f32le",
    "dbl": "pcm_f64le",
}
# What rounding to Matroska's milliseconds explains.
ROUNDING_SECONDS: Final = Fraction(1, 1000)
# A year, far more than any recording; the sums of times then stay within what packets hold.
MAX_START_SECONDS: Final = 365 * 24 * 3600
# Samples follow one another where the times leave gaps or overlap by less than this.
JITTER_SECONDS: Final = Fraction(5, 1000)


class AudioCopier:
    """Copies the packets of ``audio`` (from :func:`extract_audio`) to an output that is being written.

    ``lead`` is how many seconds the audio begins before the first frame: the frames must be written that much
    later, so that no time is negative. ``names`` are the codecs of the audio; ``notes`` are lines for the
    user about what is not copied as it is.

    Raises
    ------
    InputError
        If the output's format cannot hold the audio codec.
    """

    def __init__(self, audio: AudioSource, output: OutputContainer) -> None:
        self._output = output
        self.notes: tuple[str, ...] = ()
        if abs(audio.start) > MAX_START_SECONDS:
            far = f"it begins {float(audio.start):.3g} s after the picture"
            raise InputError(f"the audio is damaged: {far}; leave it out")
        # Whole milliseconds: the containers count in them, and frames and audio are rounded alike.
        early = -audio.start
        self.lead = Fraction(math.ceil(early * 1000), 1000) if early > ROUNDING_SECONDS else Fraction(0)
        self._offset = audio.start + self.lead
        self._input = open_section(audio.open())
        try:
            streams = self._input.streams.audio
            self.names = ", ".join(dict.fromkeys(map(codec_name, streams)))
            self._tracks = {stream.index: self._add(stream) for stream in streams}
            self._packets = self._read()
            self._next = next(self._packets, None)
        except BaseException:
            self._input.close()
            raise

    def copy_until(self, seconds: Fraction | None) -> None:
        """Write the packets that begin at ``seconds`` or earlier; all remaining ones if ``None``."""
        while self._next is not None and (seconds is None or find_begin(self._next) <= seconds):
            self._mux(self._tracks[self._next.stream_index].converted(self._next))
            self._next = next(self._packets, None)
        if seconds is None:
            for track in self._tracks.values():
                self._mux(track.rest())

    def close(self) -> None:
        """Release the input."""
        self._input.close()

    def _mux(self, packets: Iterator[Packet[AudioStream]]) -> None:
        try:
            converted = list(packets)
        except UNUSABLE as error:
            raise InputError(f"the audio is damaged: {explain(error)}; leave it out") from error
        for packet in converted:
            try:
                self._output.mux(packet)
            except (ValueError, ArithmeticError, ArgumentError) as error:
                raise InputError(f"the audio is damaged: {explain(error)}; leave it out") from error

    def _read(self) -> Iterator[Packet[AudioStream]]:
        try:
            for packet in self._input.demux(self._input.streams.audio):
                if packet.size == 0:
                    continue  # PyAV ends each stream with an empty packet
                find_begin(packet)  # refuses packets without a time
                if self._offset:
                    move_packet(packet, self._offset)
                yield packet
        except UNUSABLE as error:
            raise InputError(f"the audio is damaged: {explain(error)}; leave it out") from error

    def _add(self, stream: AudioStream) -> _Track:
        name, format_name = codec_name(stream), self._output.format.name
        if name == UNKNOWN:
            raise InputError("the audio is damaged: libav does not know its codec; leave it out")
        try:
            return _Copied(self._output, stream)
        except UNUSABLE as error:
            # PCM is many times larger than a lossy codec, which Matroska holds as it is.
            if not stream.codec_context.codec.lossless and choose_format([stream]) == MATROSKA:
                problem = f"{format_name} cannot hold {name} audio"
                raise InputError(f"{problem}; write .mkv, or leave it out") from error
        track = _Decoded(self._output, stream)
        self.notes += (f"{format_name} cannot hold {name} audio: it is decoded and written as {track.name}",)
        return track


def audio_codecs(audio: AudioSource) -> set[str]:
    """Return the names of the codecs of all tracks."""
    with open_section(audio.open()) as tracks:
        return set(map(codec_name, tracks.streams.audio))


class _Track(Protocol):
    def converted(self, packet: Packet[AudioStream]) -> Iterator[Packet[AudioStream]]:
        """Yield what is written for a packet."""
        ...

    def rest(self) -> Iterator[Packet[AudioStream]]:
        """Yield what is written at the end."""
        ...


class _Copied:
    """A track whose packets are written as they are."""

    def __init__(self, output: OutputContainer, stream: AudioStream) -> None:
        self._track = CopiedTrack(output, copy_track(output, stream))

    def converted(self, packet: Packet[AudioStream]) -> Iterator[Packet[AudioStream]]:
        self._track.take(packet)
        yield packet

    def rest(self) -> Iterator[Packet[AudioStream]]:
        yield from ()


class _Decoded:
    """A track that is decoded and written as PCM, which loses nothing more."""

    def __init__(self, output: OutputContainer, stream: AudioStream) -> None:
        context, layout = stream.codec_context, find_layout(stream)
        try:
            if layout is not None:
                context.layout = layout
            context.open(strict=False)
            self.name = PCM_BY_SAMPLES.get(context.format.name.removesuffix("p"), "pcm_s32le")
            copy = output.add_stream(self.name, rate=context.sample_rate, layout=context.layout)
        except UNUSABLE as error:
            problem = f"the audio ({codec_name(stream)}) cannot be decoded: {explain(error)}"
            raise InputError(f"{problem}; leave it out") from error
        self._context, self._copy = context, cast(AudioStream, copy)
        describe_track(self._copy, stream)
        self._next: int | None = None

    def converted(self, packet: Packet[AudioStream]) -> Iterator[Packet[AudioStream]]:
        begin = find_begin(packet)
        for frame in packet.decode():
            yield from self._encoded(frame, begin)

    def rest(self) -> Iterator[Packet[AudioStream]]:
        if self._next is not None:
            for frame in self._context.decode(None):
                yield from self._encoded(frame, Fraction(self._next, self._context.sample_rate))
        yield from self._copy.encode(None)

    def _encoded(self, frame: AudioFrame, begin: Fraction) -> Iterator[Packet[AudioStream]]:
        """Encode a frame; ``begin`` is its time where it has none itself."""
        rate = self._context.sample_rate
        if frame.pts is not None and frame.time_base is not None:
            begin = frame.pts * frame.time_base
        sample = round(begin * rate)
        if self._next is None or sample - self._next > rate * JITTER_SECONDS:
            self._next = sample
        frame.pts, frame.time_base = self._next, Fraction(1, rate)
        self._next += frame.samples
        yield from self._copy.encode(frame)
