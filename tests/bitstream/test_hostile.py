"""Files whose checksums fit but whose content is meant to hurt: refused at once, with little memory."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from bitstream.crafting import assemble, deflate, entry, header, varint, writer
from vinr.bitstream import Clip, Container
from vinr.bitstream.header import pack_header
from vinr.errors import BitstreamError

_, STORED, INDEX = writer().front()
SECTIONS = writer().to_bytes()[20 + len(STORED) + len(INDEX) :]
PLAIN = zlib.decompress(STORED, -15)
# Made before memory is watched.
BOMB = deflate(b'{"created_by":"' + b"a" * 2**25)
MAX_MEMORY = 16 * 2**20
# Of the CPU, which other work on the machine does not change. Measured: at most 0.5.
MAX_SECONDS = 5


@pytest.fixture(autouse=True)
def _cheap() -> Iterator[None]:
    """Whatever the file claims, refusing it takes little memory and CPU time."""
    tracemalloc.start()
    start = time.process_time()
    yield
    seconds = time.process_time() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MAX_MEMORY
    assert seconds < MAX_SECONDS


def refused(content: bytes, reason: str) -> None:
    with pytest.raises(BitstreamError, match=reason) as caught:
        Container.open(content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("size", [2**63 - 1, 2**62, 2**40, len(SECTIONS) + 1])
def test_absurd_section_size(size: int) -> None:
    crc = struct.pack("<I", 0)
    plain = varint(1) + b"\x01\x00" + varint(size) + crc
    refused(assemble(STORED, plain, SECTIONS), "past the end of the file")
    # Sums of sizes that would overflow 64 bits, in one array and over several sections.
    array = varint(1) + b"\x42\x00" + varint(3) + varint(size) * 3 + crc * 3
    refused(assemble(STORED, array, SECTIONS), "past the end of the file")
    several = varint(3) + (b"\x01\x00" + varint(size) + crc) * 3
    refused(assemble(STORED, several, SECTIONS), "past the end of the file")


def test_sizes_of_the_front() -> None:
    for header_size, index_size in ((0, 10), (65535, 10), (10, 0), (10, 2**32 - 1), (10, 2**27 + 1)):
        sizes = struct.pack("<4sBBHI", b"VINR", 1, 0, header_size, index_size)
        refused(sizes + bytes(8) + bytes(1000), "do not fit a file")


@pytest.mark.parametrize("count", [2**17 + 1, 2**32, 2**62, 2**63 - 1])
def test_count_bombs(count: int) -> None:
    refused(assemble(STORED, varint(count) + INDEX[1:], SECTIONS), "index has .* above")
    chunks = varint(1) + b"\x42\x00" + varint(count)
    refused(assemble(STORED, chunks + bytes(50), SECTIONS), f"announces {count:,} parts")


def test_index_that_is_cut_or_too_long() -> None:
    for end in range(len(INDEX)):
        refused(assemble(STORED, INDEX[:end] or b"\x80", SECTIONS), "index|announces|section|ends")
    refused(assemble(STORED, INDEX + b"\0", SECTIONS), "index has 1 extra byte")


def test_header_bomb() -> None:
    assert len(BOMB) < 65536
    refused(assemble(BOMB, INDEX, SECTIONS), "header inflates to more than 1048576 bytes")


def test_header_deflate_end() -> None:
    refused(assemble(STORED[:-1], INDEX, SECTIONS), "does not end with its deflate stream|cannot be inflated")
    refused(assemble(STORED + b"\0", INDEX, SECTIONS), "does not end with its deflate stream")
    refused(assemble(b"\xff" * 50, INDEX, SECTIONS), "cannot be inflated")


def with_architecture(text: str) -> bytes:
    plain = PLAIN.replace(b'{"width":8}', text.encode(), 1)
    assert plain != PLAIN
    return assemble(deflate(plain), INDEX, SECTIONS)


@pytest.mark.parametrize("depth", [9, 10, 1000, 100_000])
def test_nesting_bomb(depth: int) -> None:
    limit = "nested too deep|more than 12 levels"
    refused(with_architecture('{"a":' + "[" * depth + "]" * depth + "}"), limit)
    refused(with_architecture('{"a":' * depth + "1" + "}" * depth), limit)
    refused(assemble(deflate(b"[" * depth), INDEX, SECTIONS), "header")


def test_nesting_that_is_allowed() -> None:
    depth = 12 - 4
    Container.open(with_architecture('{"a":' + "[" * depth + "]" * depth + "}"))


@pytest.mark.parametrize(
    "text",
    [
        '{"a":NaN}',
        '{"a":Infinity}',
        '{"a":-Infinity}',
        '{"a":1e999}',
        '{"a":' + "9" * 20 + "}",
        '{"a":' + "9" * 5000 + "}",
        '{"a":' + "9" * 900_000 + "}",
        '{"a":1,"a":2}',
        '{"a":1}}',
        '{"a":1,}',
        "{a:1}",
        '{"a":"\\ud800"}',
        '{"a":"' + "x" * 1025 + '"}',
        '{"' + "x" * 1025 + '":1}',
        "[]",
        "null",
        "8",
        "",
    ],
    ids=lambda text: text[:20],
)
def test_strange_json(text: str) -> None:
    refused(with_architecture(text), "header")


@pytest.mark.parametrize(
    "plain", [b"", b"\0", b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b"null", b"[]", b"1", b'"x"', b"{}"]
)
def test_json_that_is_no_header(plain: bytes) -> None:
    refused(assemble(deflate(plain), INDEX, SECTIONS), "header")


def test_many_values_in_the_header() -> None:
    refused(with_architecture('{"a":[' + "[],0," * 150_000 + "0]}" * 2), "header")
    many = json.dumps([{"name": f"c{n}", "num_frames": 1, "height": 1, "width": 1} for n in range(4097)])
    plain = json.loads(PLAIN) | {"clips": json.loads(many)}
    refused(assemble(deflate(json.dumps(plain).encode()), INDEX, SECTIONS), "clips")


@pytest.mark.parametrize(
    ("changes", "index", "reason"),
    [
        ({}, entry(1, 0, b"") * 2, "duplicate"),
        ({}, entry(0x42, 0, b"", b"", count=2) * 2, "duplicate"),
        ({}, entry(0x90, 0, b"") * 2, "duplicate"),
        ({}, entry(1, 0, b""), "is missing"),
        ({}, b"", "is missing"),
        ({}, entry(1, 2, b""), "WEIGHTS 2 is not announced|is missing"),
        ({}, entry(1, 2**63 - 1, b""), "is not announced|is missing"),
        ({"chunks": 1}, None, "section CHUNKS 0 has 1 part, not 2"),
        ({"chunks": 3}, None, "section CHUNKS 0 has 3 parts, not 2"),
        ({"chunks": 0}, None, "section CHUNKS 0 has 0 parts, not 2"),
        ({"without": 0x03}, None, "section TIMES 0 is missing"),
        ({"without": 0x84}, None, "section AUDIO 1 is missing"),
        ({"without": 0x42}, None, "section CHUNKS 0 is missing"),
        ({"more": entry(0x84, 0, b"")}, None, "section AUDIO 0 is not announced"),
        ({"more": entry(0x03, 1, b"")}, None, "section TIMES 1 is not announced"),
        ({"more": entry(0x42, 1, count=0)}, None, "section CHUNKS 1 is not announced"),
    ],
)
def test_section_set(changes: dict[str, Any], index: bytes | None, reason: str) -> None:
    if index is None:
        chunks = [b""] * changes.get("chunks", 2)
        entries = {
            1: entry(1, 0, b"") + entry(1, 1, b""),
            0x42: entry(0x42, 0, *chunks, count=len(chunks)),
            0x03: entry(0x03, 0, b""),
            0x84: entry(0x84, 1, b""),
        }
        kept = b"".join(packed for kind, packed in entries.items() if kind != changes.get("without"))
        index = kept + changes.get("more", b"")
        num_entries = 5 - ("without" in changes) + ("more" in changes)
    else:
        num_entries = {"duplicate": 2}.get(reason, 1 if index else 0)
    refused(assemble(STORED, varint(num_entries) + index, b""), reason)


def test_chunks_nobody_could_hold() -> None:
    frames = 10**7
    clips = (Clip(name="long", num_frames=frames, height=2, width=2),)
    network = json.loads(header().networks[0].model_dump_json()) | {
        "spans": [[0, 0, frames]],
        "frames_per_chunk": 1,
    }
    plain = {"created_by": "x", "clips": [json.loads(clips[0].model_dump_json())], "networks": [network]}
    stored = deflate(json.dumps(plain).encode())
    assert pack_header(header())
    index = varint(2) + entry(1, 0, b"") + b"\x42\x00" + varint(frames) + bytes(1000)
    refused(assemble(stored, index, b""), "announces 10,000,000 parts")
