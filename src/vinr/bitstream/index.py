"""Numbers of variable length, and the section index made of them (docs/format.md, introduction and 3)."""

from __future__ import annotations

import zlib
from array import array
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import accumulate
from sys import byteorder
from typing import TYPE_CHECKING, Final

from vinr.errors import BitstreamError, plural

if TYPE_CHECKING:
    from vinr.bitstream.header import Header

# Nine groups of seven bits, so that every number fits a signed integer of 64 bits.
VARINT_LIMIT = 2**63
MAX_VARINT_BYTES = 9
# Negative: without the header and checksum of zlib.
RAW_DEFLATE = -zlib.MAX_WBITS


def pack_varint(value: int) -> bytes:
    """Return ``value`` (0 … 2⁶³ − 1) as unsigned LEB128, shortest form."""
    if not 0 <= value < VARINT_LIMIT:
        raise ValueError(f"a varint holds 0 … 2^63 - 1, got {value}")
    # 300 = 10 0101100  ->  1 0101100 | 0 0000010     lowest seven bits first, bit 7: more follow
    packed = bytearray()
    while value > 0x7F:
        packed.append(value & 0x7F | 0x80)
        value >>= 7
    packed.append(value)
    return bytes(packed)


def pack_zigzag(value: int) -> bytes:
    """Return the signed ``value`` (−2⁶² … 2⁶² − 1) as a varint in which small magnitudes are short."""
    # 0 −1 1 −2 2 …  ->  0 1 2 3 4 …
    return pack_varint(2 * value if value >= 0 else -2 * value - 1)


class ByteReader:
    """Reads numbers from ``payload`` one after another; ``what`` names it in errors.

    All methods raise :class:`BitstreamError` instead of reading past the end.
    """

    def __init__(self, payload: bytes, what: str) -> None:
        self._payload = payload
        self._what = what
        self.position = 0

    @property
    def num_left(self) -> int:
        """Bytes not read yet."""
        return len(self._payload) - self.position

    def take(self, num_bytes: int) -> bytes:
        """Return the next ``num_bytes`` bytes."""
        if not 0 <= num_bytes <= self.num_left:
            raise BitstreamError(
                f"{self._what} is cut short: {plural(num_bytes, 'byte')} needed, {self.num_left} left"
            )
        start = self.position
        self.position += num_bytes
        return self._payload[start : self.position]

    def fixed(self, num_bytes: int) -> int:
        """Return the next unsigned little-endian number of ``num_bytes`` bytes."""
        return int.from_bytes(self.take(num_bytes), "little")

    def varint(self, limit: int = VARINT_LIMIT - 1) -> int:
        """Return the next varint, at most ``limit``."""
        payload, start = self._payload, self.position
        value = 0
        for place, byte in enumerate(payload[start : start + MAX_VARINT_BYTES]):
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                # A last group of zeros would let one number be written in many ways.
                if byte == 0 and place:
                    raise BitstreamError(f"{self._what} has a padded varint at byte {start}")
                if value > limit:
                    raise BitstreamError(f"{self._what} has {value} at byte {start}, above {limit}")
                self.position = start + place + 1
                return value
        if self.num_left >= MAX_VARINT_BYTES:
            raise BitstreamError(
                f"{self._what} has a varint of over {MAX_VARINT_BYTES} bytes at byte {start}"
            )
        raise BitstreamError(f"{self._what} is cut short inside a varint at byte {start}")

    def zigzag(self, limit: int) -> int:
        """Return the next signed number, −``limit`` … ``limit``."""
        coded = self.varint(2 * limit)
        return -(coded + 1) // 2 if coded & 1 else coded // 2

    def finish(self) -> None:
        """Raise :class:`BitstreamError` if bytes are left."""
        if self.num_left:
            raise BitstreamError(f"{self._what} has {plural(self.num_left, 'extra byte')} at its end")


def deflate(payload: bytes) -> bytes:
    """Compress ``payload`` as one raw deflate stream."""
    packer = zlib.compressobj(9, zlib.DEFLATED, RAW_DEFLATE)
    return packer.compress(payload) + packer.flush()


def inflate(payload: bytes, limit: int, what: str) -> bytes:
    """Return what one raw deflate stream holds, at most ``limit`` bytes; ``what`` names it in errors.

    Raises
    ------
    BitstreamError
        If the stream is damaged, cut, followed by other bytes, or holds more than ``limit`` bytes.
    """
    unpacker = zlib.decompressobj(RAW_DEFLATE)
    try:
        # One byte more than allowed tells that there are more, without inflating them.
        unpacked = unpacker.decompress(payload, limit + 1)
    except zlib.error as error:
        raise BitstreamError(f"{what} cannot be inflated ({error})") from None
    if len(unpacked) > limit:
        raise BitstreamError(f"{what} inflates to more than {limit} bytes")
    # eof: the stream's end mark was reached; unused_data: bytes after it.
    if not unpacker.eof or unpacker.unused_data:
        raise BitstreamError(f"{what} does not end with its deflate stream")
    return unpacked


# -- the index ---------------------------------------------------------------------------------------------


MAX_INDEX: Final = 2**27
MAX_ENTRIES: Final = 2**17
# Kind byte  o a n n n n n n:  optional (readers that do not know it skip it), array (several parts), number
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

    def __str__(self) -> str:
        return self.name


KNOWN: Final = frozenset(int(kind) for kind in SectionKind)


@dataclass(frozen=True)
class SectionSize:
    """Bytes that one section takes; ``kind`` is None for an optional section of an unknown kind."""

    kind: SectionKind | None
    owner: int
    num_parts: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the index: part *i* of the section has ``sizes[i]`` bytes and checksum ``crcs[i]``.

    A plain section has one part; an array section has one per chunk, image or group of keyframes. ``kind`` is
    the kind byte.
    """

    # A file may have millions of parts: arrays of 8 and 4 bytes per number, not lists of Python objects.
    kind: int
    owner: int
    sizes: array[int]
    crcs: array[int]
    starts: array[int] = field(default_factory=lambda: array("Q", [0]), repr=False)

    @property
    def known_kind(self) -> SectionKind | None:
        """Kind of the section; None for an optional one of unknown kind."""
        return SectionKind(self.kind) if self.kind in KNOWN else None

    @property
    def num_bytes(self) -> int:
        """Bytes of all parts."""
        return self.starts[-1] - self.starts[0]

    @property
    def name(self) -> str:
        """Kind and owner for messages, such as ``section CHUNKS 0``."""
        kind = f"{self.kind:#04x}" if self.known_kind is None else self.known_kind.name
        return f"section {kind} {self.owner}"

    @property
    def section_size(self) -> SectionSize:
        """What the section takes in the file."""
        return SectionSize(self.known_kind, self.owner, len(self.sizes), self.num_bytes)

    def placed(self, start: int) -> Entry:
        """Return the entry with its place in the file: ``starts`` has the start of each part and the end."""
        starts = array("Q", accumulate(self.sizes, initial=start))
        return Entry(self.kind, self.owner, self.sizes, self.crcs, starts)


def _little_endian(values: array[int]) -> array[int]:
    if byteorder == "big":
        values.byteswap()
    return values


def pack_index(entries: list[Entry]) -> bytes:
    """Return the bytes of the index."""
    # plain  kind | owner | size | CRC
    # array  kind | owner | count | size 0, size 1, … | CRC 0, CRC 1, …
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
        raise BitstreamError(
            f"the last section ends at byte {start}, but the file has {plural(file_size, 'byte')}"
        )
    return entries


def _unpack_entry(reader: ByteReader, start: int, file_size: int) -> Entry:
    kind = reader.fixed(1)
    owner = reader.varint()
    if kind not in KNOWN and not kind & OPTIONAL_FLAG:
        raise BitstreamError(f"section of unknown kind {kind:#04x}; reading it takes a newer vinr")
    num_parts = reader.varint() if kind & ARRAY_FLAG else 1
    # Each part takes at least a byte of size and a checksum, so that a count cannot ask for memory out of
    # nothing.
    if num_parts > reader.num_left // (1 + CRC_BYTES):
        raise BitstreamError(
            f"index announces {plural(num_parts, 'part')} in its last {plural(reader.num_left, 'byte')}"
        )
    sizes = array("Q")
    # Checked part by part: sums of sizes near 2^63 would overflow the array of starts.
    num_left = file_size - start
    for _ in range(num_parts):
        sizes.append(reader.varint())
        num_left -= sizes[-1]
        if num_left < 0:
            excess = f"ends {plural(-num_left, 'byte')} past the end of the file"
            raise BitstreamError(f"section {kind:#04x} {owner} {excess}; the file may be cut short")
    crcs = _little_endian(array("I", reader.take(CRC_BYTES * num_parts)))
    return Entry(kind, owner, sizes, crcs).placed(start)


def find_mismatch(header: Header, entries: list[Entry]) -> str | None:
    """Return how the sections of a file differ from what its header announces, or None if they agree."""
    announced: dict[tuple[int, int], int] = {}
    for owner, network in enumerate(header.networks):
        announced[SectionKind.WEIGHTS, owner] = 1
        if network.frames_per_chunk:
            announced[SectionKind.CHUNKS, owner] = network.num_chunks
        if network.num_keyframes:
            announced[SectionKind.KEYFRAMES, owner] = network.num_keyframes
    for owner, clip in enumerate(header.clips):
        if clip.has_audio:
            announced[SectionKind.AUDIO, owner] = 1
        if clip.has_times:
            announced[SectionKind.TIMES, owner] = 1
    seen: set[tuple[int, int]] = set()
    for entry in entries:
        key = (entry.kind, entry.owner)
        if key in seen:
            return f"duplicate {entry.name}"
        seen.add(key)
        if entry.kind not in KNOWN:
            continue  # optional: the header of this version says nothing about it
        num_parts = announced.pop(key, None)
        if num_parts is None:
            return f"{entry.name} is not announced by the header"
        if num_parts != len(entry.sizes):
            return f"{entry.name} has {plural(len(entry.sizes), 'part')}, not {num_parts}"
    for kind, owner in announced:
        return f"section {SectionKind(kind).name} {owner} is missing"
    return None
