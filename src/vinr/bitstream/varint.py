"""Numbers of variable length, and a reader that never leaves its buffer (docs/format.md, introduction)."""

from __future__ import annotations

import zlib

from vinr.errors import BitstreamError

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
            raise BitstreamError(f"{self._what} is cut short: {num_bytes} bytes needed, {self.num_left} left")
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
            raise BitstreamError(f"{self._what} has {self.num_left} extra bytes at its end")


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
