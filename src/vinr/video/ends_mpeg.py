"""Where MPEG program, transport and Motion-JPEG streams end: packets have sizes, but streams no end mark."""

from __future__ import annotations

from typing import Final

from vinr.video.bounds import OPEN, WHOLE, BoundedFile, End, Verdict, doubtful


def mpeg_ps_end(file: BoundedFile) -> End:
    """Packs and packets; the end code is rarely written."""
    # 0 0 1 | code 1:  B9 end · BA pack, of 12 bytes in MPEG-1 or 14 and stuffing in MPEG-2 · others: size 2 |
    # body
    place = 0
    while True:
        if place >= file.size:
            return OPEN
        start, code = file.number(place, 3), file.number(place + 3, 1)
        if start != 1 or code < 0xB9:
            return OPEN
        if code == 0xB9:
            if place + 4 >= file.size:
                return WHOLE
            place += 4
        elif code == 0xBA:
            is_second = file.number(place + 4, 1) >> 6 == 1
            place += 14 + (file.number(place + 13, 1) & 7) if is_second else 12
        else:
            place += 6 + file.number(place + 4, 2)
        file.need(place)


def mjpeg_end(file: BoundedFile) -> End:
    """Pictures one after another, each with an end mark."""
    tail = file.read(max(file.size - 4096, 0), min(file.size, 4096)).rstrip(b"\0\r\n")
    return OPEN if tail.endswith(b"\xff\xd9") else End(Verdict.MISSING, "the last frame is incomplete")


TS_SYNC: Final = 0x47
# (bytes per packet, bytes before its sync byte): plain; M2TS with a time in front; DVB with parity at the
# end.
TS_LAYOUTS: Final = ((188, 0), (192, 4), (204, 0))
TS_TAIL_PACKETS: Final = 1 << 15


def mpegts_end(file: BoundedFile) -> End:
    """Packets of one size. The stream has no end, but the packets of its elementary streams (PES) have."""
    layout = _ts_layout(file.read(0, min(file.size, 8192)))
    if layout is None:
        return OPEN
    size, first = layout
    excess = (file.size - first) % size
    if excess:
        return End(Verdict.MISSING, f"its last packet has {excess} of {size} bytes")
    num_packets = min((file.size - first) // size, TS_TAIL_PACKETS)
    # 188 bytes from the sync byte on, without the time or parity around them.
    sync = 4 if size == 192 else 0
    left: dict[int, int | None] = {}
    for number in range(num_packets):
        place = file.size - (num_packets - number) * size + sync
        _follow_pes(file.read(place, 188), left)
    if any(left.values()):
        return doubtful("it ends inside a frame or an audio packet")
    return OPEN


def _ts_layout(head: bytes) -> tuple[int, int] | None:
    """Return bytes per packet and the place of the first one; five in a row, or all there are, must agree."""
    for start in range(min(len(head), 4 * 204)):
        for size, sync in TS_LAYOUTS:
            marks = head[start + sync :: size][:5]
            if marks and set(marks) == {TS_SYNC} and (len(marks) == 5 or start == 0):
                return size, start
    return None


def _follow_pes(packet: bytes, left: dict[int, int | None]) -> None:
    """Update ``left``, the bytes still to come of each stream's PES, by the next packet.

    A PES without a stated length, as usual for video, ends in a packet with stuffing: one that happens to end
    with its packet (1 in 184) looks unfinished.
    """
    # 47 | flags, PID 13 bits (bit 6 of byte 1: a PES begins) | byte 3: bit 5 adaptation field, bit 4 payload
    #    | adaptation: length 1, flags 1, … | payload
    pid = int.from_bytes(packet[1:3], "big") & 0x1FFF
    if packet[0] != TS_SYNC or not packet[3] & 0x10:
        return
    has_adaptation = packet[3] & 0x20
    payload = packet[5 + packet[4] if has_adaptation else 4 :]
    if packet[1] & 0x40:
        if payload[:3] != b"\0\0\1" or len(payload) < 6:
            left.pop(pid, None)
            return
        length = int.from_bytes(payload[4:6], "big")
        left[pid] = 6 + length if length else None
    if pid not in left:
        return
    remaining = left[pid]
    # -1: length unknown, and the last packet was full.
    if remaining is None or remaining < 0:
        left[pid] = None if has_adaptation and _is_filled_up(packet[4], packet[5]) else -1
    else:
        left[pid] = max(remaining - len(payload), 0)


def _is_filled_up(length: int, flags: int) -> bool:
    """Return whether an adaptation field holds stuffing: more than its flags say."""
    # Two clocks of 6 bytes and a countdown of 1; bits 0 and 1 announce fields of other lengths.
    clocks = 6 * bool(flags & 0x10) + 6 * bool(flags & 0x08) + bool(flags & 0x04)
    return length == 0 or bool(flags & 0x03) or length > 1 + clocks
