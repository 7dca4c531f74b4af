"""The AUDIO section: a Matroska file of all audio tracks, or a NUT file where Matroska cannot hold a codec.

NUT takes the codecs of cameras and of old files (G.711, ADPCM, WMA, AMR), but keeps less of what a decoder
needs. What is lacking is stored as metadata of the track (:data:`HINTS`), and tried before it is relied on.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from typing import Any, BinaryIO, Final, Protocol, cast

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.format import Flags
from av.packet import Packet
from numpy.typing import NDArray

from vinr.errors import InputError
from vinr.video.libav import explain, move_packet

MATROSKA: Final = "matroska"
NUT: Final = "nut"
NUT_MAGIC: Final = b"nut/multimedia container\0"
# Audio encoders start a little before 0 to warm up. Such times must not be shifted, or audio and video drift
# apart. bitexact leaves out random identifiers, so that the same audio gives the same bytes.
MATROSKA_OPTIONS: Final = {"avoid_negative_ts": "disabled", "fflags": "+bitexact"}
OPTIONS: Final = {MATROSKA: MATROSKA_OPTIONS, NUT: {"fflags": "+bitexact"}}

# What PyAV raises for streams that libav cannot make sense of.
UNUSABLE: Final = (av.FFmpegError, ValueError, ArithmeticError, InputError)
UNKNOWN: Final = "unknown"
OVERLAP_SECONDS: Final = Fraction(1, 10)

# By the metadata that holds it: the option of a decoder that NUT forgets.
HINTS: Final = {
    "BITS_PER_CODED_SAMPLE": "bits_per_coded_sample",
    "BLOCK_ALIGN": "block_align",
    "BIT_RATE": "b",
}
LAYOUT: Final = "CHANNEL_LAYOUT"
# Matroska and NUT only count channels; PCM in mp4 must say which they are. By count, as libav guesses.
LAYOUTS: Final = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
UNNAMED: Final = " channels"  # how libav calls a layout of which it knows no more than the count


class AudioSource(Protocol):
    """The audio of a clip, wherever it lies: an :class:`~vinr.video.spec.Audio`, or one read in pieces."""

    @property
    def start(self) -> Fraction:
        """As of :class:`~vinr.video.spec.Audio`."""
        ...

    def open(self) -> BinaryIO:
        """Return the AUDIO section as a file that can seek, at its beginning."""
        ...


def open_section(file: BinaryIO) -> InputContainer:
    """Open an AUDIO section, at its beginning; it is read as it is needed.

    Raises
    ------
    InputError
        If it is not a file of audio.
    """
    name = NUT if file.read(len(NUT_MAGIC)) == NUT_MAGIC else MATROSKA
    try:
        container = _open(file, name)
        # Options of decoders are told when a file is opened.
        options = [_decoder_options(stream.metadata) for stream in container.streams]
        if name == NUT and any(options):
            container.close()
            container = _open(file, name, stream_options=options)
    except UNUSABLE as error:
        raise InputError(f"the audio is not readable Matroska or NUT data: {explain(error)}") from error
    return container


def _open(file: BinaryIO, name: str, **options: Any) -> InputContainer:
    file.seek(0)
    container: InputContainer = av.open(file, "r", format=name, metadata_errors="replace", **options)
    return container


def choose_format(streams: Sequence[AudioStream]) -> str | None:
    """Return the container that holds all ``streams``; None if neither does."""
    for name in OPTIONS:
        if _holds(name, streams):
            return name
    return None


def find_begin(packet: Packet[Any]) -> Fraction:
    """Return the seconds at which a packet begins, on the clock of its file.

    Raises
    ------
    InputError
        If the file does not say.
    """
    if packet.pts is None:
        packet.pts = packet.dts
    if packet.pts is None:
        raise InputError("packets without a time")
    return packet.pts * packet.time_base


class CopiedTrack:
    """A track of an output, to which packets go as they are, with times that rise."""

    def __init__(self, output: OutputContainer, stream: AudioStream) -> None:
        self.stream = stream
        # Matroska takes equal times, and its ticks may be longer than a packet.
        self._must_rise = not cast(Any, output.format).flags & Flags.ts_nonstrict.value
        self._last: int | None = None
        # When the packet before began, and the shortest time from one to the next.
        self._begin: Fraction | None = None
        self._shortest: Fraction | None = None

    def take(self, packet: Packet[AudioStream]) -> None:
        """Make ``packet`` one of this track.

        Packets that were apart may come together when times are rounded, and joined recordings overlap a
        little: such a packet is moved to the next tick of the output, whose header must be written.
        """
        packet.stream = self.stream
        self._give_duration(packet)
        base = self.stream.time_base
        if packet.dts is None or base is None or not self._must_rise:
            return
        tick = math.floor(packet.dts * packet.time_base / base + Fraction(1, 2))
        if self._last is not None and 0 <= (self._last - tick) * base < OVERLAP_SECONDS:
            move_packet(packet, (self._last + 1 - tick) * base)
            tick = self._last + 1
        self._last = tick

    def _give_duration(self, packet: Packet[AudioStream]) -> None:
        """Let a packet without a duration, such as one of ALAC in Matroska, last as long as those before.

        Else mp4 would end where its last packet begins.
        """
        if packet.pts is None:
            return
        begin = packet.pts * packet.time_base
        if self._begin is not None and begin > self._begin:
            step = begin - self._begin
            self._shortest = step if self._shortest is None else min(self._shortest, step)
        self._begin = begin
        if not packet.duration and self._shortest is not None:
            packet.duration = round(self._shortest / packet.time_base)


def codec_name(stream: AudioStream) -> str:
    """Return the name of a stream's codec, :data:`UNKNOWN` if libav does not know it."""
    # None for such streams, which PyAV's types do not say.
    context: AudioCodecContext | None = stream.codec_context
    return UNKNOWN if context is None else context.name


def copy_track(output: OutputContainer, stream: AudioStream) -> AudioStream:
    """Add a track like ``stream``, with its language, title, flags and channel layout.

    Raises
    ------
    ValueError
        If the output cannot hold the codec.
    """
    copy = output.add_stream_from_template(stream)
    describe_track(copy, stream)
    return copy


def describe_track(copy: AudioStream, stream: AudioStream) -> None:
    """Give ``copy`` the language, title, flags and channel layout of ``stream``."""
    # mp4 calls the title of a track its name.
    title = stream.metadata.get("title") or stream.metadata.get("name")
    for name, value in (("language", stream.language), ("title", title)):
        if value:
            copy.metadata[name] = value
    copy.disposition = stream.disposition
    layout = find_layout(stream)
    if layout is not None:
        copy.codec_context.layout = layout


def keep_layout(copy: AudioStream, stream: AudioStream) -> None:
    """Store what ``stream`` says of its channels where the count alone does not tell it."""
    layout = stream.codec_context.layout
    is_plain = layout.name.endswith(UNNAMED) or LAYOUTS.get(layout.nb_channels) == layout.name
    # Other codecs state their channels themselves.
    if codec_name(stream).startswith("pcm_") and not is_plain:
        copy.metadata[LAYOUT] = layout.name


def find_layout(stream: AudioStream) -> str | None:
    """Return the channel layout that the container has lost; None if it is known, or unknowable."""
    layout = stream.codec_context.layout
    if not layout.name.endswith(UNNAMED):
        return None
    with suppress(ValueError):
        stored = av.AudioLayout(stream.metadata[LAYOUT]) if LAYOUT in stream.metadata else None
        if stored is not None and stored.nb_channels == layout.nb_channels:
            return stored.name
    return LAYOUTS.get(layout.nb_channels)


def find_hints(stream: AudioStream, packets: Sequence[Packet[AudioStream]]) -> dict[str, str]:
    """Return the metadata with which the first ``packets`` of a track, once in NUT, decode to what they are.

    Raises
    ------
    InputError
        If nothing helps.
    """
    expected = _decode(stream.codec_context, packets)
    if expected is not None:
        for hints in _candidates(stream, packets):
            with suppress(*UNUSABLE), open_section(_short_nut(stream, packets, hints)) as section:
                found = _decode(section.streams.audio[0].codec_context, packets)
                if found is not None and np.array_equal(found, expected):
                    return hints
    raise InputError("NUT does not keep what its decoder needs")


def _candidates(stream: AudioStream, packets: Sequence[Packet[AudioStream]]) -> Iterator[dict[str, str]]:
    yield {}
    context = stream.codec_context
    bit_rate = context.bit_rate or 0
    num_bits = round(bit_rate / max(1, context.sample_rate * context.layout.nb_channels))
    for bits in (num_bits, 4):
        yield {"BITS_PER_CODED_SAMPLE": str(bits)}
    yield {"BLOCK_ALIGN": str(packets[0].size), "BIT_RATE": str(bit_rate)}


def _short_nut(
    stream: AudioStream, packets: Sequence[Packet[AudioStream]], hints: Mapping[str, str]
) -> BinaryIO:
    target = io.BytesIO()
    with av.open(target, "w", format=NUT, options=OPTIONS[NUT]) as output:
        copy = copy_track(output, stream)
        copy.metadata.update(hints)
        for number, packet in enumerate(packets):
            bare = _bare(packet)
            bare.pts = bare.dts = number
            bare.stream = copy
            output.mux(bare)
    target.seek(0)
    return target


def _bare(packet: Packet[AudioStream]) -> Packet[AudioStream]:
    """Return a packet without side data, which says how many samples to skip."""
    return cast("Packet[AudioStream]", Packet(bytes(packet)))


def _decode(context: AudioCodecContext, packets: Sequence[Packet[AudioStream]]) -> NDArray[np.generic] | None:
    """Return the samples of packets, None if they cannot be decoded."""
    pieces = []
    try:
        for packet in packets:
            pieces += [frame.to_ndarray() for frame in context.decode(_bare(packet))]
        pieces += [frame.to_ndarray() for frame in context.decode(None)]
    except UNUSABLE:
        return None
    return np.concatenate(pieces, axis=1) if pieces else None


def _decoder_options(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the options that ``metadata``, which is not trusted, has for a decoder."""
    options = {}
    for name, option in HINTS.items():
        value = metadata.get(name, "")
        if value.isascii() and value.isdecimal() and len(value) < 10:
            options[option] = value
    return options


def _holds(name: str, streams: Sequence[AudioStream]) -> bool:
    output = av.open(io.BytesIO(), "w", format=name, options=OPTIONS[name])
    try:
        for stream in streams:
            copy_track(output, stream)
        output.start_encoding()
    except UNUSABLE:
        return False
    finally:
        with suppress(*UNUSABLE):
            output.close()
    return True
