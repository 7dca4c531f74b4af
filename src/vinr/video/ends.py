"""What a container says about its own end: stated sizes and end marks, read without libav or decoding.

::

    file ── sizes of boxes, chunks, tags, packets ──> one passes the end of the file ──> missing
                                                  └─> end mark, or a matching size ────> whole
                                                  └─> stated figures not reached ──────> doubtful
                                                  └─> no statement ────────────────────> open

libav ignores most of this: for it, a file ends where its bytes end.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from vinr.video.bounds import (
    LARGEST,
    MAX_READ,
    OPEN,
    WHOLE,
    BoundedFile,
    CutError,
    End,
    TooLongError,
    Verdict,
    doubtful,
)
from vinr.video.ends_mpeg import mjpeg_end, mpeg_ps_end, mpegts_end


def read_end(path: Path, format_name: str) -> End:
    """Return what the file at ``path`` says about its end; ``format_name`` is libav's name of its demuxer."""
    reader = READERS.get(format_name.partition(",")[0])
    if reader is None:
        return OPEN
    with path.open("rb") as stream:
        file = BoundedFile(stream, path.stat().st_size)
        try:
            return reader(file)
        except CutError as error:
            return End(Verdict.MISSING, str(error))
        except TooLongError:
            return OPEN


SEGMENT: Final = 0x18538067
CLUSTER: Final = 0x1F43B675


def _matroska(file: BoundedFile) -> End:
    """Elements (also of WebM). Segment and Clusters of a live stream have unknown sizes.

    Their children follow at once, so that walking into them is walking on. A download that reserves its space
    first has the right size, but zeros where its end is missing.
    """
    # identifier | size | body     the first byte of both numbers tells their length by its leading zeros:
    #                              1xxxxxxx one byte, 01xxxxxx two, …; a size of all ones is unknown
    place = segment_end = 0
    result = WHOLE
    while True:
        if place >= file.size:
            return result
        if file.read(place, 1) == b"\0":
            return doubtful("it has zeros in place of its end") if place < segment_end else result
        id_length = 9 - file.number(place, 1).bit_length()
        identifier = file.number(place, id_length)
        place += id_length
        size_length = 9 - file.number(place, 1).bit_length()
        if size_length > 8:
            return OPEN
        unknown = (1 << 7 * size_length) - 1
        size = file.number(place, size_length) & unknown
        place += size_length
        if size != unknown:
            file.need(place + size)
            if identifier == SEGMENT:
                segment_end = place + size
            else:
                place += size
        elif identifier in (SEGMENT, CLUSTER):
            result = OPEN
        else:
            return OPEN


def _avi(file: BoundedFile) -> End:
    """RIFF chunks, several in large files; some writers count the eight bytes of the head too."""
    # "RIFF" | size (4, little-endian) | body | a byte of padding if the size is odd
    place = 0
    while True:
        if place + 8 > file.size or file.read(place, 4) != b"RIFF":
            return WHOLE
        size = file.number(place + 4, 4, little=True)
        if size in (0, 0xFFFFFFFF):
            return doubtful("its writer did not fill in its size")
        file.need(place + size)
        place += 8 + size + size % 2


def _mp4(file: BoundedFile) -> End:
    """Boxes; a fragmented file ends with an index (mfra) or begins with one (sidx), unless streamed."""
    # size (4) | kind (4) | body     size 0: to the end of the file; 1: the real size follows in 8 bytes
    place, num_fragments, has_index = 0, 0, False
    while True:
        if not any(file.read(place, min(8, file.size - place))):
            break
        size, kind = struct.unpack(">I4s", file.read(place, 8))
        if not kind.strip().isalnum():
            break
        if size == 0:
            return WHOLE
        size = file.number(place + 8, 8) if size == 1 else size
        if size < 8:
            return OPEN
        file.need(place + size)
        if kind == b"sidx" and num_fragments == 0:
            has_index |= _check_sidx(file, place, size)
        num_fragments += kind == b"moof"
        has_index |= kind == b"mfra"
        place += size
    return doubtful("its fragments have no closing index") if num_fragments and not has_index else WHOLE


def _check_sidx(file: BoundedFile, place: int, size: int) -> bool:
    """Return whether a segment index covers more than its own fragment; all it refers to must be present."""
    # size 4 | "sidx" | version 1, flags 3 | id 4 | timescale 4 | time 4, offset 4 (version 1: 8, 8) | 2 |
    # count 2 | count × (kind and size 4 | duration 4 | 4)
    times = place + 20
    long = file.number(place + 8, 1) == 1
    offset = file.number(times + 8, 8) if long else file.number(times + 4, 4)
    table = times + (16 if long else 8) + 4
    count = file.number(table - 2, 2)
    sizes = struct.iter_unpack(">I8x", file.read(table, 12 * count))
    file.need(place + size + offset + sum(entry[0] & 0x7FFFFFFF for entry in sizes))
    return count > 1


def _flv(file: BoundedFile) -> End:
    """Tags; the first may state the size of the file, the last one of H.264 is an end mark."""
    # kind 1 (8 audio, 9 video, 18 data) | size 3 | time 4 | stream 3 | body | size of the tag 4
    place = file.number(5, 4) + 4
    stated, is_ended = OPEN, False
    while True:
        if place >= file.size:
            return WHOLE if is_ended else stated
        kind, size = file.number(place, 1) & 0x1F, file.number(place + 1, 3)
        if kind not in (8, 9, 18):
            return stated
        file.need(place + 11 + size)
        head = file.read(place + 11, min(size, MAX_READ if kind == 18 else 2))
        if kind == 18:
            at = head.find(b"\x00\x08filesize\x00")
            if 0 <= at <= len(head) - 19:
                stated = _flv_size(file, struct.unpack_from(">d", head, at + 11)[0])
        elif kind == 9:
            is_ended = len(head) == 2 and head[0] & 0x0F == 7 and head[1] == 2
        place += 11 + size + 4


def _flv_size(file: BoundedFile, stated: float) -> End:
    if 0 < stated <= file.size:
        return WHOLE
    if not 0 < stated < LARGEST:
        return OPEN
    return doubtful(f"its header states {stated:,.0f} bytes, the file has {file.size:,}")


def _ivf(file: BoundedFile) -> End:
    """Frames, each after its size; the header states their number, or in old libav files their duration."""
    # header (its length is at byte 6) | size 4 | time 8 | frame | size 4 | time 8 | frame | …
    place, count, last, tick = file.number(6, 2, little=True), 0, 0, 1
    stated = file.number(24, 4, little=True)
    while True:
        if place >= file.size:
            break
        size, time = struct.unpack("<IQ", file.read(place, 12))
        place += 12 + size
        file.need(place)
        count, last, tick = count + 1, time, time - last
    if stated in (0, 0xFFFFFFFF):
        return OPEN
    is_there = stated <= max(count, last + abs(tick))
    return WHOLE if is_there else doubtful(f"it has {count} of {stated} frames")


ASF_HEADER: Final = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_PROPERTIES: Final = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def _asf(file: BoundedFile) -> End:
    """Objects of a GUID and a size; a broadcast states no size of the file."""
    # GUID 16 | size 8 | body. The properties object has the size of the file at byte 40 and flags at 88 (1:
    # broadcast).
    place, stated = 0, 0
    while True:
        if place + 24 > file.size:
            break
        guid, size = struct.unpack("<16sQ", file.read(place, 24))
        if guid == ASF_HEADER:
            head = file.read(place, min(size, MAX_READ))
            start = head.find(ASF_PROPERTIES)
            if start >= 0 and len(head) >= start + 92:
                stated = int.from_bytes(head[start + 40 : start + 48], "little")
                if head[start + 88] & 1:
                    return OPEN
        if size < 24:
            return OPEN
        place += size
        file.need(place)
    is_there = stated <= file.size
    return WHOLE if is_there else doubtful(f"its header states {stated:,} bytes, the file has {file.size:,}")


def _ogg(file: BoundedFile) -> End:
    """Pages; the last of each stream is marked."""
    # "OggS" | version 1 | flags 1 (4: last page) | position 8 | stream 4 | … | byte 26: number of sizes |
    # sizes | body
    place = 0
    open_streams: set[int] = set()
    while True:
        if place >= file.size:
            return doubtful("it has no end mark") if open_streams else WHOLE
        head = file.read(place, 27)
        if head[:4] != b"OggS":
            return OPEN
        serial = int.from_bytes(head[14:18], "little")
        open_streams.add(serial)
        if head[5] & 4:
            open_streams.discard(serial)
        place += 27 + head[26] + sum(file.read(place + 27, head[26]))
        file.need(place)


def _gif(file: BoundedFile) -> End:
    """Blocks of sub-blocks, then a trailer."""
    # header 13 | colours | "!" kind 1, sub-blocks | "," head 9, colours, 1, sub-blocks | … | ";"
    place = 13 + _gif_colours(file.number(10, 1))
    while True:
        if place >= file.size:
            return doubtful("it has no end mark")
        kind = file.read(place, 1)
        if kind == b"!":
            place += 2
        elif kind == b",":
            place += 11 + _gif_colours(file.number(place + 9, 1))
        else:
            return WHOLE if kind == b";" else OPEN
        place = _after_sub_blocks(file, place)


def _gif_colours(flags: int) -> int:
    # Bit 7: there is a table; bits 0 … 2: it has 2^(n + 1) colours of 3 bytes.
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_sub_blocks(file: BoundedFile, place: int) -> int:
    while True:
        size = file.number(place, 1)
        place += 1 + size
        if size == 0:
            break
    return place


def _png(file: BoundedFile) -> End:
    """Chunks up to IEND."""
    # signature 8 | size 4 | kind 4 | body | CRC 4 | …
    place = 8
    while True:
        if place >= file.size:
            return doubtful("it has no end mark")
        size, kind = struct.unpack(">I4s", file.read(place, 8))
        place += 12 + size
        file.need(place)
        if kind == b"IEND":
            return WHOLE


NUT_INDEX: Final = bytes.fromhex("4e58dd672f23e64e")


def _nut(file: BoundedFile) -> End:
    """The index is at the end and states its length, 12 bytes before the end of the file."""
    length = file.number(max(file.size - 12, 0), 8)
    has_index = 20 <= length <= file.size and file.read(file.size - length, 8) == NUT_INDEX
    return WHOLE if has_index else doubtful("it has no closing index")


MXF_KEY: Final = bytes.fromhex("060e2b34")
MXF_PARTITION: Final = bytes.fromhex("060e2b34020501010d010201")


def _mxf(file: BoundedFile) -> End:
    """Keys, lengths, values; the first partition tells where the last one begins."""
    # key 16 | length, in BER: one byte below 128, or 128 + n and then n bytes | value
    place = 0
    result = OPEN
    while place < file.size:
        key = file.read(place, 16)
        if key[:4] != MXF_KEY:
            return result
        length, count = file.number(place + 16, 1), 1
        if length & 0x80:
            count += length & 0x7F
            length = file.number(place + 17, count - 1)
        value = place + 16 + count
        if key.startswith(MXF_PARTITION) and result is OPEN and length >= 32:
            footer = file.number(value + 24, 8)
            file.need(footer + 1)
            result = WHOLE if footer else OPEN
        place = value + length
        file.need(place)
    return result


READERS: Final[Mapping[str, Callable[[BoundedFile], End]]] = {
    "apng": _png,
    "asf": _asf,
    "avi": _avi,
    "flv": _flv,
    "gif": _gif,
    "ivf": _ivf,
    "jpeg_pipe": mjpeg_end,
    "matroska": _matroska,
    "mjpeg": mjpeg_end,
    "mov": _mp4,
    "mpeg": mpeg_ps_end,
    "mpegts": mpegts_end,
    "mxf": _mxf,
    "nut": _nut,
    "ogg": _ogg,
}
