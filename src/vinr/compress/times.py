"""Presentation times of a clip ↔ the bytes of its section TIMES (docs/format.md, section 4)."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vinr.bitstream import ByteReader, deflate, inflate, pack_varint, pack_zigzag
from vinr.errors import BitstreamError, plural
from vinr.video.spec import Ticks, Timeline

MAX_STEP = 2**40
MAX_TIME_BASE = 2**31 - 1
STORED, DEFLATED = 0, 1
MAX_NUMBER_BYTES = 9
WHAT = "section TIMES"
# Numbers decoded at once: sums of this many steps of 2^40 stay below 2^63, where int64 would wrap.
BLOCK = 2**16
MAX_TICK = 2**62


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
    #   pts           0   40   80   121          second differences are near 0 at any nearly constant rate
    #   steps      0    40   40   41
    #   numbers       40   0    1
    numbers: list[bytes] = []
    step = 0
    for earlier, later in pairwise(timeline.pts):
        previous, step = step, later - earlier
        if step > MAX_STEP:
            raise ValueError(f"{WHAT} cannot hold a step of {step} ticks; at most {MAX_STEP} is allowed")
        numbers.append(pack_zigzag(step - previous))
    plain = b"".join(numbers)
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
        raise BitstreamError(f"{WHAT} has time base {time_base} and coding {kind}, which is not allowed")
    body = reader.take(reader.num_left)
    if kind == DEFLATED:
        body = inflate(body, MAX_NUMBER_BYTES * num_frames, WHAT)
    pts = np.zeros(num_frames, dtype=np.int64)
    start = tick = step = 0
    for first in range(1, num_frames, BLOCK):
        count = min(BLOCK, num_frames - first)
        difference_N, start = _read_numbers(body, start, count)
        step_N = step + np.cumsum(difference_N)
        wrong_N = (step_N < 1) | (step_N > MAX_STEP)
        if wrong_N.any():
            step = int(step_N[wrong_N.argmax()])
            raise BitstreamError(f"{WHAT} has a step of {step} ticks; 1 … {MAX_STEP} are allowed")
        tick_N = tick + np.cumsum(step_N)
        step, tick = int(step_N[-1]), int(tick_N[-1])
        if tick > MAX_TICK:
            raise BitstreamError(f"{WHAT} ends at tick {tick}; at most {MAX_TICK} is allowed")
        pts[first : first + count] = tick_N
    if start < len(body):
        raise BitstreamError(f"{WHAT} has {plural(len(body) - start, 'extra byte')} at its end")
    return Timeline(num_frames, frame_rate, Fraction(*time_base), Ticks(pts))


def _read_numbers(body: bytes, start: int, count: int) -> tuple[NDArray[np.int64], int]:
    """Return ``count`` zigzag numbers of at most 2⁴⁰ from byte ``start`` on, and where they end."""
    # Bytes below 0x80 end a number:   1aaaaaaa 0bbbbbbb | 0ccccccc | …  =  b·2^7 + a, c, …
    byte_B = np.frombuffer(body, np.uint8, min(MAX_NUMBER_BYTES * count, len(body) - start), start)
    end_N = np.flatnonzero(byte_B < 0x80)[:count]
    first_N = np.concatenate([[0], end_N[:-1] + 1])[: len(end_N)]
    length_N = end_N - first_N + 1
    padded = (byte_B[end_N] == 0) & (length_N > 1)
    if len(end_N) < count or padded.any() or length_N.max() > MAX_NUMBER_BYTES:
        return _read_slowly(body, start, count)
    coded_N = np.zeros(count, dtype=np.int64)
    # One pass per place of a byte in its number, over all numbers that reach so far.
    for place in range(int(length_N.max())):
        reaches_N = length_N > place
        coded_N[reaches_N] |= (byte_B[first_N[reaches_N] + place] & 0x7F).astype(np.int64) << (7 * place)
    if coded_N.max() > 2 * MAX_STEP:
        return _read_slowly(body, start, count)
    return np.where(coded_N & 1, -(coded_N + 1) // 2, coded_N // 2), start + int(end_N[-1]) + 1


def _read_slowly(body: bytes, start: int, count: int) -> tuple[NDArray[np.int64], int]:
    """Read as :func:`_read_numbers` does, one by one, so that the error names the first bad number."""
    reader = ByteReader(body, WHAT)
    reader.take(start)
    number_N = np.empty(count, dtype=np.int64)
    for index in range(count):
        number_N[index] = reader.zigzag(MAX_STEP)
    return number_N, reader.position
