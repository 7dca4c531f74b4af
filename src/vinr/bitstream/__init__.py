"""The .vinr file: header, section index and checksums, as docs/format.md specifies them.

What is read is untrusted: each count and size is bounded before anything is allocated, and every defect ends
in :class:`vinr.errors.BitstreamError`. Nothing here knows tensors; the content of sections is bytes.
"""

from __future__ import annotations

from vinr.bitstream.container import Container, ContainerWriter, PartSizes
from vinr.bitstream.header import (
    Clip,
    Color,
    EditRecord,
    Hdr,
    Header,
    Network,
    Quality,
    Span,
    Tags,
)
from vinr.bitstream.index import (
    ByteReader,
    SectionKind,
    SectionSize,
    deflate,
    inflate,
    pack_varint,
    pack_zigzag,
)

__all__ = [
    "ByteReader",
    "Clip",
    "Color",
    "Container",
    "ContainerWriter",
    "EditRecord",
    "Hdr",
    "Header",
    "Network",
    "PartSizes",
    "Quality",
    "SectionKind",
    "SectionSize",
    "Span",
    "Tags",
    "deflate",
    "inflate",
    "pack_varint",
    "pack_zigzag",
]
