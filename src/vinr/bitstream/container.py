"""Writes and reads whole .vinr files: prologue, header, index, sections (docs/format.md, 1 and 3)."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BufferedReader, BytesIO, FileIO, RawIOBase, TextIOBase
from itertools import chain
from os import SEEK_CUR, SEEK_END, SEEK_SET, PathLike, fspath
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from vinr.bitstream.header import Header, pack_header, unpack_header
from vinr.bitstream.index import (
    KNOWN,
    MAX_INDEX,
    Entry,
    SectionKind,
    SectionSize,
    find_mismatch,
    pack_index,
    unpack_index,
)
from vinr.errors import BitstreamError, InputError, plural
from vinr.sharing import Shared

# byte  0 … 3   4        5       6 … 7         8 … 11       12 … 15               16 … 19
#       VINR    version  flags   header size   index size   CRC of 0 … 11+header  CRC of the index
MAGIC: Final = b"VINR"
FORMAT_VERSION: Final = 2
SIZES: Final = struct.Struct("<4sBBHI")
CHECKSUMS: Final = struct.Struct("<II")
PROLOGUE_BYTES: Final = SIZES.size + CHECKSUMS.size
# Of what is copied from a file.
PIECE_BYTES: Final = 2**20


@dataclass(frozen=True)
class DamagedPart:
    """A part of a section with a wrong checksum; ``kind`` is None for an optional section of unknown kind."""

    kind: SectionKind | None
    owner: int
    part: int
    message: str


@dataclass(frozen=True)
class PartSizes:
    """The sizes in bytes and the CRC-32 of the parts of a section, in order."""

    kind: SectionKind
    sizes: tuple[int, ...]
    crcs: tuple[int, ...]

    @classmethod
    def of(cls, kind: SectionKind, parts: Sequence[bytes]) -> Self:
        """Return those of ``parts``."""
        return cls(kind, tuple(map(len, parts)), tuple(map(zlib.crc32, parts)))


class ContainerWriter:
    """Collects the sections of a file with ``header`` and writes them in the order they were added."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self._entries: list[Entry] = []
        # Of each section what yields its content, part by part or in pieces.
        self._sources: list[Callable[[], Iterator[bytes]]] = []

    def add(self, kind: SectionKind, owner: int, payload: bytes) -> None:
        """Add a plain section of network or clip number ``owner``."""
        if kind.is_array:
            raise ValueError(f"{kind.name} is added by add_array")
        self._add(kind, owner, [payload])

    def add_array(self, kind: SectionKind, owner: int, payloads: Sequence[bytes]) -> None:
        """Add an array section of network number ``owner``: its parts, in order."""
        if not kind.is_array:
            raise ValueError(f"{kind.name} is added by add")
        self._add(kind, owner, payloads)

    def add_stored(self, part_sizes: PartSizes, owner: int, read: Callable[[], Sequence[bytes]]) -> None:
        """Add a section whose parts lie elsewhere: ``read`` is called when the file is written.

        What it returns must have the sizes and checksums of ``part_sizes``.
        """
        sizes, crcs = array("Q", part_sizes.sizes), array("I", part_sizes.crcs)
        entry = Entry(part_sizes.kind, owner, sizes, crcs)
        self._entries.append(entry)
        self._sources.append(partial(_parts_as_announced, entry, read))

    def add_file(self, kind: SectionKind, owner: int, file: BinaryIO) -> None:
        """Add a plain section that is what ``file`` holds: read in pieces, now and when all is written."""
        size, crc = 0, 0
        for piece in _pieces(file):
            size, crc = size + len(piece), zlib.crc32(piece, crc)
        entry = Entry(kind, owner, array("Q", [size]), array("I", [crc]))
        self._entries.append(entry)
        self._sources.append(partial(_pieces_as_announced, entry, file))

    def _add(self, kind: SectionKind, owner: int, payloads: Sequence[bytes]) -> None:
        self.add_stored(PartSizes.of(kind, payloads), owner, lambda: payloads)

    def front(self) -> tuple[bytes, bytes, bytes]:
        """Return prologue, stored header and index; their lengths are what the container itself costs.

        Raises
        ------
        ValueError
            If a section is missing, not announced by the header, or a duplicate.
        """
        if mismatch := find_mismatch(self.header, self._entries):
            raise ValueError(mismatch)
        stored, index = pack_header(self.header), pack_index(self._entries)
        if len(index) > MAX_INDEX:
            raise ValueError(f"index of {len(index)} bytes; at most {MAX_INDEX} are allowed")
        sizes = SIZES.pack(MAGIC, FORMAT_VERSION, 0, len(stored), len(index))
        checksums = CHECKSUMS.pack(zlib.crc32(stored, zlib.crc32(sizes)), zlib.crc32(index))
        return sizes + checksums, stored, index

    def to_bytes(self) -> bytes:
        """Return the whole file."""
        return b"".join((*self.front(), *self._parts()))

    def write(
        self,
        path: str | PathLike[str],
        *,
        force: bool = False,
        on_written: Callable[[int, str], None] | None = None,
    ) -> int:
        """Write the file, whole or not at all, and return its size on disk in bytes.

        One section at a time is held in memory, and a piece of one that lies in a file. ``on_written`` takes
        size and SHA-256 of the whole content, just before it gets its name.

        Raises
        ------
        OutputError
            If ``path`` exists and ``force`` is not set, or cannot be written.
        """
        from vinr.files import atomic_path  # only writers need it, and readers must load little

        front, digest = self.front(), hashlib.sha256()
        with atomic_path(Path(path), force=force) as temporary:
            with open(temporary, "wb") as file:
                for part in chain(front, self._parts()):
                    file.write(part)
                    digest.update(part)
            if on_written is not None:
                on_written(temporary.stat().st_size, digest.hexdigest())
        return Path(path).stat().st_size

    def _parts(self) -> Iterator[bytes]:
        """Yield the content of all sections, in the order of the file."""
        for content in self._sources:
            yield from content()


def _parts_as_announced(entry: Entry, read: Callable[[], Sequence[bytes]]) -> Iterator[bytes]:
    parts = read()
    if [*map(len, parts)] != [*entry.sizes] or [*map(zlib.crc32, parts)] != [*entry.crcs]:
        raise ValueError(f"{entry.name}: is not what was announced")
    yield from parts


def _pieces_as_announced(entry: Entry, file: BinaryIO) -> Iterator[bytes]:
    size, crc = 0, 0
    for piece in _pieces(file):
        size, crc = size + len(piece), zlib.crc32(piece, crc)
        yield piece
    if (size, crc) != (entry.sizes[0], entry.crcs[0]):
        raise ValueError(f"{entry.name}: is not what was announced")


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """Yield the content of a file from its beginning."""
    file.seek(0)
    while piece := file.read(PIECE_BYTES):
        yield piece


class _File(Shared):
    """A binary file: of the operating system, in memory, or any object that can seek and read.

    Threads share a file's position, and so do processes after a fork. Files of the system are read without
    it, if the system can; others under a lock.
    """

    def __init__(self, file: BinaryIO, *, owned: bool) -> None:
        self._file, self._owned = file, owned
        self._has_descriptor = isinstance(file, FileIO) or (
            type(file) is BufferedReader and isinstance(file.raw, FileIO)
        )
        if isinstance(file, TextIOBase):
            raise InputError("the file is open as text; open it in mode 'rb'")
        try:
            self.num_bytes = file.seek(0, SEEK_END)
        except AttributeError:
            raise InputError(f"{file!r} is not a file; give a path, bytes, or a binary file") from None
        except (OSError, ValueError) as error:
            raise InputError(f"the file is not seekable ({_reason(error)}); save it to disk first") from None
        super().__init__()

    def read_at(self, start: int, num_bytes: int) -> bytes:
        """Return ``num_bytes`` bytes from ``start`` on, fewer if the file ends before."""
        parts = []
        try:
            while num_bytes > 0 and (part := self._read_some(start, num_bytes)):
                parts.append(part)
                start, num_bytes = start + len(part), num_bytes - len(part)
        except (OSError, ValueError) as error:
            raise InputError(f"the file cannot be read ({_reason(error)}); open it again") from None
        return b"".join(parts)

    def _read_some(self, start: int, num_bytes: int) -> bytes:
        # pread takes the place as an argument and leaves the file's position, which others share, alone.
        if self._has_descriptor and hasattr(os, "pread"):
            return os.pread(self._file.fileno(), num_bytes, start)
        with self._lock:
            self._file.seek(start)
            return self._file.read(num_bytes)

    def close(self) -> None:
        if self._owned:
            self._file.close()


def _reason(error: Exception) -> str:
    words = error.strerror if isinstance(error, OSError) else None
    return (words or str(error)).rstrip(".")


class _SectionFile(RawIOBase):
    """``size`` bytes of a file from ``start`` on, as a file; ``read_at`` takes a place and how many bytes."""

    def __init__(self, read_at: Callable[[int, int], bytes], start: int, size: int) -> None:
        self._read_at, self._start, self._size, self._position = read_at, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = SEEK_SET, /) -> int:
        origin = {SEEK_SET: 0, SEEK_CUR: self._position, SEEK_END: self._size}[whence]
        self._position = max(origin + offset, 0)
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        count = max(min(len(buffer), self._size - self._position), 0)
        if count:
            buffer[:count] = self._read_at(self._start + self._position, count)
            self._position += count
        return count


class Container(Shared):
    """A .vinr file opened for reading. Sections are read when asked for, each checked against its CRC.

    Use :meth:`open`; close it, or use it in a ``with`` statement. Threads may share it, and so may processes
    that were forked after it was opened (of file objects other than those that :func:`open` returns, each
    process opens its own).
    """

    def __init__(self, source: _File) -> None:
        self._source = source
        # Reads under way: a file that is closed meanwhile stays open until the last of them has ended.
        self._closed = False
        self._num_readers = 0
        self.bytes_read = 0
        super().__init__()
        self.header, self._entries, self._format_version, self._front_sizes = self._read_front()
        self._by_key = {(entry.kind, entry.owner): entry for entry in self._entries}

    @classmethod
    def open(cls, source: str | PathLike[str] | bytes | BinaryIO) -> Self:
        """Open a path, the bytes of a file, or a binary file that can seek (which is left open afterwards).

        Raises
        ------
        InputError
            If the path cannot be opened, or the file object cannot seek.
        BitstreamError
            If prologue, header or index are damaged, hostile, or of a newer version.
        """
        opened = _open_source(source)
        try:
            return cls(opened)
        except BaseException:
            opened.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file if :meth:`open` opened it; a read of another thread is still finished."""
        with self._lock:
            self._closed = True
            if not self._num_readers:
                self._source.close()

    def check_open(self) -> None:
        """Raise InputError if the file was closed."""
        if self._closed:
            raise InputError("the file is closed; open it again to decode")

    @property
    def format_version(self) -> int:
        """Format version of the file."""
        return self._format_version

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return self._source.num_bytes

    @property
    def header_bytes(self) -> int:
        """Bytes of prologue and stored header."""
        return self._front_sizes[0]

    @property
    def index_bytes(self) -> int:
        """Bytes of the index."""
        return self._front_sizes[1]

    def read(self, kind: SectionKind, owner: int) -> bytes:
        """Return the content of a plain section.

        Raises
        ------
        BitstreamError
            If there is no such section or its checksum is wrong.
        """
        if kind.is_array:
            raise ValueError(f"{kind.name} is read by read_part")
        return self._read_part(self._entry(kind, owner), 0)

    def read_part(self, kind: SectionKind, owner: int, index: int) -> bytes:
        """Return part ``index`` of an array section: a chunk of latents, or a keyframe.

        Raises
        ------
        BitstreamError
            If there is no such part or its checksum is wrong.
        """
        entry = self._entry(kind, owner)
        if not 0 <= index < len(entry.sizes):
            raise BitstreamError(f"{entry.name} has parts 0 … {len(entry.sizes) - 1}, not {index}")
        return self._read_part(entry, index)

    def open_section(self, kind: SectionKind, owner: int) -> BinaryIO:
        """Return what :meth:`read` returns, checked as there, as a file that is read in pieces."""
        if kind.is_array:
            raise ValueError(f"{kind.name} is read by read_part")
        entry, crc = self._entry(kind, owner), 0
        section = BufferedReader(_SectionFile(self._read_at, entry.starts[0], entry.sizes[0]))
        for piece in _pieces(section):
            crc = zlib.crc32(piece, crc)
        check_crc(entry.name, entry.crcs[0], crc)
        section.seek(0)
        return section

    def section_sizes(self) -> tuple[SectionSize, ...]:
        """Return kind, owner and size of each section, in the order of the file."""
        return tuple(entry.section_size for entry in self._entries)

    def verify(self) -> None:
        """Read every section and check every checksum.

        Raises
        ------
        BitstreamError
            If one is wrong.
        """
        for damaged in self._damage():
            raise BitstreamError(damaged.message)

    def unknown_damage(self) -> list[DamagedPart]:
        """Read the optional sections of unknown kinds, and return their damaged parts."""
        return list(self._damage(unknown_only=True))

    def _damage(self, *, unknown_only: bool = False) -> Iterator[DamagedPart]:
        for entry in self._entries:
            if unknown_only and entry.kind in KNOWN:
                continue
            for part in range(len(entry.sizes)):
                try:
                    self._read_part(entry, part)
                except BitstreamError as error:
                    yield DamagedPart(entry.known_kind, entry.owner, part, str(error))

    def _read_front(self) -> tuple[Header, list[Entry], int, tuple[int, int]]:
        prologue = self._read_at(0, min(PROLOGUE_BYTES, self._source.num_bytes))
        if prologue[: len(MAGIC)] != MAGIC:
            raise BitstreamError("not a .vinr file: it does not begin with VINR")
        # Before anything else: a newer version may have another layout, even a shorter prologue.
        if len(prologue) > len(MAGIC) and prologue[len(MAGIC)] > FORMAT_VERSION:
            version = prologue[len(MAGIC)]
            raise BitstreamError(
                f"the file was written by a newer vinr (format {version}); "
                f"this one reads up to {FORMAT_VERSION}, update it"
            )
        if len(prologue) < PROLOGUE_BYTES:
            num_bytes = self._source.num_bytes
            raise BitstreamError(
                f"the file has {plural(num_bytes, 'byte')}; a .vinr file has at least {PROLOGUE_BYTES}"
            )
        _, version, flags, header_size, index_size = SIZES.unpack_from(prologue)
        header_crc, index_crc = CHECKSUMS.unpack_from(prologue, SIZES.size)
        front = PROLOGUE_BYTES + header_size + index_size
        if not 1 <= version <= FORMAT_VERSION or flags:
            raise BitstreamError(f"format version {version} with flags {flags:#04x} does not exist")
        if not header_size or not 1 <= index_size <= MAX_INDEX or front > self._source.num_bytes:
            raise BitstreamError(
                f"header of {header_size} and index of {index_size} bytes do not fit a file "
                f"of {plural(self._source.num_bytes, 'byte')}"
            )
        # The checksum of the header goes on from the first 12 bytes, so that it covers the sizes too.
        stored = self._read_at(PROLOGUE_BYTES, header_size)
        check_crc("header", header_crc, zlib.crc32(stored, zlib.crc32(prologue[: SIZES.size])))
        index = self._read_at(PROLOGUE_BYTES + header_size, index_size)
        check_crc("index", index_crc, zlib.crc32(index))
        header = unpack_header(stored)
        entries = unpack_index(index, front, self._source.num_bytes)
        if mismatch := find_mismatch(header, entries):
            raise BitstreamError(mismatch)
        return header, entries, version, (PROLOGUE_BYTES + header_size, index_size)

    def _entry(self, kind: SectionKind, owner: int) -> Entry:
        try:
            return self._by_key[kind, owner]
        except KeyError:
            raise BitstreamError(f"the file has no section {kind.name} {owner}") from None

    def _read_part(self, entry: Entry, part: int) -> bytes:
        payload = self._read_at(entry.starts[part], entry.sizes[part])
        name = f"{entry.name} part {part}" if len(entry.sizes) > 1 else entry.name
        check_crc(name, entry.crcs[part], zlib.crc32(payload))
        return payload

    def _read_at(self, start: int, num_bytes: int) -> bytes:
        with self._lock:
            self.check_open()
            self._num_readers += 1
        payload = b""
        try:
            payload = self._source.read_at(start, num_bytes)
        finally:
            with self._lock:
                self._num_readers -= 1
                self.bytes_read += len(payload)
                if self._closed and not self._num_readers:
                    self._source.close()
        if len(payload) != num_bytes:
            end = start + len(payload)
            raise BitstreamError(f"the file ends at byte {end}, but its index reaches to {start + num_bytes}")
        return payload

    def _forked(self, *, interrupted: bool) -> None:
        self._num_readers = 0  # threads that read are not in this process


def _open_source(source: str | PathLike[str] | bytes | BinaryIO) -> _File:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _File(BytesIO(source), owned=True)
    if not isinstance(source, (str, PathLike)):
        return _File(source, owned=False)
    try:
        file = open(source, "rb", buffering=0)  # noqa: SIM115
    except (OSError, ValueError) as error:
        name = fspath(source) or "''"
        raise InputError(f"{name}: cannot be opened ({_reason(error)}); check the path") from None
    try:
        return _File(file, owned=True)
    except BaseException:
        file.close()
        raise


def check_crc(what: str, stored: int, computed: int) -> None:
    """Raise :class:`BitstreamError` if the ``computed`` checksum of ``what`` is not the ``stored`` one."""
    if stored != computed:
        raise BitstreamError(f"{what} is damaged: checksum stored {stored:#010x}, computed {computed:#010x}")
