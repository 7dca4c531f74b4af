"""Where a stream can be decoded from: recordings begin in the middle, cuts leave frames without references.

::

    decoded   p b b | I b b P …      shown   b b p | b b I P …
    dropped   x x x     x x          p and its b: before the keyframe; the b after I refer to p as well

Players start with the first frame that decodes. So does vinr, and says how many frames that leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from av.video.frame import VideoFrame

from vinr.errors import InputError
from vinr.video.coded import HasPicture
from vinr.video.libav import VideoFile
from vinr.video.numbered import REORDERED, NumberedFrames
from vinr.video.order import Order
from vinr.video.packets import Packets

# Frames after the first by which a decoder shows whether it changes their order.
NUM_TRIED: Final = 2 * REORDERED


@dataclass(frozen=True)
class Head:
    """How a stream begins: its first frame, and the packets whose frames are left out.

    ``reorders`` tells whether the decoder gives frames in another order than that of their packets.
    """

    frame: VideoFrame
    dropped: frozenset[int]
    reorders: bool

    def notes(self, path: Path) -> tuple[str, ...]:
        """Return a line for the user if frames are left out."""
        count = len(self.dropped)
        frames = "1 frame is" if count == 1 else f"{count} frames are"
        line = f"{path}: begins in mid-stream: {frames} left out, up to the first that can be decoded"
        return (line,) if count else ()


@dataclass(frozen=True)
class _Start:
    """The first frame that is decoded well, the packets of such frames up to there or a little further, in
    the order in which they come, and whether a packet failed."""

    frame: VideoFrame
    number: int
    came: list[int]
    has_failed: bool


def inspect_head(file: VideoFile, packets: Packets, order: Order) -> Head:
    """Decode from the start until it is known which of the first frames players show.

    Raises
    ------
    InputError
        If no frame can be decoded.
    """
    key, is_late = _first_keyframe(packets, order)
    with file.open() as container:
        delays = file.video(container).codec_context.has_b_frames
        frames = NumberedFrames(container, file)
        num_more = NUM_TRIED if (delays or is_late) and not order.is_timed else 0
        start = _decode_start(frames, order, key, num_more)
    if start is None:
        reason = f": {frames.failure}" if frames.failure else ""
        raise InputError(f"{file.path}: no frame can be decoded{reason}; the file is damaged")
    dropped: frozenset[int] = frozenset()
    # Where the first packet is a keyframe and fails, the file is damaged; reading it says so.
    if is_late or not start.has_failed:
        dropped = _before(start, order, key) if order.is_timed else _not_come(start, order, key)
    return Head(start.frame, dropped, reorders=start.came != sorted(start.came))


def _first_keyframe(packets: Packets, order: Order) -> tuple[int, bool]:
    """Return the first packet that is a keyframe, and whether others with a frame come before it."""
    for number, note in enumerate(packets.video):
        if note.is_keyframe and note.has_picture is not HasPicture.NO:
            return number, bool((order.number_F < number).any())
    return 0, True


def _decode_start(frames: NumberedFrames, order: Order, key: int, num_more: int) -> _Start | None:
    ranks = order.ranks
    from_rank = ranks.get(key, 0) if order.is_timed else 0
    came: list[int] = []
    start: VideoFrame | None = None
    first, has_failed = key, False
    for number, frame in frames:
        has_failed |= frame.is_corrupt or bool(frames.failure and start is None)
        if number < key or number not in ranks or frame.is_corrupt:
            continue
        came.append(number)
        if start is None and ranks[number] >= from_rank:
            start, first = frame, number
        if start is not None and len(came) > num_more:
            break
    return None if start is None else _Start(start, first, came, has_failed)


def _before(start: _Start, order: Order, key: int) -> frozenset[int]:
    """Return the packets whose frames are shown before the first one from which on none is missing."""
    ranks = order.ranks
    came = set(start.came)
    first = ranks[start.number]
    while first > 0 and int(order.number_F[first - 1]) in came:
        first -= 1
    return frozenset(order.number_F[:first].tolist())


def _not_come(start: _Start, order: Order, key: int) -> frozenset[int]:
    """Return the packets before the keyframe, and those after it that give no frame, up to one that does."""
    came = set(start.came)
    dropped = order.number_F[order.number_F < key].tolist()
    highest = max(came)
    for number in order.number_F[order.number_F >= key].tolist():
        if number in came:
            if number != key:
                break
        elif number > highest:
            break
        else:
            dropped.append(number)
    return frozenset(dropped)


def find_empty(file: VideoFile, packets: Packets) -> frozenset[int]:
    """Return the packets that give no frame, of those whose first bytes do not tell.

    These are MPEG-4's "as before", and the second fields of H.264 whose fields are packets of their own: only
    the first of two has a time.
    """
    notes = packets.video
    doubtful = {number for number, note in enumerate(notes) if note.has_picture is HasPicture.MAYBE}
    untimed = {number for number, note in enumerate(notes) if note.pts is None}
    with file.open() as container:
        if file.video(container).codec_context.name != "h264":
            untimed.clear()
        if not doubtful and not untimed:
            return frozenset()
        frames = NumberedFrames(container, file, one_by_one=True)
        is_interlaced = {number: frame.interlaced_frame for number, frame in frames}
    second = {number for number in untimed if is_interlaced.get(number - 1, False)}
    return frozenset((doubtful | second) - is_interlaced.keys() - frames.failed)
