"""Frames by number: which packet each comes from, and when it is shown.

::

    packets with a picture ──> their times fall ────> the times tell the order in which frames are shown
                           └─> times rise, or none ─> only the decoder knows it; frame i has the i-th time

The second kind are streams without B-frames, but also AVI, raw streams and what was made of them: there a
time says when a packet is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from av.packet import Packet
from numpy.typing import NDArray

from vinr.video.coded import HasPicture
from vinr.video.packets import PacketNote, Packets


@dataclass(frozen=True)
class Order:
    """The F frames of a stream and the packets they come from, which are numbered in decoding order.

    ``number_F`` are the packets of the frames, in the order in which they are shown, or decoded if not
    ``is_timed``; ``time_F`` are the frames' times in ticks, which do not fall, if the packets have times;
    ``key_K`` are the frames that are keyframes.
    """

    number_F: NDArray[np.int64]
    time_F: NDArray[np.int64] | None
    key_K: NDArray[np.int64]
    is_timed: bool

    @classmethod
    def of(cls, packets: Packets, empty: frozenset[int] = frozenset()) -> Order:
        """Return the frames of all packets with a picture; ``empty`` are some without."""
        numbers = []
        for number, note in enumerate(packets.video):
            if note.has_picture is not HasPicture.NO and not note.is_discard and number not in empty:
                numbers.append(number)
        notes = [packets.video[number] for number in numbers]
        times = _times(notes)
        is_timed = times is not None and any(later < earlier for earlier, later in pairwise(times))
        number_F, time_F = np.array(numbers, np.int64), None
        if times is not None:
            time_F = np.array(times, np.int64)
            shown_F = np.argsort(time_F, kind="stable")
            number_F, time_F = number_F[shown_F], time_F[shown_F]
        is_key_F = np.array([packets.video[number].is_keyframe for number in number_F.tolist()], bool)
        return cls(number_F, time_F, np.flatnonzero(is_key_F), is_timed)

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.number_F)

    @property
    def has_unique_times(self) -> bool:
        """Whether each frame is known by its time."""
        return self.time_F is not None and bool((self.time_F[1:] > self.time_F[:-1]).all())

    def without(self, numbers: frozenset[int]) -> Order:
        """Return the frames of other packets than ``numbers``."""
        if not numbers:
            return self
        kept_F = ~np.isin(self.number_F, np.array(sorted(numbers), np.int64))
        is_key_F = np.zeros(self.num_frames, bool)
        is_key_F[self.key_K] = True
        time_F = None if self.time_F is None else self.time_F[kept_F]
        return Order(self.number_F[kept_F], time_F, np.flatnonzero(is_key_F[kept_F]), self.is_timed)

    def number_at(self, packet: Packet[Any]) -> int | None:
        """Return the number of a packet by its time, which must be unique; ``None`` if it gives no frame."""
        if self.time_F is None or packet.pts is None:
            return None
        index = int(np.searchsorted(self.time_F, packet.pts))
        is_found = index < self.num_frames and int(self.time_F[index]) == packet.pts
        return int(self.number_F[index]) if is_found else None

    @cached_property
    def ranks(self) -> dict[int, int]:
        """The place of each packet's frame in ``number_F``."""
        return {number: rank for rank, number in enumerate(self.number_F.tolist())}

    def keyframe_before(self, index: int) -> int | None:
        """Return the last keyframe up to frame ``index``."""
        place = int(np.searchsorted(self.key_K, index, side="right")) - 1
        return int(self.key_K[place]) if place >= 0 else None

    def keyframe_after(self, index: int) -> int | None:
        """Return the first keyframe after frame ``index``."""
        place = int(np.searchsorted(self.key_K, index, side="right"))
        return int(self.key_K[place]) if place < len(self.key_K) else None


def _times(notes: Sequence[PacketNote]) -> list[int] | None:
    """Return when the packets are shown, or else decoded; ``None`` if not all say."""
    shown = [note.pts for note in notes if note.pts is not None]
    if len(shown) == len(notes):
        return shown
    coded = [note.dts for note in notes if note.dts is not None]
    rise = all(later > earlier for earlier, later in pairwise(coded))
    return coded if rise and len(coded) == len(notes) else None
