"""The most work a small hostile section can ask for."""

from __future__ import annotations

import time

import torch

from vinr.bitstream import pack_varint, pack_zigzag
from vinr.compress import unpack_fixed
from vinr.models import StoredTensor

# The largest table there may be, made anew for each block of an adaptive model.
RECORD = b"\0" + pack_zigzag(0) + pack_varint(4096) + b"\0\0\x14\x50" + b"\x00\x28"


def seconds_for(payload: bytes, num_elements: list[int]) -> float:
    expected = {
        f"tensor{number}": StoredTensor(torch.empty(length, device="meta"), "weight")
        for number, length in enumerate(num_elements)
    }
    start = time.process_time()
    unpack_fixed(payload, expected, 0)
    return time.process_time() - start


def test_few_bytes_for_many_symbols() -> None:
    # Measured: 0.07 s.
    assert seconds_for(RECORD, [2**20]) < 1


def test_a_table_for_each_tensor() -> None:
    # Measured: 0.04 s a thousand, and no more each when there are many.
    assert seconds_for(RECORD * 5000, [1] * 5000) < 5
