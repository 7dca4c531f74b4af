"""What a container says of a video's times: its rate, and how long the last frame is shown."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from vinr.video.libav import VideoFile
from vinr.video.order import Order
from vinr.video.packets import Packets, format_name
from vinr.video.times import Stated

FALLBACK_RATE: Final = Fraction(25)
# libav's, where a format has none.
FINEST_BASE: Final = Fraction(1, 90_000)
# Formats that state the duration of each frame; elsewhere libav takes that of the rate.
FRAMES_LAST: Final = frozenset({"apng", "gif"})
# Of a Matroska track: hours, minutes, seconds.
CLOCK_TIME: Final = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
# mkvmerge counts a track's duration from its first frame, libav from 0.
BY_MKVMERGE: Final = "_STATISTICS_WRITING_APP"
# A file lasts as long as the stream that ends last: the video, if all others end this much before.
CLEAR_SECONDS: Final = Fraction(1, 10)


def stated_times(
    container: InputContainer, file: VideoFile, packets: Packets, order: Order, *, is_whole: bool
) -> Stated:
    """Return what the container says of the times of the frames of ``order``.

    ``is_whole``: its end is certainly there, so that a longer duration in its header is not that of what
    is missing.
    """
    stream = file.video(container)
    stated = (stream.average_rate, stream.guessed_rate, stream.base_rate)
    time_base = stream.time_base or 1 / FALLBACK_RATE
    known = [rate for rate in stated if rate is not None and rate > 0]
    if order.time_F is None and time_base == FINEST_BASE:
        # Of streams without times, such as covers, libav guesses a frame a tick.
        known = [rate for rate in known if rate != 1 / time_base]
    rates = tuple(known) or (FALLBACK_RATE,)
    return Stated(time_base, rates, _last_seconds(container, stream, packets, order, is_whole))


def _last_seconds(
    container: InputContainer, stream: VideoStream, packets: Packets, order: Order, is_whole: bool
) -> Fraction | None:
    """Return how many seconds the last frame is shown, ``None`` if nothing says so."""
    if order.time_F is None or stream.time_base is None:
        return None
    last = int(order.time_F[-1])
    own = packets.video[int(order.number_F[-1])].duration
    name = format_name(container)
    if name in FRAMES_LAST:
        return own * stream.time_base
    if name == "mov":
        ticks = _of_samples(packets, order) - last
        # With B-frames and uneven times the durations do not add up; that of the last sample still holds.
        if ticks <= 0 and int(order.number_F[-1]) == len(packets.video) - 1:
            ticks = own
        return ticks * stream.time_base
    if name == "matroska":
        end = _matroska_end(container, stream, packets) if is_whole else Fraction(0)
        return max(own * stream.time_base, end - last * stream.time_base)
    return None


def _of_samples(packets: Packets, order: Order) -> int:
    """Return when the last frame of mp4 ends: its samples have durations in the order of decoding."""
    # decoded   0 3 1 2 6 4 5     the durations add up to those of the frames, and begin with the first one
    # times     0 1 2 3 4 5 6
    assert order.time_F is not None
    decoded = [(note.dts, note.duration) for note in packets.video if note.dts is not None]
    shown = [note.pts for note in packets.video if note.pts is not None]
    if not decoded or not shown:
        return 0
    end = max(dts + duration for dts, duration in decoded) + min(shown) - min(decoded)[0]
    # An edit list may end the video before its last sample.
    for pts in shown:
        if pts > order.time_F[-1]:
            end = min(end, pts)
    return end


def _matroska_end(container: InputContainer, stream: VideoStream, packets: Packets) -> Fraction:
    """Return the second at which the video ends by the tags of its track or by the whole file's duration."""
    ends = [Fraction(0)]
    for key, value in stream.metadata.items():
        stated = CLOCK_TIME.fullmatch(value) if key.startswith("DURATION") else None
        if stated is None:
            continue
        hours, minutes, seconds = map(Fraction, stated.groups())
        begin = Fraction(0)
        if BY_MKVMERGE in stream.metadata and stream.time_base is not None:
            begin = min(note.pts or 0 for note in packets.video) * stream.time_base
        ends.append(begin + 3600 * hours + 60 * minutes + seconds)
    whole = Fraction(container.duration or 0, av.time_base)
    others = [end for kind, end in packets.ends.items() if kind != "video"]
    if all(end + CLEAR_SECONDS < whole for end in others):
        ends.append(whole)
    return max(ends)
