"""Section TIMES: presentation times to bytes and back."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vinr.bitstream import deflate, pack_varint, pack_zigzag
from vinr.compress import decode_times, encode_times
from vinr.errors import BitstreamError
from vinr.video.spec import Timeline

RATE = Fraction(25)
BASE = pack_varint(1) + pack_varint(90_000)


def timeline(*steps: int, base: Fraction = Fraction(1, 90_000)) -> Timeline:
    pts = [0]
    for step in steps:
        pts.append(pts[-1] + step)
    return Timeline(len(pts), RATE, base, tuple(pts))


@given(
    st.lists(st.integers(1, 2**40), max_size=50),
    st.fractions(min_value=Fraction(1, 10**6), max_value=10, max_denominator=10**6),
)
def test_round_trip(steps: list[int], base: Fraction) -> None:
    given_times = timeline(*steps, base=base)
    assert decode_times(encode_times(given_times), len(steps) + 1, RATE) == given_times


def test_bytes() -> None:
    assert encode_times(timeline(3600, 3600, 3601)) == BASE + b"\0" + pack_zigzag(3600) + b"\x00\x02"
    assert encode_times(timeline()) == BASE + b"\0"


def test_regular_times_are_short() -> None:
    assert len(encode_times(timeline(*[3600] * 10_000))) < 60


@pytest.mark.parametrize(
    "times",
    [
        Timeline(3, RATE),
        timeline(2**40 + 1),
        timeline(1, base=Fraction(1, 2**31)),
        timeline(1, base=Fraction(2**31, 1)),
    ],
)
def test_times_that_do_not_fit(times: Timeline) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        encode_times(times)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "cut short"),
        (BASE, "cut short"),
        (b"\0" + BASE[1:] + b"\0" + bytes(2), "not allowed"),
        (pack_varint(2**31) + BASE[1:] + b"\0" + bytes(2), "above"),
        (BASE + b"\2" + b"\2\0", "not allowed"),
        (BASE + b"\0" + b"\0\0", "step of 0"),
        (BASE + b"\0" + pack_zigzag(5) + pack_zigzag(-5), "step of 0"),
        (BASE + b"\0" + pack_zigzag(2**40) + pack_zigzag(1), "step of 1099511627777"),
        (BASE + b"\0" + pack_zigzag(2**61) + b"\0", "above"),
        (BASE + b"\0" + b"\2", "cut short"),
        (BASE + b"\0" + b"\2\0\0", "1 extra byte"),
        (BASE + b"\1" + deflate(b"\2\0\0"), "1 extra byte"),
        (BASE + b"\1" + deflate(b"\2\0") + b"\0", "does not end"),
        (BASE + b"\1" + deflate(bytes(10**6)), "inflates to more than 27 bytes"),
        (BASE + b"\1" + b"\xff\xff", "cannot be inflated"),
    ],
)
def test_refused(payload: bytes, reason: str) -> None:
    assert decode_times(BASE + b"\0\2\0", 3, RATE).pts == (0, 1, 2)
    with pytest.raises(BitstreamError, match=reason):
        decode_times(payload, 3, RATE)
