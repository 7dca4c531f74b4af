"""Presentation times of a clip, the content of section TIMES (docs/format.md, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from vinr.bitstream.varint import MAX_VARINT_BYTES, ByteReader, deflate, inflate, pack_varint, pack_zigzag
from vinr.errors import BitstreamError

__all__ = ["pack_times", "unpack_times"]

MAX_STEP = 2**40
MAX_TIME_BASE = 2**31 - 1
STORED, DEFLATED = 0, 1


def pack_times(time_base: tuple[int, int], pts: Sequence[int]) -> bytes:
    """Return the bytes of section TIMES.

    Parameters
    ----------
    time_base
        Numerator and denominator of the seconds in one tick, each 1 … 2³¹ − 1.
    pts
        Presentation time of each frame in ticks: 0 first, then rising by 1 … 2⁴⁰.
    """
    if not all(1 <= part <= MAX_TIME_BASE for part in time_base):
        raise ValueError(f"time base {time_base} must have parts in 1 … {MAX_TIME_BASE}")
    steps = [later - earlier for earlier, later in pairwise(pts)]
    if not pts or pts[0] != 0 or not all(1 <= step <= MAX_STEP for step in steps):
        raise ValueError(f"presentation times must start at 0 and rise by 1 … {MAX_STEP} ticks")
    plain = b"".join(pack_zigzag(later - earlier) for earlier, later in pairwise([0, *steps]))
    packed = deflate(plain)
    kind, body = (DEFLATED, packed) if len(packed) < len(plain) else (STORED, plain)
    return pack_varint(time_base[0]) + pack_varint(time_base[1]) + bytes([kind]) + body


def unpack_times(payload: bytes, num_frames: int) -> tuple[tuple[int, int], tuple[int, ...]]:
    """Return time base and presentation times of ``num_frames`` frames, as :func:`pack_times` took them.

    Raises
    ------
    BitstreamError
        If the section is damaged or a time does not rise.
    """
    reader = ByteReader(payload, "section TIMES")
    time_base = reader.varint(MAX_TIME_BASE), reader.varint(MAX_TIME_BASE)
    kind = reader.fixed(1)
    if 0 in time_base or kind not in (STORED, DEFLATED):
        raise BitstreamError(f"section TIMES has time base {time_base} and coding {kind}; not allowed")
    body = reader.take(reader.num_left)
    if kind == DEFLATED:
        body = inflate(body, MAX_VARINT_BYTES * num_frames, "section TIMES")
    reader = ByteReader(body, "section TIMES")
    tick, step, pts = 0, 0, [0]
    for _ in range(num_frames - 1):
        step += reader.zigzag(MAX_STEP)
        if not 1 <= step <= MAX_STEP:
            raise BitstreamError(f"section TIMES has a step of {step} ticks, 1 … {MAX_STEP} are allowed")
        tick += step
        pts.append(tick)
    reader.finish()
    return time_base, tuple(pts)
