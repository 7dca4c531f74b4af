"""Which packets hold a picture, told by their first bytes: some only repeat or prepare one.

GIF has comments after the last image, MPEG-4 in AVI has packets that say "as before", VP8 and VP9 have frames
that are never shown, and cameras send H.264's parameters in packets of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

from av.packet import Packet
from av.video.stream import VideoStream

# Coded frames begin with headers; a packet that has none in so many bytes is taken for a picture.
MAX_HEADERS: Final = 4096
# MPEG-4 that says nothing but "as before", as libav tells it.
MAX_EMPTY_VOP: Final = 19


# NAL units without samples: parameters, messages, delimiters, ends, filling.
H264_HEADERS: Final = frozenset(range(6, 16))
HEVC_HEADERS: Final = frozenset(range(32, 41))


class HasPicture(Enum):
    """Whether decoding a packet gives a frame; ``MAYBE`` if only decoding tells."""

    YES = "yes"
    NO = "no"
    MAYBE = "maybe"


class PictureFinder:
    """Tells of the packets of one stream whether they hold a picture."""

    def __init__(self, stream: VideoStream) -> None:
        context = stream.codec_context
        self._rule = RULES.get(context.name)
        extra = context.extradata or b""
        # mp4 and Matroska put a length before each NAL unit, and say in how many bytes.
        self._length_size = 0
        if context.name == "h264" and len(extra) > 6 and extra[0] == 1:
            self._length_size = (extra[4] & 3) + 1
        elif context.name == "hevc" and len(extra) > 22 and extra[:3] not in (b"\0\0\0", b"\0\0\1"):
            self._length_size = (extra[21] & 3) + 1

    def find(self, packet: Packet[Any]) -> HasPicture:
        """Return whether decoding ``packet`` gives a frame."""
        if self._rule is None:
            return HasPicture.YES
        data = memoryview(packet)
        return self._rule(bytes(data[:MAX_HEADERS]), data, self._length_size)


Rule = Callable[[bytes, memoryview, int], HasPicture]


def _gif(head: bytes, data: memoryview, _: int) -> HasPicture:
    # ["GIF89a" 7 bytes, colours] | "!" kind 1, sub-blocks | "," image | ";"
    place = 0
    if head[:3] == b"GIF":
        flags = head[10] if len(head) > 10 else 0
        place = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while place < len(data):
        if data[place] != 0x21:
            return HasPicture.NO if data[place] == 0x3B else HasPicture.YES
        place += 2
        while place < len(data) and data[place]:
            place += 1 + data[place]
        place += 1
    return HasPicture.NO


def _vp8(head: bytes, data: memoryview, _: int) -> HasPicture:
    return HasPicture.YES if head[0] & 0x10 else HasPicture.NO


def _vp9(head: bytes, data: memoryview, _: int) -> HasPicture:
    # bits: 1 0 profile 2 [0 in profile 3] show existing, not key, show, error resilient
    if data[-1] & 0xE0 == 0xC0:
        return HasPicture.YES  # a superframe: its last frame is shown
    flags = head[0] << 8 | (head[1] if len(head) > 1 else 0)
    flags >>= 7 if head[0] & 0x30 == 0x30 else 8
    return HasPicture.YES if flags & 0x0A else HasPicture.NO


def _mpeg4(head: bytes, data: memoryview, _: int) -> HasPicture:
    return HasPicture.MAYBE if len(data) <= MAX_EMPTY_VOP else HasPicture.YES


def _h264(head: bytes, data: memoryview, length_size: int) -> HasPicture:
    return _has_slice(head, data, length_size, lambda first: first & 0x1F in H264_HEADERS)


def _hevc(head: bytes, data: memoryview, length_size: int) -> HasPicture:
    return _has_slice(head, data, length_size, lambda first: first >> 1 & 0x3F in HEVC_HEADERS)


def _has_slice(
    head: bytes, data: memoryview, length_size: int, is_header: Callable[[int], bool]
) -> HasPicture:
    """Return ``NO`` for a packet of nothing but NAL units without samples; damaged ones count as pictures.

    ``is_header`` tells such units by their first byte.
    """
    # [size | NAL unit] | size | NAL unit | …      or      0 0 1 | NAL unit | 0 0 1 | …
    place = 0
    while place < len(head):
        if length_size:
            size = int.from_bytes(head[place : place + length_size], "big")
            first = place + length_size
            place = first + max(size, 1)
        else:
            start = head.find(b"\0\0\1", place)
            if start < 0:
                break
            first = place = start + 3
        if first >= len(head) or not is_header(head[first]) or place > len(data):
            return HasPicture.YES
    return HasPicture.NO if len(head) == len(data) else HasPicture.YES


RULES: Final[Mapping[str, Rule]] = {
    "gif": _gif,
    "h264": _h264,
    "hevc": _hevc,
    "mpeg4": _mpeg4,
    "vp8": _vp8,
    "vp9": _vp9,
}
