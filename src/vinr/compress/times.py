"""Presentation times of a clip ↔ the bytes of its section TIMES (docs/format.md, section 4)."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from vinr.bitstream import ByteReader, deflate, inflate, pack_varint, pack_zigzag
from vinr.errors import BitstreamError
from vinr.video.spec import Timeline

__all__ = ["decode_times", "encode_times"]

MAX_STEP = 2**40
MAX_TIME_BASE = 2**31 - 1
STORED, DEFLATED = 0, 1
MAX_NUMBER_BYTES = 9
WHAT = "section TIMES"


def encode_times(timeline: Timeline) -> bytes:
    """Return section TIMES of a ``timeline`` that has presentation times.

    Raises
    ------
    ValueError
        If it has none, or a step of more than 2⁴⁰ ticks, or a time base with a part of 2³¹ or more.
    """
    base = timeline.time_base.numerator, timeline.time_base.denominator
    if timeline.pts is None or max(base) > MAX_TIME_BASE:
        raise ValueError(f"{WHAT} cannot hold a constant rate or the time base {timeline.time_base}")
    steps = [later - earlier for earlier, later in pairwise(timeline.pts)]
    if max(steps, default=1) > MAX_STEP:
        raise ValueError(f"{WHAT} cannot hold a step of {max(steps)} ticks, at most {MAX_STEP} is allowed")
    plain = b"".join(pack_zigzag(later - earlier) for earlier, later in pairwise([0, *steps]))
    packed = deflate(plain)
    kind, body = (DEFLATED, packed) if len(packed) < len(plain) else (STORED, plain)
    return pack_varint(base[0]) + pack_varint(base[1]) + bytes([kind]) + body


def decode_times(payload: bytes, num_frames: int, frame_rate: Fraction) -> Timeline:
    """Return the timeline of a clip with ``num_frames`` frames and nominal ``frame_rate``.

    Raises
    ------
    BitstreamError
        If the section is damaged or a time does not rise.
    """
    reader = ByteReader(payload, WHAT)
    time_base = reader.varint(MAX_TIME_BASE), reader.varint(MAX_TIME_BASE)
    kind = reader.fixed(1)
    if 0 in time_base or kind not in (STORED, DEFLATED):
        raise BitstreamError(f"{WHAT} has time base {time_base} and coding {kind}; not allowed")
    body = reader.take(reader.num_left)
    if kind == DEFLATED:
        body = inflate(body, MAX_NUMBER_BYTES * num_frames, WHAT)
    reader = ByteReader(body, WHAT)
    tick, step, pts = 0, 0, [0]
    for _ in range(num_frames - 1):
        step += reader.zigzag(MAX_STEP)
        if not 1 <= step <= MAX_STEP:
            raise BitstreamError(f"{WHAT} has a step of {step} ticks, 1 … {MAX_STEP} are allowed")
        tick += step
        pts.append(tick)
    reader.finish()
    return Timeline(num_frames, frame_rate, Fraction(*time_base), tuple(pts))
