"""One clock for all streams of a file whose own clock jumps: transport and program streams that were joined.

::

    in the file    | 0 1 2 3 4 | 0 1 2 3 |      two recordings, one after another: the clock jumps back
    as played      | 0 1 2 3 4 | 5 6 7 8 |      the second goes on where the first ends

libav passes such times on as they are. Here they are continued as players do, by the same number of seconds
for all streams, so that audio and video stay in step.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, NamedTuple, cast

import av.format
import numpy as np
from av.container import InputContainer
from av.packet import Packet

MICROSECONDS: Final = 1_000_000
# ffmpeg's own limits: a clock that goes back by more than the first, or ahead by more than the second, jumps.
BACK: Final = MICROSECONDS // 10
AHEAD: Final = 10 * MICROSECONDS
# A time lapse has frames further apart than that: what is usual in a stream is no jump.
UNUSUAL: Final = 10
CLOSEST: Final = Fraction(1, 1000)


@dataclass(frozen=True)
class Clock:
    """What is to be added to the times of a file's packets.

    ``steps`` are, for each stream, pairs of a packet's number in its stream and the seconds that are added
    from that packet on; a stream that is not listed keeps its times.
    """

    steps: Mapping[int, tuple[tuple[int, Fraction], ...]] = field(default_factory=dict)

    @property
    def is_joined(self) -> bool:
        """Whether the file's own clock jumps."""
        return bool(self.steps)

    def follow(self) -> Callable[[Packet[Any]], Fraction]:
        """Return a function that tells how many seconds to add to the times of the next packet.

        It is to be called for every packet of a stream that has data, in the order of the file and from its
        start. Streams may come in any mixture or be left out. In a file that is joined, packets of a stream
        that overlap after that come a millisecond after another: the least that all containers tell apart.
        """
        counts: dict[int, int] = {}
        places: dict[int, int] = {}
        lasts: dict[int, Fraction] = {}

        def added(packet: Packet[Any]) -> Fraction:
            stream = packet.stream_index
            number = counts.get(stream, 0)
            counts[stream] = number + 1
            steps = self.steps.get(stream)
            if steps is None:
                return Fraction(0)
            place = places.get(stream, 0)
            if place + 1 < len(steps) and steps[place + 1][0] <= number:
                places[stream] = place = place + 1
            seconds = steps[place][1]
            tick = packet.pts if packet.dts is None else packet.dts
            if tick is None:
                return seconds
            begin = tick * packet.time_base + seconds
            lasts[stream] = max(begin, lasts.get(stream, begin - CLOSEST) + CLOSEST)
            return seconds + lasts[stream] - begin

        return added


@dataclass
class _Part:
    """The packets of one stream in one piece: number, begin of the first, begin and end of the last (µs)."""

    number: int
    begin: int
    last: int
    end: int


@dataclass
class _Piece:
    """What lies between two jumps; ``shift`` is added to its times (µs)."""

    shift: int
    parts: dict[int, _Part] = field(default_factory=dict)


class _Stamp(NamedTuple):
    """A packet: its number in the stream, begin and end (µs), and whether a recording may begin with it."""

    number: int
    begin: int
    end: int
    may_begin: bool


class _Stamps(Iterable[_Stamp]):
    """The packets of a stream, of which there may be millions."""

    def __init__(self) -> None:
        self._numbers = array("q")

    def append(self, stamp: _Stamp) -> None:
        """Add a packet."""
        self._numbers.extend(stamp)

    def __iter__(self) -> Iterator[_Stamp]:
        for place in range(0, len(self._numbers), 4):
            number, begin, end, may_begin = self._numbers[place : place + 4]
            yield _Stamp(number, begin, end, bool(may_begin))

    @property
    def usual_step(self) -> float:
        """The median time between two packets (µs)."""
        begin_N = np.array(self._numbers, np.int64)[1::4]
        return float(np.median(np.diff(begin_N))) if len(begin_N) > 1 else 0.0


class ClockReader:
    """Takes the packets of a file in their order, and finds where its clock jumps.

    ``video`` is the index of the stream that tells where, and goes on there without a gap.
    """

    def __init__(self, container: InputContainer, video: int) -> None:
        self._may_jump = bool(cast(Any, container.format).flags & av.format.Flags.ts_discont.value)
        self._video = video
        self._counts: dict[int, int] = {}
        self._stamps: dict[int, _Stamps] = {}
        self._was_corrupt = False

    def add(self, packet: Packet[Any]) -> None:
        """Note the times of the next packet that has data."""
        if not self._may_jump:
            return
        stream = packet.stream_index
        number = self._counts.get(stream, 0)
        self._counts[stream] = number + 1
        tick = packet.pts if packet.dts is None else packet.dts
        may_begin = packet.is_keyframe or self._was_corrupt
        if stream == self._video:
            # So libav calls the last packet before the numbers of a stream's parts, which are joined, break.
            self._was_corrupt = packet.is_corrupt
        if tick is None or packet.stream.type not in ("audio", "video"):
            return
        base = packet.time_base
        begin = tick * base.numerator * MICROSECONDS // base.denominator
        end = begin + (packet.duration or 0) * base.numerator * MICROSECONDS // base.denominator
        self._stamps.setdefault(stream, _Stamps()).append(_Stamp(number, begin, end, may_begin))

    def clock(self) -> Clock:
        """Return what is to be added to the times of the packets that were taken."""
        pieces = self._pieces(self._stamps.get(self._video, _Stamps()))
        if len(pieces) < 2:
            return Clock()
        for stream, stamps in self._stamps.items():
            if stream != self._video:
                _assign(stream, stamps, pieces)
        steps: dict[int, list[tuple[int, Fraction]]] = {}
        ends: dict[int, int] = {}
        for piece in pieces:
            shift = self._continued(piece, ends) if ends else 0
            for stream, part in piece.parts.items():
                steps.setdefault(stream, []).append((part.number, Fraction(shift, MICROSECONDS)))
                ends[stream] = part.end + shift
        return Clock({stream: tuple(found) for stream, found in steps.items()})

    def _pieces(self, stamps: _Stamps) -> list[_Piece]:
        """Return the pieces of the video, each continuing the one before."""
        ahead = max(AHEAD, UNUSUAL * stamps.usual_step)
        pieces: list[_Piece] = []
        part: _Part | None = None
        for stamp in stamps:
            is_back = part is not None and stamp.begin < part.last - BACK
            # A clock that goes on, but far ahead, may also be that of a pause.
            is_ahead = part is not None and stamp.begin > part.end + ahead and stamp.may_begin
            if part is None or is_back or is_ahead:
                shift = 0 if part is None else pieces[-1].shift + part.end - stamp.begin
                part = _Part(stamp.number, stamp.begin, stamp.begin, stamp.end)
                pieces.append(_Piece(shift, {self._video: part}))
            part.last, part.end = stamp.begin, stamp.end
        return pieces

    def _continued(self, piece: _Piece, ends: Mapping[int, int]) -> int:
        """Return what to add to the times of ``piece``, if the streams before it end at ``ends``."""
        shift = ends[self._video] - piece.parts[self._video].begin
        # Streams of a recording end a little apart; what overlaps by more than that would be heard twice.
        overlap = 0
        for stream, part in piece.parts.items():
            overlap = max(overlap, ends.get(stream, part.begin + shift) - part.begin - shift)
        return shift + overlap if overlap > BACK else shift


def _assign(stream: int, stamps: Iterable[_Stamp], pieces: Sequence[_Piece]) -> None:
    """Find the packets of another stream than the video in each of the pieces: where they go on best."""
    own = 0
    end: int | None = None
    for stamp in stamps:
        if end is not None:
            nearest = abs(stamp.begin + pieces[own].shift - end)
            for later in range(own + 1, len(pieces)):
                distance = abs(stamp.begin + pieces[later].shift - end)
                if distance >= nearest:
                    break
                own, nearest = later, distance
        part = pieces[own].parts.setdefault(stream, _Part(stamp.number, stamp.begin, stamp.begin, stamp.end))
        part.last, part.end = stamp.begin, stamp.end
        end = stamp.end + pieces[own].shift
