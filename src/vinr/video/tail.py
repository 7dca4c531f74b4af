"""Whether the last frames of a video are present and complete, judged by its packets.

Used with :mod:`vinr.video.ends`, for containers that say nothing about their end or state more than they
hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Final

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from vinr.errors import InputError
from vinr.video.bounds import End, Verdict
from vinr.video.ends import read_end
from vinr.video.libav import VideoFile
from vinr.video.packets import INDEXED, Packets, filled_packets, format_name

# Formats without packets of their own: libav cuts the stream into packets, and takes a truncated one for
# complete.
BYTE_STREAMS: Final = frozenset(
    {"avs2", "avs3", "cavsvideo", "dirac", "evc", "h261", "h263", "h264", "hevc", "m4v", "mjpeg", "mpeg"}
    | {"mpegts", "mpegvideo", "obu", "vc1", "vvc"}
)
# Formats that state no duration: libav reports that of the frames that are present.
UNSTATED: Final = BYTE_STREAMS | {"rawvideo", "yuv4mpegpipe"}
# Frames by which the stated and the actual duration may differ: the last frame's own, and rounding.
SLACK_FRAMES: Final = 2
# In a whole file both end together. Where a file is cut, they end apart: muxers write them up to 0.7 s apart.
AUDIO_SLACK_SECONDS: Final = Fraction(1, 4)
# B-frames: this many frames may be shown after the last stored one.
REORDERED: Final = 16
# A gap between presentation times is uneven from this many times the median on.
UNEVEN: Final = 1.5
# Decoders that take the bytes after a truncated picture for a part of it, without an error.
READING_ON: Final = frozenset({"h264", "hevc", "vvc"})
# Bytes without a start code (0 0 1) or anything like it.
PADDING: Final = bytes.fromhex("a55ac33c") * 16


@dataclass(frozen=True)
class Tail:
    """What the user is told about the end of a readable file.

    ``notes``: lines for the user; ``is_incomplete``: whether of the last packet only a part is present;
    ``is_whole``: whether the container says that its end is there.
    """

    notes: tuple[str, ...] = ()
    is_incomplete: bool = False
    is_whole: bool = False


def inspect_tail(container: InputContainer, file: VideoFile, packets: Packets) -> Tail:
    """Return what is known about the end of the file from which ``packets`` were read.

    Raises
    ------
    InputError
        If its end is certainly missing.
    """
    stream, path = file.video(container), file.path
    end = read_end(path, container.format.name)
    reason = _missing(container, path, stream, packets, end)
    if reason is not None:
        raise InputError(f"{path}: the file is cut short: {reason}; get a complete copy")
    doubts = [end.reason] if end.verdict is Verdict.DOUBTFUL else []
    doubts += _unmet_duration(container, stream, packets, end)
    is_incomplete = False
    if end.verdict is not Verdict.WHOLE:
        doubts += _gap(packets, stream)
        if format_name(container) in BYTE_STREAMS:
            doubts += _uneven_ends(packets)
            if not _last_is_whole(file, packets):
                is_incomplete = True
                doubts.append("its last frame is incomplete")
                if packets.video[-1].pts is None:
                    problem = "the file is cut short: the last frame is incomplete"
                    raise InputError(f"{path}: {problem}; get a complete copy")
    notes = (f"{path}: may be cut short: {'; '.join(doubts)}",) if doubts else ()
    return Tail(notes, is_incomplete, end.verdict is Verdict.WHOLE)


def _missing(
    container: InputContainer, path: Path, stream: VideoStream, packets: Packets, end: End
) -> str | None:
    """Return why the end of the file is certainly missing; ``None`` if it is not."""
    num_indexed = len(stream.index_entries)
    if len(packets.video) < num_indexed:
        return f"only {len(packets.video)} of {num_indexed} frames are present"
    last = packets.video[-1]
    # libav skips a truncated last frame of y4m, which has nothing but frames up to the end of the file.
    is_partial = format_name(container) == "yuv4mpegpipe" and last.end_byte != path.stat().st_size
    if last.is_corrupt or is_partial:
        return "the last frame is incomplete"
    return end.reason if end.verdict is Verdict.MISSING else None


def _unmet_duration(container: InputContainer, stream: VideoStream, packets: Packets, end: End) -> list[str]:
    """Return a doubt if the headers state a longer duration than the packets have."""
    if format_name(container) in UNSTATED or not packets.ends:
        return []
    if format_name(container) == "matroska" and end.verdict is Verdict.WHOLE:
        return []  # its last frame is held
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    stated = Fraction(container.duration or 0, av.time_base)
    actual = max(packets.ends.values())
    # The duration of the video stream is the sharper test: audio may be longer than the video.
    if stream.duration is not None and stream.time_base is not None:
        of_stream = (stream.duration + (stream.start_time or 0)) * stream.time_base
        if of_stream - packets.ends.get("video", of_stream) > SLACK_FRAMES / rate:
            stated, actual = of_stream, packets.ends["video"]
    if format_name(container) in INDEXED or stated - actual <= SLACK_FRAMES / rate:
        return []
    return [f"it states {float(stated):.2f} s but ends at {float(actual):.2f} s"]


def _gap(packets: Packets, stream: VideoStream) -> list[str]:
    """Return a doubt if frames are missing before the last ones: B-frames follow their references."""
    # stored  0 4 2 1 3 | 8 6 [5 7]     a cut here leaves 0 1 2 3 4 6 8: gaps among the last frames alone
    pts = sorted(note.pts for note in packets.video if note.pts is not None)
    step_N = np.diff(np.array(pts))
    if len(step_N) < 3:
        return []
    usual = float(np.median(step_N))
    is_even = step_N[:-REORDERED].max(initial=0) < UNEVEN * usual
    last_N = step_N[-REORDERED:]
    if usual <= 0 or not is_even or last_N.max() < UNEVEN * usual:
        return []
    missing = int((np.rint(last_N / usual) - 1).sum())
    if not 1 <= missing <= REORDERED:
        return []  # more are a pause
    return [f"{missing} frame{' is' if missing == 1 else 's are'} missing before the last one"]


def _uneven_ends(packets: Packets) -> list[str]:
    """Return a doubt if video and audio end at different times."""
    video, audio = packets.ends.get("video"), packets.ends.get("audio")
    if video is None or audio is None or abs(video - audio) <= AUDIO_SLACK_SECONDS:
        return []
    first, second = ("audio", "video") if audio < video else ("video", "audio")
    return [f"its {first} ends {float(abs(video - audio)):.2f} s before its {second}"]


def _last_is_whole(file: VideoFile, packets: Packets) -> bool:
    """Return whether the last packet holds its whole picture: decoding it neither fails nor needs more."""
    picture = _decode_last(file, packets, err_detect="explode")
    if picture is None:
        return False
    with file.open() as container:
        if file.video(container).codec_context.name not in READING_ON:
            return True
    # Bytes after a complete picture change nothing.
    return picture == _decode_last(file, packets, padding=PADDING)


def _decode_last(
    file: VideoFile,
    packets: Packets,
    *,
    padding: bytes = b"",
    err_detect: str = "",
) -> tuple[bytes, ...] | None:
    """Decode from the last keyframe on, with ``padding`` after the last packet.

    Return the samples of the last packet's picture (nothing if another packet shows it), or ``None`` if
    decoding it fails.
    """
    first = last = len(packets.video) - 1
    while first > 0 and not packets.video[first].is_keyframe:
        first -= 1
    planes: tuple[bytes, ...] = ()
    with file.open() as container:
        stream = file.video(container)
        context = stream.codec_context
        # With a thread per frame, an error would be reported too late.
        context.thread_type = "SLICE"
        if err_detect:
            context.options = {"err_detect": err_detect}
        filled = islice(filled_packets(container, stream), first, last + 1)
        for number, packet in enumerate(filled, first):
            # The number of the packet as its time tells which of the pictures that come out is its own.
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
