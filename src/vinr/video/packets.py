"""The packets of a video stream, in the order in which they are decoded, on one clock."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from vinr.errors import InputError
from vinr.video.clock import Clock, ClockReader
from vinr.video.coded import Picture, PictureFinder
from vinr.video.libav import VideoFile, explain

# Formats whose index counts the frames.
INDEXED: Final = frozenset({"mov"})
# Of mp4, and of Matroska as libav shows it.
ENCRYPTED_TAGS: Final = frozenset({"encv", "drmi"})
ENCRYPTION_KEY: Final = "enc_key_id"


@dataclass(frozen=True, slots=True)
class PacketNote:
    """The properties of a video packet that are needed later; times are in ticks of the stream.

    ``picture`` tells whether a frame comes out of it.
    """

    pts: int | None
    dts: int | None
    duration: int
    is_keyframe: bool
    is_discard: bool
    is_corrupt: bool
    picture: Picture
    end_byte: int | None


@dataclass(frozen=True)
class Packets:
    """All packets of the video in decoding order; those without data do not count.

    ``ends`` are the seconds at which each kind of stream ends, ``clock`` is what was added to the times.
    """

    video: tuple[PacketNote, ...]
    ends: dict[str, Fraction]
    clock: Clock


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
    path = file.path
    try:
        with file.open() as container:
            packets = _read(container, file.video(container), path, None)
        if packets.clock.is_joined:
            with file.open() as container:
                packets = _read(container, file.video(container), path, packets.clock)
    except av.FFmpegError as error:
        raise InputError(f"{path}: reading it failed: {explain(error)}") from error
    if not packets.video:
        raise InputError(f"{path}: the video stream has no frames")
    return packets


def _read(container: InputContainer, stream: VideoStream, path: Path, clock: Clock | None) -> Packets:
    # None for streams of an unknown codec, which PyAV's types do not say.
    context: VideoCodecContext | None = stream.codec_context
    if context is None:
        raise InputError(f"{path}: not a readable video, or cut short: libav does not know its codec")
    if ENCRYPTION_KEY in stream.metadata or context.codec_tag in ENCRYPTED_TAGS:
        raise _encrypted(path)
    notes: list[PacketNote] = []
    ends: dict[str, Fraction] = {}
    reader, added = ClockReader(container, stream.index), (clock or Clock()).follow()
    finder = PictureFinder(stream)
    demuxed = container.demux(stream) if format_name(container) in INDEXED else container.demux()
    for packet in demuxed:
        if packet.size == 0:
            continue
        if clock is None:
            reader.add(packet)
        seconds = added(packet)
        if packet.pts is not None:
            kind = packet.stream.type
            end = (packet.pts + (packet.duration or 0)) * packet.time_base + seconds
            ends[kind] = max(ends.get(kind, end), end)
        if packet.stream_index == stream.index:
            if packet.has_sidedata("encryption_info"):
                raise _encrypted(path)
            notes.append(_note(packet, round(seconds / packet.time_base), finder.find(packet)))
    return Packets(tuple(notes), ends, reader.clock() if clock is None else clock)


def _encrypted(path: Path) -> InputError:
    return InputError(f"{path}: the video is encrypted; decrypt it first, with the service that it is from")


def _note(packet: Packet[Any], ticks: int, picture: Picture) -> PacketNote:
    return PacketNote(
        pts=None if packet.pts is None else packet.pts + ticks,
        dts=None if packet.dts is None else packet.dts + ticks,
        duration=packet.duration or 0,
        is_keyframe=packet.is_keyframe,
        is_discard=packet.is_discard,
        is_corrupt=packet.is_corrupt,
        picture=picture,
        end_byte=None if packet.pos is None else packet.pos + packet.size,
    )
