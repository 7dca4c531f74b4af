"""States the shape of pixels in a finished Matroska file, which libav does not when PyAV calls it.

::

    before   EBML | Segment: SeekHead | Void          | Info | Tracks             | … | clusters
    after    EBML | Segment: SeekHead | Void | Info | Tracks: … Video: … shape … | … | clusters

SeekHead tells where the others begin. libav leaves a Void behind it, room for more of them, of which the
shape takes a part; nothing behind Tracks moves.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

# IDs of elements (RFC 9559). An element is its ID, the size of its content, and the content.
SEGMENT: Final = bytes.fromhex("18538067")
SEEK_HEAD: Final = bytes.fromhex("114d9b74")
TRACKS: Final = bytes.fromhex("1654ae6b")
SEEK: Final = bytes.fromhex("4dbb")
SEEK_POSITION: Final = bytes.fromhex("53ac")
CRC: Final = b"\xbf"
VOID: Final = b"\xec"
TRACK: Final = b"\xae"
VIDEO: Final = b"\xe0"
DISPLAY_WIDTH: Final = bytes.fromhex("54b0")
DISPLAY_HEIGHT: Final = bytes.fromhex("54ba")
DISPLAY_UNIT: Final = bytes.fromhex("54b2")
# The unit of width and height that says: their ratio alone matters.
ASPECT_RATIO: Final = 3
# An ID and a size of one byte each.
MIN_VOID: Final = 2
# What comes before the clusters is far smaller.
MAX_FRONT: Final = 2**24


@dataclass(frozen=True)
class Element:
    """An element with the bytes that it takes in its file, from ``start`` to ``stop``."""

    id: bytes
    content: bytes
    start: int
    stop: int

    def replaced(self, content: bytes) -> bytes:
        """Return the element as bytes, with another content; its size takes as many bytes or more."""
        size_bytes = self.stop - self.start - len(self.id) - len(self.content)
        return _coded(self.id, content, size_bytes)

    def children(self) -> Iterator[Element]:
        """Yield the elements of the content."""
        return _elements(self.content, 0)

    def with_children(self, id_: bytes, change: Callable[[Element], bytes]) -> bytes:
        """Return the element as bytes, its children of one ID changed and its checksum, if any, made anew."""
        content, has_crc = b"", False
        for child in self.children():
            if child.id == CRC:
                has_crc = True
            else:
                content += change(child) if child.id == id_ else self.content[child.start : child.stop]
        crc = _coded(CRC, zlib.crc32(content).to_bytes(4, "little")) if has_crc else b""
        return self.replaced(crc + content)


def state_shape(path: Path, height: int, width: int, pixel_aspect: Fraction) -> bool:
    """Write into ``path`` how frames of ``height`` × ``width`` pixels are shown; return whether it worked.

    It does not if the file is laid out otherwise than libav did it so far; it is then left as it is.
    """
    shape = Fraction(width, height) * pixel_aspect
    with path.open("r+b") as file:
        front = file.read(MAX_FRONT)
        segment = next((item for item in _elements(front, 0) if item.id == SEGMENT), None)
        if segment is None:
            return False
        begin = segment.stop - len(segment.content)
        elements = []
        for element in segment.children():
            elements.append(element)
            if element.id == TRACKS:
                break
        if [item.id for item in elements[:2]] != [SEEK_HEAD, VOID] or elements[-1].id != TRACKS:
            return False
        new = _with_shape(segment.content, elements, shape)
        if new is not None:
            file.seek(begin + elements[0].start)
            file.write(new)
        return new is not None


def _with_shape(content: bytes, elements: list[Element], shape: Fraction) -> bytes | None:
    """Return ``elements``, from SeekHead to Tracks, with the shape in as many bytes; None if it cannot be."""
    seek_head, void, tracks = elements[0], elements[1], elements[-1]
    shaped = tracks.with_children(
        TRACK, lambda track: track.with_children(VIDEO, lambda video: _shaped(video, shape))
    )
    growth = len(shaped) - (tracks.stop - tracks.start)
    room = void.stop - void.start - growth
    if room < MIN_VOID:
        return None
    moved = range(void.stop, tracks.start + 1)
    head = seek_head.with_children(
        SEEK, lambda seek: seek.with_children(SEEK_POSITION, lambda item: _earlier(item, moved, growth))
    )
    # The size in one byte, or where that is too small in eight.
    size_bytes = 1 if room < 128 else 8
    padding = _coded(VOID, bytes(room - 1 - size_bytes), size_bytes)
    return head + padding + content[void.stop : tracks.start] + shaped


def _shaped(video: Element, shape: Fraction) -> bytes:
    """Return a track's Video with the width and height as which it is shown."""
    width, height = shape.as_integer_ratio()
    content = b""
    for child in video.children():
        if child.id not in (DISPLAY_WIDTH, DISPLAY_HEIGHT, DISPLAY_UNIT):
            content += video.content[child.start : child.stop]
    for id_, number in ((DISPLAY_WIDTH, width), (DISPLAY_HEIGHT, height), (DISPLAY_UNIT, ASPECT_RATIO)):
        content += _coded(id_, number.to_bytes((number.bit_length() + 7) // 8))
    return video.replaced(content)


def _earlier(position: Element, moved: range, growth: int) -> bytes:
    """Return a position in the segment, of as many bytes, after what lay in ``moved`` has come forward."""
    value = int.from_bytes(position.content)
    value -= growth if value in moved else 0
    return position.replaced(value.to_bytes(len(position.content)))


def _coded(id_: bytes, content: bytes, size_bytes: int = 1) -> bytes:
    length = size_bytes
    # All ones would mean: of unknown size.
    while len(content) >= 2 ** (7 * length) - 1:
        length += 1
    return id_ + (len(content) | 1 << 7 * length).to_bytes(length) + content


def _elements(data: bytes, start: int) -> Iterator[Element]:
    """Yield the elements in ``data``; the last one may be cut."""
    while start < len(data):
        id_bytes = _length(data[start])
        size_at = start + id_bytes
        size_bytes = _length(data[size_at]) if size_at < len(data) else 0
        if not id_bytes or not size_bytes:
            return
        content_at = size_at + size_bytes
        size = int.from_bytes(data[size_at:content_at]) & (1 << 7 * size_bytes) - 1
        content = data[content_at : content_at + size]
        start_next = content_at + len(content)
        yield Element(data[start:size_at], content, start, start_next)
        start = start_next


def _length(first: int) -> int:
    """Return how many bytes an ID or a size has that begins with ``first``; 0 if none does."""
    return 9 - first.bit_length() if first else 0
