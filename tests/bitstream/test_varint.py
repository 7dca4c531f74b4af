"""Numbers of variable length and the bounded reader."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vinr.bitstream import ByteReader, deflate, inflate, pack_varint, pack_zigzag
from vinr.errors import BitstreamError


@given(st.lists(st.integers(0, 2**63 - 1)), st.lists(st.integers(-(2**62), 2**62 - 1)))
def test_round_trip(plain: list[int], signed: list[int]) -> None:
    packed = b"".join(map(pack_varint, plain)) + b"".join(map(pack_zigzag, signed))
    reader = ByteReader(packed, "numbers")
    assert [reader.varint() for _ in plain] == plain
    assert [reader.zigzag(2**62) for _ in signed] == signed
    reader.finish()


@pytest.mark.parametrize(
    ("value", "packed"),
    [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02"), (2**63 - 1, "ffffffffffffffff7f")],
)
def test_bytes(value: int, packed: str) -> None:
    assert pack_varint(value).hex() == packed


@pytest.mark.parametrize(("value", "packed"), [(0, "00"), (-1, "01"), (1, "02"), (-64, "7f"), (64, "8001")])
def test_signed_bytes(value: int, packed: str) -> None:
    assert pack_zigzag(value).hex() == packed


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        ("", "cut short inside a varint at byte 0"),
        ("80", "cut short inside a varint"),
        ("ff" * 9 + "01", "varint of over 9 bytes"),
        ("ff" * 1000, "varint of over 9 bytes"),
        ("8000", "padded varint"),
        ("ff7f", "has 16383 at byte 0, above 1000"),
    ],
)
def test_refused(packed: str, reason: str) -> None:
    with pytest.raises(BitstreamError, match=reason):
        ByteReader(bytes.fromhex(packed), "numbers").varint(1000)


@pytest.mark.parametrize("value", [-1, 2**63])
def test_values_that_do_not_fit(value: int) -> None:
    with pytest.raises(ValueError, match=str(value)):
        pack_varint(value)


def test_reader_stays_inside() -> None:
    reader = ByteReader(b"\x01\x02\x03", "index")
    assert reader.fixed(2) == 0x0201
    with pytest.raises(BitstreamError, match="index is cut short: 2 bytes needed, 1 left"):
        reader.take(2)
    with pytest.raises(BitstreamError, match="index has 1 extra byte"):
        reader.finish()
    assert reader.take(1) == b"\x03"


@given(st.binary(max_size=2000))
def test_deflate_round_trip(plain: bytes) -> None:
    assert inflate(deflate(plain), len(plain), "text") == plain
    assert zlib.decompress(deflate(plain), -15) == plain


def test_inflate_stops_at_its_limit() -> None:
    with pytest.raises(BitstreamError, match="text inflates to more than 99 bytes"):
        inflate(deflate(b"a" * 100), 99, "text")
