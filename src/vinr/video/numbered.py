"""Decodes a video stream so that each frame is known by the packet it comes from.

Times would not do: they are missing, wrong or not unique in many files, and a frame that is lost would go
unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import av
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame

from vinr.video.libav import VideoFile, explain
from vinr.video.order import Order
from vinr.video.packets import filled_packets

# Decoders hold back at most this many frames until those before them are there.
REORDERED: Final = 16
UNKNOWN: Final = -1
UNPACK: Final = "mpeg4_unpack_bframes"


class NumberedFrames:
    """The frames of a stream from where its container is read, each with the number of its packet.

    ``number_of`` gives the number of a packet (``None``: unknown); without it packets are counted from 0.
    ``failure`` is what the decoder said last of a packet that it cannot decode, and ``failed`` is the packet,
    exactly if ``one_by_one`` lets no threads decode several packets at once.
    """

    def __init__(
        self,
        container: InputContainer,
        file: VideoFile,
        *,
        number_of: Callable[[Packet[Any]], int | None] | None = None,
        one_by_one: bool = False,
    ) -> None:
        self._stream = file.video(container)
        self._stream.thread_type = "SLICE" if one_by_one else "AUTO"
        self._packets = filled_packets(container, self._stream)
        self._number_of = number_of
        # AVI may hold a B-frame in the packet of another frame, and a packet without one in its place.
        is_packed = self._stream.codec_context.name == "mpeg4"
        self._unpack = BitStreamFilterContext(UNPACK, self._stream) if is_packed else None
        self.failure = ""
        self.failed: set[int] = set()

    def __iter__(self) -> Iterator[tuple[int, VideoFrame]]:
        counted = count()
        number = UNKNOWN
        for packet in self._read():
            if self._number_of is None:
                number = next(counted)
            else:
                found = self._number_of(packet)
                number = UNKNOWN if found is None else found
            for one in [packet] if self._unpack is None else self._unpack.filter(packet):
                one.pts = number
                yield from self._decode(one, number)
        yield from self._decode(None, number)

    def _read(self) -> Iterator[Packet[Any]]:
        try:
            yield from self._packets
        except av.FFmpegError as error:
            self.failure = explain(error)

    def _decode(self, packet: Packet[Any] | None, number: int) -> Iterable[tuple[int, VideoFrame]]:
        try:
            frames = self._stream.codec_context.decode(packet)
        except av.FFmpegError as error:
            self.failure = explain(error)
            self.failed.add(number)
            return
        for frame in frames:
            yield (UNKNOWN if frame.pts is None else frame.pts), frame


@dataclass(frozen=True)
class Shown:
    """Frame ``index`` as it is shown; ``lost`` is the first one missing before it, if one is."""

    index: int
    frame: VideoFrame
    lost: int | None = None


def in_order(frames: NumberedFrames, order: Order, start: int) -> Iterator[Shown]:
    """Yield the frames of ``order`` from frame ``start`` on, and tell where one is missing.

    ``frames`` are read from the packet of frame ``start`` or from one before it; frames that come earlier are
    passed over. The order in which they come counts: it is that of ``order``, unless times are wrong.
    """
    # of order  0 1 2 3 4 5      frames come as 0, 2, 3, 1, 4 …: while one of those before is awaited, the
    # awaited       1 1 - 4      others are held back. If it has not come until REORDERED after, it is lost.
    ranks = order.ranks
    awaited: set[int] = set()
    held: list[VideoFrame] = []
    index, highest = start, start - 1
    for number, frame in frames:
        rank = ranks.get(number)
        if rank is None or rank < start:
            continue
        awaited.discard(rank)
        awaited.update(range(highest + 1, rank))
        highest = max(highest, rank)
        held.append(frame)
        lost = {waiting for waiting in awaited if waiting < highest - REORDERED}
        if awaited and not lost:
            continue
        yield from _released(held, index, lost)
        index += len(held) + len(lost)
        held.clear()
        awaited -= lost
    yield from _released(held, index, awaited)


def _released(held: Sequence[VideoFrame], index: int, lost: set[int]) -> Iterator[Shown]:
    """Yield frames that were held back from frame ``index`` on; those ``lost`` are taken to come first."""
    first = min(lost, default=None)
    for number, frame in enumerate(held, index + len(lost)):
        yield Shown(number, frame, first)
        first = None
