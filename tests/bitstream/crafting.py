"""Valid small files, and ways to break them whose checksums still fit."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from vinr.bitstream import Clip, ContainerWriter, Header, Network, SectionKind


def header(**changes: Any) -> Header:
    """Return a header of two clips: one network in two chunks, and one network of one frame with sound."""
    values: dict[str, Any] = {
        "created_by": "vinr test",
        "clips": (
            Clip(name="first", num_frames=5, height=36, width=64, has_times=True),
            Clip(name="second", num_frames=1, height=36, width=64, frame_rate=(30000, 1001), has_audio=True),
        ),
        "networks": (
            Network(model="some", architecture={"width": 8}, spans=((0, 0, 5),), frames_per_chunk=3),
            Network(model="some", architecture={"width": 8}, spans=((1, 0, 1),)),
        ),
    }
    return Header(**values | changes)


def writer() -> ContainerWriter:
    """Return a writer that holds every section of :func:`header`."""
    writer = ContainerWriter(header())
    writer.add(SectionKind.WEIGHTS, 0, b"weights of the first network")
    writer.add_array(SectionKind.CHUNKS, 0, [b"three frames", b"two frames"])
    writer.add(SectionKind.TIMES, 0, b"times")
    writer.add(SectionKind.WEIGHTS, 1, b"")
    writer.add(SectionKind.AUDIO, 1, b"sound" * 20)
    return writer


def assemble(stored_header: bytes, index: bytes, sections: bytes, version: int = 2, flags: int = 0) -> bytes:
    """Return a file of these parts with checksums that fit them."""
    sizes = struct.pack("<4sBBHI", b"VINR", version, flags, len(stored_header), len(index))
    checksums = struct.pack("<II", zlib.crc32(stored_header, zlib.crc32(sizes)), zlib.crc32(index))
    return sizes + checksums + stored_header + index + sections


def deflate(plain: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(plain) + packer.flush()


def varint(value: int) -> bytes:
    packed = b""
    while value > 127:
        packed += bytes([value % 128 + 128])
        value //= 128
    return packed + bytes([value])


def entry(kind: int, owner: int, *parts: bytes, count: int | None = None) -> bytes:
    """Return an index entry; ``count`` for an array section."""
    packed = bytes([kind]) + varint(owner) + (b"" if count is None else varint(count))
    packed += b"".join(varint(len(part)) for part in parts)
    return packed + b"".join(struct.pack("<I", zlib.crc32(part)) for part in parts)
