"""Whatever happens to a file, it is noticed."""

from __future__ import annotations

import random

import pytest

from bitstream.crafting import writer
from vinr.bitstream import Container
from vinr.errors import BitstreamError

BYTES = writer().to_bytes()


def open_and_verify(content: bytes) -> None:
    Container.open(content).verify()


def test_each_flipped_bit_is_found() -> None:
    open_and_verify(BYTES)
    for position in range(len(BYTES)):
        for bit in range(8):
            damaged = bytearray(BYTES)
            damaged[position] ^= 1 << bit
            with pytest.raises(BitstreamError):
                open_and_verify(bytes(damaged))


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Overwrite, delete, insert, repeat or swap a few stretches."""
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(damaged))
        stop = min(start + rng.choice([1, 2, 4, 30]), len(damaged))
        other = rng.randrange(len(damaged))
        match rng.randrange(5):
            case 0:
                damaged[start:stop] = rng.randbytes(stop - start)
            case 1:
                del damaged[start:stop]
            case 2:
                damaged[start:start] = rng.randbytes(rng.randint(1, 30))
            case 3:
                damaged[start:start] = damaged[start:stop]
            case _:
                damaged[start : start + 4], damaged[other : other + 4] = (
                    damaged[other : other + 4],
                    damaged[start : start + 4],
                )
        if not damaged:
            return b""
    return bytes(damaged)


def test_mutations() -> None:
    rng = random.Random(0)
    num_damaged = 0
    for _ in range(500):
        damaged = mutate(BYTES, rng)
        if damaged == BYTES:
            continue
        num_damaged += 1
        with pytest.raises(BitstreamError):
            open_and_verify(damaged)
    assert num_damaged > 450


def test_bytes_of_another_file() -> None:
    rng = random.Random(1)
    for _ in range(300):
        with pytest.raises(BitstreamError):
            open_and_verify(b"VINR\x01\x00" + rng.randbytes(rng.randint(0, 400)))
