"""Whether the last frames of a video are there and whole, as its packets tell.

Used beside :mod:`vinr.video.ends`, where the container says nothing of its end or states more than it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from vinr.errors import InputError
from vinr.video.bounds import End, Verdict
from vinr.video.ends import read_end
from vinr.video.libav import video_stream

# Formats that packets are cut out of by libav, which takes a cut one for whole.
BYTE_STREAMS: Final = frozenset(
    {"avs2", "avs3", "cavsvideo", "dirac", "evc", "h261", "h263", "h264", "hevc", "m4v", "mjpeg", "mpeg"}
    | {"mpegts", "mpegvideo", "obu", "vc1", "vvc"}
)
# Their duration is that of what is there; nothing states it.
UNSTATED: Final = BYTE_STREAMS | {"rawvideo", "yuv4mpegpipe"}
INDEXED: Final = frozenset({"mov"})
# Frames by which stated and found duration may differ: of the last frame, and of rounding.
SLACK_FRAMES: Final = 2
# Sound is cut off with the pictures, but muxers write the two up to 0.7 s apart.
SOUND_SLACK_SECONDS: Final = Fraction(1, 4)
# Frames that are shown after, but may be stored before the last one.
REORDERED: Final = 16
UNEVEN: Final = 1.5
# Decoders that take what follows a cut picture for a part of it, without an error.
READING_ON: Final = frozenset({"h264", "hevc", "vvc"})
# No start code, and nothing that looks like one.
PADDING: Final = bytes.fromhex("a55ac33c") * 16


@dataclass(frozen=True)
class PacketNote:
    """What is kept of a packet of the video."""

    pts: int | None
    is_keyframe: bool
    is_discard: bool
    is_corrupt: bool
    end_byte: int | None

    @classmethod
    def of(cls, packet: Packet[Any]) -> PacketNote:
        """Take notes of ``packet``."""
        end_byte = None if packet.pos is None else packet.pos + packet.size
        return cls(packet.pts, packet.is_keyframe, packet.is_discard, packet.is_corrupt, end_byte)


@dataclass(frozen=True)
class Packets:
    """All packets of the video in decoding order, and the seconds at which each kind of stream ends."""

    video: tuple[PacketNote, ...]
    ends: dict[str, Fraction]


@dataclass(frozen=True)
class Tail:
    """What is to be told of the end of a file that can be read.

    ``notes``: lines for the user; ``incomplete_pts``: time of a frame that is there in part only.
    """

    notes: tuple[str, ...] = ()
    incomplete_pts: int | None = None


def read_packets(container: InputContainer, stream: VideoStream) -> Packets:
    """Demux the whole file; of files with an index the video alone."""
    notes = []
    ends: dict[str, Fraction] = {}
    demuxed = container.demux(stream) if _format(container) in INDEXED else container.demux()
    for packet in demuxed:
        if packet.size == 0:
            continue
        if packet.pts is not None:
            kind = packet.stream.type
            end = (packet.pts + (packet.duration or 0)) * packet.time_base
            ends[kind] = max(ends.get(kind, end), end)
        if packet.stream_index == stream.index:
            notes.append(PacketNote.of(packet))
    return Packets(tuple(notes), ends)


def inspect_tail(
    container: InputContainer, path: Path, packets: Packets, *, reopen: Callable[[], InputContainer]
) -> Tail:
    """Return what is known of the end of the file that ``packets`` were read from.

    Raises
    ------
    InputError
        If its end is missing for certain.
    """
    stream = video_stream(container, path)
    end = read_end(path, container.format.name)
    reason = _missing(container, path, stream, packets, end)
    if reason is not None:
        raise InputError(f"{path}: the file is cut short: {reason}; get a complete copy")
    doubts = [end.reason] if end.verdict is Verdict.DOUBTFUL else []
    doubts += _unmet_duration(container, stream, packets)
    incomplete_pts = None
    if end.verdict is not Verdict.WHOLE:
        doubts += _gap(packets, stream)
        if _format(container) in BYTE_STREAMS:
            doubts += _uneven_ends(packets)
            if not _last_is_whole(reopen, path, packets):
                incomplete_pts = packets.video[-1].pts
                doubts.append("its last frame is incomplete")
                if incomplete_pts is None:
                    raise InputError(
                        f"{path}: the file is cut short: the last frame is incomplete; get a complete copy"
                    )
    notes = (f"{path}: may be cut short: {'; '.join(doubts)}",) if doubts else ()
    return Tail(notes, incomplete_pts)


def _format(container: InputContainer) -> str:
    return container.format.name.partition(",")[0]


def _missing(
    container: InputContainer, path: Path, stream: VideoStream, packets: Packets, end: End
) -> str | None:
    """Return why the end of the file is missing for certain; ``None`` if it is not."""
    num_indexed = len(stream.index_entries)
    if len(packets.video) < num_indexed:
        return f"{len(packets.video)} of {num_indexed} frames are there"
    last = packets.video[-1]
    # libav passes over a cut last frame of y4m, which has nothing but frames up to the end of the file.
    is_partial = _format(container) == "yuv4mpegpipe" and last.end_byte != path.stat().st_size
    if last.is_corrupt or is_partial:
        return "the last frame is incomplete"
    return end.reason if end.verdict is Verdict.MISSING else None


def _unmet_duration(container: InputContainer, stream: VideoStream, packets: Packets) -> list[str]:
    """Compare what the headers state with what is there."""
    if _format(container) in UNSTATED or not packets.ends:
        return []
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    stated = Fraction(container.duration or 0, av.time_base)
    found = max(packets.ends.values())
    if stream.duration is not None and stream.time_base is not None:
        own = (stream.duration + (stream.start_time or 0)) * stream.time_base
        if own - packets.ends.get("video", own) > SLACK_FRAMES / rate:
            stated, found = own, packets.ends["video"]
    if _format(container) in INDEXED or stated - found <= SLACK_FRAMES / rate:
        return []
    return [f"it states {float(stated):.2f} s but ends at {float(found):.2f} s"]


def _gap(packets: Packets, stream: VideoStream) -> list[str]:
    """Look for frames that are missing before the last ones: B-frames are stored after what they refer to."""
    pts = sorted(note.pts for note in packets.video if note.pts is not None)
    steps = [later - earlier for earlier, later in pairwise(pts)]
    if len(steps) < 3:
        return []
    usual = median(steps)
    first, last = steps[:-REORDERED], steps[-REORDERED:]
    if usual <= 0 or max(first, default=0) >= UNEVEN * usual or max(last) < UNEVEN * usual:
        return []
    missing = sum(round(step / usual) - 1 for step in last)
    if missing < 1:
        return []
    return [f"{missing} frame{' is' if missing == 1 else 's are'} missing before the last one"]


def _uneven_ends(packets: Packets) -> list[str]:
    """Compare where pictures and sound end."""
    video, audio = packets.ends.get("video"), packets.ends.get("audio")
    if video is None or audio is None or abs(video - audio) <= SOUND_SLACK_SECONDS:
        return []
    first, second = ("sound ends", "pictures") if audio < video else ("pictures end", "sound")
    return [f"its {first} {float(abs(video - audio)):.2f} s before its {second}"]


def _last_is_whole(reopen: Callable[[], InputContainer], path: Path, packets: Packets) -> bool:
    """Whether the last packet holds all of its picture, so that decoding it neither fails nor needs more."""
    picture = _decode_last(reopen, path, packets, err_detect="explode")
    if picture is None:
        return False
    with reopen() as container:
        if video_stream(container, path).codec_context.name not in READING_ON:
            return True
    # Behind a whole picture nothing matters.
    return picture == _decode_last(reopen, path, packets, padding=PADDING)


def _decode_last(
    reopen: Callable[[], InputContainer],
    path: Path,
    packets: Packets,
    *,
    padding: bytes = b"",
    err_detect: str = "",
) -> tuple[bytes, ...] | None:
    """Decode the last packet with ``padding`` behind it, from the last keyframe on.

    Returns the samples of its picture (none if another shows it), or ``None`` if its decoding fails.
    """
    last = len(packets.video) - 1
    first = max((number for number, note in enumerate(packets.video) if note.is_keyframe), default=0)
    planes: tuple[bytes, ...] = ()
    with reopen() as container:
        stream = video_stream(container, path)
        context = stream.codec_context
        # Threads that each have a frame would report an error late.
        context.thread_type = "SLICE"
        if err_detect:
            context.options = {"err_detect": err_detect}
        filled = (packet for packet in container.demux(stream) if packet.size)
        for number, packet in enumerate(islice(filled, first, last + 1), first):
            coded = Packet(bytes(packet) + (padding if number == last else b""))
            coded.pts = number
            try:
                frames = context.decode(coded)
                frames += context.decode(None) if number == last else []
            except av.FFmpegError:
                if number == last:
                    return None
                continue
            for frame in frames:
                if frame.pts == last:
                    planes = tuple(bytes(plane) for plane in frame.planes)
    return planes
