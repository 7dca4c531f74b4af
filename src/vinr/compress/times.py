"""A clip's timeline ↔ the bytes of its section TIMES."""

from __future__ import annotations

from fractions import Fraction

from vinr.bitstream import pack_times, unpack_times
from vinr.video.spec import Timeline

__all__ = ["decode_times", "encode_times"]


def encode_times(timeline: Timeline) -> bytes:
    """Return section TIMES of a ``timeline`` that has presentation times."""
    if timeline.pts is None:
        raise ValueError("a timeline of constant rate is not stored")
    base = timeline.time_base
    return pack_times((base.numerator, base.denominator), timeline.pts)


def decode_times(payload: bytes, num_frames: int, frame_rate: Fraction) -> Timeline:
    """Return the timeline of a clip with ``num_frames`` frames and nominal ``frame_rate``.

    Raises
    ------
    BitstreamError
        If the section is damaged.
    """
    time_base, pts = unpack_times(payload, num_frames)
    return Timeline(num_frames, frame_rate, Fraction(*time_base), pts)
