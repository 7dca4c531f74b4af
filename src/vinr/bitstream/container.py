"""Writes and reads whole .vinr files: prologue, header, index, sections (docs/format.md, 1 and 3)."""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from os import SEEK_END, PathLike
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import BinaryIO, Final, Self

from vinr.bitstream.header import Header, pack_header, unpack_header
from vinr.bitstream.index import (
    MAX_INDEX,
    Entry,
    SectionKind,
    SectionSize,
    complaint_about,
    pack_index,
    unpack_index,
)
from vinr.errors import BitstreamError, InputError

__all__ = ["FORMAT_VERSION", "Container", "ContainerWriter", "DamagedPart"]

MAGIC: Final = b"VINR"
FORMAT_VERSION: Final = 1
SIZES: Final = struct.Struct("<4sBBHI")
CHECKSUMS: Final = struct.Struct("<II")
PROLOGUE_BYTES: Final = SIZES.size + CHECKSUMS.size


@dataclass(frozen=True)
class DamagedPart:
    """A part of a section whose checksum does not fit; ``kind`` is None for an optional unknown section."""

    kind: SectionKind | None
    owner: int
    part: int
    message: str


class ContainerWriter:
    """Collects the sections of a file with ``header`` and writes them in the order they were added."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self._entries: list[Entry] = []
        self._payloads: list[bytes] = []

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

    def _add(self, kind: SectionKind, owner: int, payloads: Sequence[bytes]) -> None:
        sizes = array("Q", map(len, payloads))
        self._entries.append(Entry(kind, owner, sizes, array("I", map(zlib.crc32, payloads))))
        self._payloads += payloads

    def front(self) -> tuple[bytes, bytes, bytes]:
        """Return prologue, stored header and index; their lengths are what the container itself costs.

        Raises
        ------
        ValueError
            If sections are missing, not announced by the header, or there twice.
        """
        if complaint := complaint_about(self.header, self._entries):
            raise ValueError(complaint)
        stored, index = pack_header(self.header), pack_index(self._entries)
        if len(index) > MAX_INDEX:
            raise ValueError(f"index of {len(index)} bytes, at most {MAX_INDEX} are allowed")
        sizes = SIZES.pack(MAGIC, FORMAT_VERSION, 0, len(stored), len(index))
        checksums = CHECKSUMS.pack(zlib.crc32(stored, zlib.crc32(sizes)), zlib.crc32(index))
        return sizes + checksums, stored, index

    def to_bytes(self) -> bytes:
        """Return the whole file."""
        return b"".join((*self.front(), *self._payloads))

    def write(self, path: str | PathLike[str], *, force: bool = False) -> int:
        """Write the file, whole or not at all, and return its size on disk in bytes.

        Raises
        ------
        OutputError
            If ``path`` exists and ``force`` is not set, or cannot be written.
        """
        from vinr.files import atomic_path  # readers, which must be light, do without it

        front = self.front()
        with atomic_path(Path(path), force=force) as temporary, open(temporary, "wb") as file:
            file.writelines(front)
            file.writelines(self._payloads)
        return Path(path).stat().st_size


class Container:
    """A .vinr file opened for reading. Sections are read when asked for, each checked against its CRC.

    Use :meth:`open`; close it, or use it in a ``with`` statement. Reads from several threads are serialised.
    """

    def __init__(self, file: BinaryIO, owned: ExitStack) -> None:
        self._file = file
        self._owned = owned
        self._lock = Lock()
        self.bytes_read = 0
        self._file_size = file.seek(0, SEEK_END)
        self.header, self._entries, self._front_sizes = self._read_front()
        self._by_key = {(entry.kind, entry.owner): entry for entry in self._entries}

    @classmethod
    def open(cls, source: str | PathLike[str] | bytes | BinaryIO) -> Self:
        """Open a path, the bytes of a file, or a binary file that can seek (which is left open afterwards).

        Raises
        ------
        InputError
            If the path cannot be opened.
        BitstreamError
            If prologue, header or index are damaged, hostile, or of a newer version.
        """
        owned = ExitStack()
        if isinstance(source, (bytes, bytearray, memoryview)):
            file: BinaryIO = BytesIO(source)
        elif isinstance(source, (str, PathLike)):
            try:
                file = owned.enter_context(open(source, "rb"))  # noqa: SIM115
            except OSError as error:
                raise InputError(f"{source}: cannot be opened ({error.strerror}); check the path") from None
        else:
            file = source
        try:
            return cls(file, owned)
        except BaseException:
            owned.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file if :meth:`open` opened it."""
        self._owned.close()

    @property
    def format_version(self) -> int:
        """Format version of the file."""
        return FORMAT_VERSION

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return self._file_size

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
            If there is no such section or its checksum does not fit.
        """
        if kind.is_array:
            raise ValueError(f"{kind.name} is read by read_part")
        return self._read_part(self._entry(kind, owner), 0)

    def read_part(self, kind: SectionKind, owner: int, index: int) -> bytes:
        """Return part ``index`` of an array section: a chunk of latents, or a keyframe.

        Raises
        ------
        BitstreamError
            If there is no such part or its checksum does not fit.
        """
        entry = self._entry(kind, owner)
        if not 0 <= index < len(entry.sizes):
            raise BitstreamError(f"{entry.name} has parts 0 … {len(entry.sizes) - 1}, not {index}")
        return self._read_part(entry, index)

    def section_sizes(self) -> tuple[SectionSize, ...]:
        """Return kind, owner and size of each section, in the order of the file."""
        kinds = {int(kind): kind for kind in SectionKind}
        return tuple(
            SectionSize(kinds.get(entry.kind), entry.owner, len(entry.sizes), entry.num_bytes)
            for entry in self._entries
        )

    def verify(self) -> None:
        """Read every section and check every checksum.

        Raises
        ------
        BitstreamError
            If one does not fit.
        """
        for entry in self._entries:
            for part in range(len(entry.sizes)):
                self._read_part(entry, part)

    def damaged_parts(self) -> list[DamagedPart]:
        """Read every section, check every checksum, and return the parts that do not fit, in order."""
        found = []
        kinds = {int(kind): kind for kind in SectionKind}
        for entry in self._entries:
            for part in range(len(entry.sizes)):
                try:
                    self._read_part(entry, part)
                except BitstreamError as error:
                    found.append(DamagedPart(kinds.get(entry.kind), entry.owner, part, str(error)))
        return found

    def _read_front(self) -> tuple[Header, list[Entry], tuple[int, int]]:
        prologue = self._read_at(0, min(PROLOGUE_BYTES, self._file_size))
        if prologue[: len(MAGIC)] != MAGIC:
            raise BitstreamError("not a .vinr file: it does not begin with VINR")
        if len(prologue) > len(MAGIC) and prologue[len(MAGIC)] > FORMAT_VERSION:
            version = prologue[len(MAGIC)]
            raise BitstreamError(
                f"the file was written by a newer vinr (format {version}); "
                f"this one reads up to {FORMAT_VERSION}, update it"
            )
        if len(prologue) < PROLOGUE_BYTES:
            raise BitstreamError(f"the file has {self._file_size} bytes, {PROLOGUE_BYTES} are the least")
        _, version, flags, header_size, index_size = SIZES.unpack_from(prologue)
        header_crc, index_crc = CHECKSUMS.unpack_from(prologue, SIZES.size)
        front = PROLOGUE_BYTES + header_size + index_size
        if version != FORMAT_VERSION or flags:
            raise BitstreamError(f"format version {version} with flags {flags:#04x} does not exist")
        if not header_size or not 1 <= index_size <= MAX_INDEX or front > self._file_size:
            raise BitstreamError(
                f"header of {header_size} and index of {index_size} bytes do not fit a file "
                f"of {self._file_size} bytes"
            )
        stored = self._read_at(PROLOGUE_BYTES, header_size)
        check_crc("header", header_crc, zlib.crc32(stored, zlib.crc32(prologue[: SIZES.size])))
        index = self._read_at(PROLOGUE_BYTES + header_size, index_size)
        check_crc("index", index_crc, zlib.crc32(index))
        header = unpack_header(stored)
        entries = unpack_index(index, front, self._file_size)
        if complaint := complaint_about(header, entries):
            raise BitstreamError(complaint)
        return header, entries, (PROLOGUE_BYTES + header_size, index_size)

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
            self._file.seek(start)
            payload = self._file.read(num_bytes)
            self.bytes_read += len(payload)
        if len(payload) != num_bytes:
            raise BitstreamError(
                f"the file ends at byte {start + len(payload)}, {start + num_bytes} are needed"
            )
        return payload


def check_crc(what: str, stored: int, computed: int) -> None:
    """Raise :class:`BitstreamError` if the ``computed`` checksum of ``what`` is not the ``stored`` one."""
    if stored != computed:
        raise BitstreamError(f"{what} is damaged: checksum stored {stored:#010x}, computed {computed:#010x}")
