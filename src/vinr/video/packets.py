"""The packets of a video stream, in the order in which they are decoded, on one clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from vinr.errors import InputError
from vinr.video.clock import Clock, ClockReader
from vinr.video.coded import HasPicture, PictureFinder
from vinr.video.libav import VideoFile, explain

# Formats whose index counts the frames.
INDEXED: Final = frozenset({"mov"})
# Of mp4, and of Matroska as libav shows it.
ENCRYPTED_TAGS: Final = frozenset({"encv", "drmi"})
ENCRYPTION_KEY: Final = "enc_key_id"


@dataclass(frozen=True, slots=True)
class PacketNote:
    """The properties of a video packet that are needed later; times are in ticks of the stream.

    ``has_picture`` tells whether a frame comes out of it.
    """

    pts: int | None
    dts: int | None
    duration: int
    is_keyframe: bool
    is_discard: bool
    is_corrupt: bool
    has_picture: HasPicture
    end_byte: int | None


@dataclass(frozen=True)
class Packets:
    """All packets of the video in decoding order; those without data do not count.

    ``ends`` are the seconds at which each kind of stream ends, ``clock`` is what was added to the times.
    """

    video: tuple[PacketNote, ...]
    ends: dict[str, Fraction]
    clock: Clock


def filled_packets(container: InputContainer, *streams: Stream) -> Iterator[Packet[Any]]:
    """Yield the packets with data of some streams, or of all."""
    packets = container.demux(*streams)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, IndexError):
            # Of streams that begin late PyAV knows nothing, and fails when it has read everything.
            return
        if packet.size:
            yield packet


def format_name(container: InputContainer) -> str:
    """Return the first of libav's names of the container's format."""
    return container.format.name.partition(",")[0]


def read_packets(file: VideoFile) -> Packets:
    """Demux the whole file; if it has an index, only the video stream.

    Raises
    ------
    InputError
        If the file cannot be read, or its video is encrypted or has no frames.
    """
    try:
        packets = _read(file, None)
        if packets.clock.is_joined:
            packets = _read(file, packets.clock)
    except av.FFmpegError as error:
        raise InputError(f"{file.path}: reading it failed: {explain(error)}") from error
    if not packets.video:
        raise InputError(f"{file.path}: the video stream has no frames")
    return packets


def _read(file: VideoFile, clock: Clock | None) -> Packets:
    with file.open() as container:
        stream = file.video(container)
        _check_codec(file, stream)
        reader, added = ClockReader(container, stream.index), (clock or Clock()).follow()
        finder = PictureFinder(stream)
        notes: list[PacketNote] = []
        ends = _Ends()
        is_indexed = format_name(container) in INDEXED
        for packet in filled_packets(container, *([stream] if is_indexed else [])):
            ticks = 0
            if clock is None:
                reader.add(packet)
            else:
                ticks = round(added(packet) / packet.time_base)
            ends.add(packet, ticks)
            if packet.stream_index == stream.index:
                if (packet.is_keyframe or not notes) and packet.has_sidedata("encryption_info"):
                    raise _encrypted(file)
                notes.append(_note(packet, ticks, finder.find(packet)))
        return Packets(tuple(notes), ends.seconds, reader.clock() if clock is None else clock)


class _Ends:
    """When the streams of a file end."""

    def __init__(self) -> None:
        self._ticks: dict[int, int] = {}
        self._kinds: dict[int, tuple[str, Fraction]] = {}

    def add(self, packet: Packet[Any], ticks: int) -> None:
        """Note when a packet ends that is shown ``ticks`` later than it says."""
        if packet.pts is None:
            return
        index, end = packet.stream_index, packet.pts + (packet.duration or 0) + ticks
        if index not in self._ticks:
            base = packet.time_base
            self._kinds[index] = packet.stream.type, Fraction(base.numerator, base.denominator)
        self._ticks[index] = max(end, self._ticks.get(index, end))

    @property
    def seconds(self) -> dict[str, Fraction]:
        """The second at which the last stream of each kind ends."""
        seconds: dict[str, Fraction] = {}
        for index, (kind, base) in self._kinds.items():
            end = self._ticks[index] * base
            seconds[kind] = max(end, seconds.get(kind, end))
        return seconds


def _check_codec(file: VideoFile, stream: VideoStream) -> None:
    # None for streams of an unknown codec, which PyAV's types do not say.
    context: VideoCodecContext | None = stream.codec_context
    if context is None:
        problem = "not a readable video, or cut short: libav does not know its codec"
        raise InputError(f"{file.path}: {problem}")
    if ENCRYPTION_KEY in stream.metadata or context.codec_tag in ENCRYPTED_TAGS:
        raise _encrypted(file)


def _encrypted(file: VideoFile) -> InputError:
    return InputError(f"{file.path}: the video is encrypted; decrypt it first, where it comes from")


def _note(packet: Packet[Any], ticks: int, has_picture: HasPicture) -> PacketNote:
    return PacketNote(
        pts=None if packet.pts is None else packet.pts + ticks,
        dts=None if packet.dts is None else packet.dts + ticks,
        duration=packet.duration or 0,
        is_keyframe=packet.is_keyframe,
        is_discard=packet.is_discard,
        is_corrupt=packet.is_corrupt,
        has_picture=has_picture,
        end_byte=None if packet.pos is None else packet.pos + packet.size,
    )
