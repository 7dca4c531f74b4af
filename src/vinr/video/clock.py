"""One clock for all streams of a file whose own clock jumps: transport and program streams that were joined.

::

    in the file    | 0 1 2 3 4 | 0 1 2 3 |      two recordings, one after another: the clock jumps back
    as played      | 0 1 2 3 4 | 5 6 7 8 |      the second goes on where the first ends

libav passes such times on as they are. Here they are continued as players do, by the same number of seconds
for all streams, so that audio and video stay in step.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from statistics import median
from typing import Any, Final, cast

import av.format
from av.container import InputContainer
from av.packet import Packet

MICROSECONDS: Final = 1_000_000
# ffmpeg's own limits: a clock that goes back by more than the first, or ahead by more than the second, jumps.
BACK: Final = MICROSECONDS // 10
AHEAD: Final = 10 * MICROSECONDS
# A time lapse has frames further apart than that: what is usual in a stream is no jump.
UNUSUAL: Final = 10


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
        that overlap after that come one tick after another.
        """
        counts: dict[int, int] = {}
        places: dict[int, int] = {}
        ends: dict[int, Fraction] = {}

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
            ends[stream] = max(begin, ends.get(stream, begin - packet.time_base) + packet.time_base)
            return seconds + ends[stream] - begin

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


class ClockReader:
    """Takes the packets of a file in their order, and finds where its clock jumps.

    ``video`` is the index of the stream that goes on without a gap where it does.
    """

    def __init__(self, container: InputContainer, video: int) -> None:
        self._may_jump = bool(cast(Any, container.format).flags & av.format.Flags.ts_discont.value)
        self._video = video
        self._counts: dict[int, int] = {}
        # For each packet with a time, in the order of the file: stream, number in it, begin and end (µs).
        self._packets = array("q")

    def add(self, packet: Packet[Any]) -> None:
        """Note the times of the next packet that has data."""
        number = self._counts.get(packet.stream_index, 0)
        self._counts[packet.stream_index] = number + 1
        tick = packet.pts if packet.dts is None else packet.dts
        if not self._may_jump or tick is None or packet.stream.type not in ("audio", "video"):
            return
        begin = round(tick * packet.time_base * MICROSECONDS)
        end = round((tick + (packet.duration or 0)) * packet.time_base * MICROSECONDS)
        self._packets.extend((packet.stream_index, number, begin, end))

    def clock(self) -> Clock:
        """Return what is to be added to the times of the packets that were taken."""
        pieces = self._pieces()
        if len(pieces) < 2:
            return Clock()
        steps: dict[int, list[tuple[int, Fraction]]] = {}
        ends: dict[int, int] = {}
        for piece in pieces:
            shift = self._continued(piece, ends) if ends else 0
            for stream, part in piece.parts.items():
                steps.setdefault(stream, []).append((part.number, Fraction(shift, MICROSECONDS)))
                ends[stream] = part.end + shift
        return Clock({stream: tuple(found) for stream, found in steps.items()})

    def _continued(self, piece: _Piece, ends: Mapping[int, int]) -> int:
        """Return what to add to the times of ``piece``, if the streams before it end at ``ends``."""
        known = [stream for stream in piece.parts if stream in ends]
        if not known:
            return piece.shift
        leader = self._video if self._video in known else known[0]
        shift = ends[leader] - piece.parts[leader].begin
        # Streams of a recording end a little apart; what overlaps by more than that would be heard twice.
        overlap = max(ends[stream] - piece.parts[stream].begin - shift for stream in known)
        return shift + overlap if overlap > BACK else shift

    def _pieces(self) -> list[_Piece]:
        ahead = self._unusual_steps()
        pieces = [_Piece(0)]
        current: dict[int, int] = {}
        for place in range(0, len(self._packets), 4):
            stream, number, begin, end = self._packets[place : place + 4]
            # Near a join the packets of two streams may mix: one may still be of the piece before.
            own = current.get(stream, len(pieces) - 1)
            for chosen in range(len(pieces) - 1, own - 1, -1):
                if not _jumps(pieces[own], pieces[chosen].shift, stream, begin, ahead):
                    break
            else:
                before = pieces[own].parts[stream].end + pieces[own].shift
                pieces.append(_Piece(before - begin))
                chosen = len(pieces) - 1
            current[stream] = chosen
            part = pieces[chosen].parts.setdefault(stream, _Part(number, begin, begin, end))
            part.last, part.end = begin, end
        return pieces

    def _unusual_steps(self) -> dict[int, float]:
        """Return for each stream how far ahead of the last packet the next one is no longer ordinary (µs)."""
        begins: dict[int, list[int]] = {}
        for place in range(0, len(self._packets), 4):
            begins.setdefault(self._packets[place], []).append(self._packets[place + 2])
        limits: dict[int, float] = {}
        for stream, times in begins.items():
            steps = [later - earlier for earlier, later in pairwise(times)]
            limits[stream] = max(AHEAD, UNUSUAL * median(steps)) if steps else AHEAD
        return limits


def _jumps(own: _Piece, shift: int, stream: int, begin: int, ahead: Mapping[int, float]) -> bool:
    """Return whether a packet of ``stream`` does not go on from the last one, in ``own``, if shifted so."""
    part = own.parts.get(stream)
    if part is None:
        return False
    moved = begin + shift - own.shift
    return moved < part.last - BACK or moved > part.end + ahead[stream]
