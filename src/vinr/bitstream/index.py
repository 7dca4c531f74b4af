"""The binary section index of a .vinr file (docs/format.md, section 3)."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import accumulate
from sys import byteorder
from typing import Final

from vinr.bitstream.header import Header
from vinr.bitstream.varint import ByteReader, pack_varint
from vinr.errors import BitstreamError

MAX_INDEX: Final = 2**27
MAX_ENTRIES: Final = 2**17
ARRAY_FLAG: Final = 0x40
OPTIONAL_FLAG: Final = 0x80
CRC_BYTES: Final = 4


class SectionKind(IntEnum):
    """What a section holds; the value is the kind byte of the index."""

    WEIGHTS = 0x01
    CHUNKS = 0x42
    TIMES = 0x03
    AUDIO = 0x84
    KEYFRAMES = 0x45

    @property
    def is_array(self) -> bool:
        """Whether the section has several parts, each with a size and a checksum."""
        return bool(self & ARRAY_FLAG)


KNOWN: Final = frozenset(int(kind) for kind in SectionKind)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the index: part *i* of the section has ``sizes[i]`` bytes and checksum ``crcs[i]``.

    A plain section has one part; an array section has one a chunk or keyframe. ``kind`` is the kind byte.
    """

    kind: int
    owner: int
    sizes: array[int]
    crcs: array[int]
    starts: array[int] = field(default_factory=lambda: array("Q", [0]), repr=False)

    @property
    def num_bytes(self) -> int:
        """Bytes of all parts."""
        return self.starts[-1] - self.starts[0]

    @property
    def name(self) -> str:
        """Kind and owner for messages, such as ``section CHUNKS 0``."""
        kind = SectionKind(self.kind).name if self.kind in KNOWN else f"{self.kind:#04x}"
        return f"section {kind} {self.owner}"

    def placed(self, start: int) -> Entry:
        """Return the entry with its place in the file: ``starts`` has the start of each part and the end."""
        starts = array("Q", accumulate(self.sizes, initial=start))
        return Entry(self.kind, self.owner, self.sizes, self.crcs, starts)


@dataclass(frozen=True)
class SectionSize:
    """Bytes that one section takes; ``kind`` is None for an optional section of an unknown kind."""

    kind: SectionKind | None
    owner: int
    num_parts: int
    num_bytes: int


def _little_endian(values: array[int]) -> array[int]:
    if byteorder == "big":
        values.byteswap()
    return values


def pack_index(entries: list[Entry]) -> bytes:
    """Return the bytes of the index."""
    packed = bytearray(pack_varint(len(entries)))
    for entry in entries:
        packed.append(entry.kind)
        packed += pack_varint(entry.owner)
        if entry.kind & ARRAY_FLAG:
            packed += pack_varint(len(entry.sizes))
        for size in entry.sizes:
            packed += pack_varint(size)
        packed += _little_endian(array("I", entry.crcs)).tobytes()
    return bytes(packed)


def unpack_index(packed: bytes, start: int, file_size: int) -> list[Entry]:
    """Return the entries of an index; the first section starts at byte ``start`` of ``file_size``.

    Raises
    ------
    BitstreamError
        If the index is damaged, or its sections do not fill the file exactly.
    """
    reader = ByteReader(packed, "index")
    entries = []
    num_entries = reader.varint(MAX_ENTRIES)
    for _ in range(num_entries):
        entry = _unpack_entry(reader, start, file_size)
        start = entry.starts[-1]
        entries.append(entry)
    reader.finish()
    if start != file_size:
        raise BitstreamError(f"the last section ends at byte {start}, the file has {file_size}")
    return entries


def _unpack_entry(reader: ByteReader, start: int, file_size: int) -> Entry:
    kind = reader.fixed(1)
    owner = reader.varint()
    if kind not in KNOWN and not kind & OPTIONAL_FLAG:
        raise BitstreamError(f"section of unknown kind {kind:#04x}; a newer vinr can read this file")
    num_parts = reader.varint() if kind & ARRAY_FLAG else 1
    if num_parts > reader.num_left // (1 + CRC_BYTES):
        raise BitstreamError(f"index announces {num_parts} parts in its last {reader.num_left} bytes")
    sizes = array("Q")
    num_left = file_size - start
    for _ in range(num_parts):
        sizes.append(reader.varint())
        num_left -= sizes[-1]
        if num_left < 0:
            raise BitstreamError(
                f"section {kind:#04x} {owner} ends {-num_left} bytes past the end of the file; "
                "was it cut short?"
            )
    crcs = _little_endian(array("I", reader.take(CRC_BYTES * num_parts)))
    return Entry(kind, owner, sizes, crcs).placed(start)


def complaint_about(header: Header, entries: list[Entry]) -> str | None:
    """Return what is wrong between a header and the sections of its file, or None if they fit."""
    known = [entry for entry in entries if entry.kind in KNOWN]
    there = {(entry.kind, entry.owner): len(entry.sizes) for entry in known}
    needed = {(int(SectionKind.WEIGHTS), owner): 1 for owner in range(len(header.networks))}
    for owner, network in enumerate(header.networks):
        if network.frames_per_chunk:
            needed[SectionKind.CHUNKS, owner] = network.num_chunks
        if network.num_keyframes:
            needed[SectionKind.KEYFRAMES, owner] = network.num_keyframes
    for owner, clip in enumerate(header.clips):
        if clip.has_audio:
            needed[SectionKind.AUDIO, owner] = 1
        if clip.has_times:
            needed[SectionKind.TIMES, owner] = 1
    if len({(entry.kind, entry.owner) for entry in entries}) != len(entries):
        return "a section stands in the index twice"
    for kind, owner in needed.keys() ^ there.keys():
        state = "is missing" if (kind, owner) in needed else "is not announced by the header"
        return f"section {SectionKind(kind).name} {owner} {state}"
    for (kind, owner), num_parts in needed.items():
        if there[kind, owner] != num_parts:
            return f"section {SectionKind(kind).name} {owner} has {there[kind, owner]} parts, not {num_parts}"
    return None
