"""Audio, copied packet by packet: never decoded, never encoded again.

::

    input file ── extract_audio ──> AUDIO section ── AudioCopier ──> output file
                  (all tracks, cut to the frames)    (audio_copy.py)

The section has its own clock, whose 0 is where the audio can first be heard; ``Audio.start`` says how long
after the first frame that is. Only the packets with which a decoder warms up lie before 0.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Final

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet

from vinr.errors import InputError, override
from vinr.video.audio_section import (
    NUT,
    OPTIONS,
    UNKNOWN,
    UNUSABLE,
    AudioSource,
    CopiedTrack,
    choose_format,
    codec_name,
    copy_track,
    find_begin,
    find_hints,
    keep_layout,
    open_section,
)
from vinr.video.clock import Clock
from vinr.video.libav import explain, move_packet
from vinr.video.packets import filled_packets
from vinr.video.spec import Audio

# Decoders warm up in less than this.
WARM_UP_SECONDS: Final = Fraction(1, 2)
# Matroska holds as much before its 0.
MAX_EARLY_SECONDS: Final = 1
NUM_PROBED: Final = 4  # packets of a track
# The largest denominator of the header's fractions.
MAX_DENOMINATOR: Final = 2**31 - 1
UNCHANGED: Final = Clock()


def extract_audio(
    reopen: Callable[[], InputContainer],
    path: Path,
    target: BinaryIO,
    *,
    origin: Fraction,
    start: Fraction | None = None,
    stop: Fraction | None = None,
    clock: Clock = UNCHANGED,
    on_note: Callable[[str], None],
) -> Fraction | None:
    """Write the audio of a file to ``target``, an empty file; return its start as in :class:`Audio`.

    ``None``: there is none, and nothing is written.

    Times are seconds on the file's clock as ``clock`` continues it, where the first frame appears at
    ``origin``. Packets that begin in ``start`` ≤ time < ``stop`` are kept (``None``: no limit); the result
    counts from ``start``, else ``origin``. Matroska counts in milliseconds. ``reopen`` opens the file that
    ``path`` names; ``on_note`` is told of tracks that are left out.

    Raises
    ------
    InputError
        If the audio cannot be read, or has a codec that can be stored in no way.
    """
    with reopen() as container:
        streams = list(container.streams.audio)
        known = _list_known(streams, path, on_note)
        try:
            return _carry(reopen, container, known, _Range(origin, start, stop, clock), target)
        except UNUSABLE as error:
            names = ", ".join(dict.fromkeys(codec_name(streams[number]) for number in known))
            raise InputError(
                f"{path}: its audio ({names}) cannot be copied: {explain(error)}; leave it out with "
                f"{override('compress.audio=false')}"
            ) from error


def cut_audio(audio: AudioSource, *, start: Fraction | None, stop: Fraction | None) -> Audio | None:
    """Return the part of ``audio`` that begins in ``start`` ≤ time < ``stop``, ``None`` if there is none.

    Times are seconds after the first frame (``None``: no limit); the result counts from ``start``.

    Raises
    ------
    InputError
        If the audio is damaged.
    """

    def reopen() -> InputContainer:
        return open_section(audio.open())

    with reopen() as container:
        try:
            if any(codec_name(stream) == UNKNOWN for stream in container.streams.audio):
                raise InputError("libav does not know its codec")
            chosen = _Range(
                -audio.start,
                None if start is None else start - audio.start,
                None if stop is None else stop - audio.start,
                heard=Fraction(0),
            )
            target = io.BytesIO()
            begin = _carry(reopen, container, range(len(container.streams.audio)), chosen, target)
            return None if begin is None else Audio(target.getvalue(), begin)
        except UNUSABLE as error:
            raise InputError(f"the audio is damaged: {explain(error)}; leave it out") from error


@dataclass(frozen=True)
class _Range:
    """Which packets are copied, as :func:`extract_audio` says.

    ``heard`` is where the audio can first be heard, if that is known; else the packets tell.
    """

    origin: Fraction
    start: Fraction | None
    stop: Fraction | None
    clock: Clock = UNCHANGED
    heard: Fraction | None = None

    @property
    def zero(self) -> Fraction:
        """The time from which the result counts."""
        return self.origin if self.start is None else self.start

    def packets(
        self, container: InputContainer, streams: tuple[AudioStream, ...]
    ) -> Iterator[Packet[AudioStream]]:
        """Yield the packets of ``streams`` that are copied."""
        if not streams:
            return
        added = self.clock.follow()
        for packet in filled_packets(container, *streams):
            seconds = added(packet)
            if seconds:
                move_packet(packet, seconds)
            begin = find_begin(packet)
            if (self.start is None or begin >= self.start) and (self.stop is None or begin < self.stop):
                yield packet


@dataclass
class _Beginning:
    """How a track begins: its first packet, what can be heard of it, and a few packets to try."""

    seconds: Fraction
    heard: Fraction
    is_heard: bool = False
    packets: list[Packet[AudioStream]] = field(default_factory=list)


def _carry(
    reopen: Callable[[], InputContainer],
    container: InputContainer,
    tracks: Collection[int],
    chosen: _Range,
    target: BinaryIO,
) -> Fraction | None:
    """Write the section of some ``tracks`` (numbers among the audio streams), and return its start.

    The container is read from its beginning until all tracks have begun; what ``reopen`` opens is copied.
    """
    streams = tuple(container.streams.audio[number] for number in tracks)
    beginnings = _find_beginnings(chosen.packets(container, streams), len(streams))
    # Tracks that have no packet in the range are as none.
    streams = tuple(stream for stream in streams if stream.index in beginnings)
    if not streams:
        return None
    format_name = choose_format(streams)
    if format_name is None:
        raise InputError(
            "neither Matroska nor NUT holds it" if len(streams) == 1 else "no file holds all of it"
        )
    hints: dict[int, dict[str, str]] = {}
    if format_name == NUT:
        for stream in streams:
            hints[stream.index] = find_hints(stream, beginnings[stream.index].packets)
        zero = min(beginning.seconds for beginning in beginnings.values())  # NUT has no times below 0
    else:
        zero = min(beginning.heard for beginning in beginnings.values())
        zero = zero if chosen.heard is None else max(zero, chosen.heard)
    with reopen() as again, av.open(target, "w", format=format_name, options=OPTIONS[format_name]) as output:
        originals = tuple(stream for stream in again.streams.audio if stream.index in beginnings)
        copies = {}
        for stream in originals:
            copy = copy_track(output, stream)
            keep_layout(copy, stream)
            copy.metadata.update(hints.get(stream.index, {}))
            copies[stream.index] = CopiedTrack(output, copy)
        output.start_encoding()
        for packet in _from(zero, chosen.packets(again, originals)):
            copies[packet.stream_index].take(packet)
            output.mux(packet)
    return (zero - chosen.zero).limit_denominator(MAX_DENOMINATOR)


def _from(zero: Fraction, packets: Iterator[Packet[AudioStream]]) -> Iterator[Packet[AudioStream]]:
    """Yield ``packets`` with times that count from ``zero``."""
    for packet in packets:
        if find_begin(packet) < zero - WARM_UP_SECONDS:
            if packet.is_discard:
                continue  # cut off by an edit list, and too early to be of use to a decoder
            if find_begin(packet) < zero - MAX_EARLY_SECONDS:
                raise InputError("its times go back to before its beginning")
        move_packet(packet, -zero)
        yield packet


def _list_known(streams: list[AudioStream], path: Path, on_note: Callable[[str], None]) -> list[int]:
    known = []
    for number, stream in enumerate(streams):
        if codec_name(stream) == UNKNOWN:
            on_note(f"{path}: audio track {number + 1} is left out: its codec is unknown")
        else:
            known.append(number)
    return known


def _find_beginnings(packets: Iterator[Packet[AudioStream]], num_streams: int) -> dict[int, _Beginning]:
    """Return how each stream begins, by its index; streams without packets are missing."""
    found: dict[int, _Beginning] = {}
    num_done = 0
    for packet in packets:
        seconds = find_begin(packet)
        beginning = found.get(packet.stream_index)
        if beginning is None:
            heard = seconds + min(_skipped(packet), WARM_UP_SECONDS)
            beginning = found[packet.stream_index] = _Beginning(seconds, heard)
        if packet.is_discard and not beginning.is_heard:
            beginning.heard = max(beginning.heard, seconds + (packet.duration or 0) * packet.time_base)
        else:
            beginning.is_heard = True
        if len(beginning.packets) < NUM_PROBED:
            beginning.packets.append(packet)
            num_done += len(beginning.packets) == NUM_PROBED
        if num_done == num_streams and all(beginning.is_heard for beginning in found.values()):
            break
    return found


def _skipped(packet: Packet[AudioStream]) -> Fraction:
    """Return the seconds at the start of a packet that are decoded, but not played, in whole ticks."""
    rate = packet.stream.codec_context.sample_rate
    if not rate or not packet.has_sidedata("skip_samples"):
        return Fraction(0)
    num_samples = int.from_bytes(bytes(packet.get_sidedata("skip_samples"))[:4], "little")
    # Up: the time of the packet was rounded down, away from 0.
    return math.ceil(Fraction(num_samples, rate) / packet.time_base) * packet.time_base
