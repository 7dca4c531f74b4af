"""Audio, copied packet by packet: never decoded, never encoded again.

::

    input file ── extract_audio ──> Matroska bytes ── AudioCopier ──> output file
                  (all audio streams, cut to the frames, shifted to start with them)
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
from av.audio.codeccontext import AudioCodecContext
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from vinr.errors import InputError, override
from vinr.video.libav import explain, open_input
from vinr.video.spec import Audio

# Audio encoders start a little before 0 to warm up. Such times must not be shifted, or audio and video drift
# apart. bitexact leaves out random identifiers, so that the same audio gives the same bytes.
MATROSKA_OPTIONS = {"avoid_negative_ts": "disabled", "fflags": "+bitexact"}

# What PyAV raises for streams that libav cannot make sense of.
UNUSABLE: Final = (av.FFmpegError, ValueError, ArithmeticError, InputError)


def extract_audio(
    path: Path, *, origin: Fraction, start: Fraction | None = None, stop: Fraction | None = None
) -> Audio | None:
    """Return the audio of a file, as the bytes of a Matroska file (.mka), ``None`` if there is none.

    Times are seconds on the file's clock, whose first frame appears at ``origin``. Packets that begin in
    ``start`` ≤ time < ``stop`` are kept (``None``: no limit); ``start`` (else ``origin``) becomes 0. Matroska
    counts in milliseconds.

    Raises
    ------
    InputError
        If the audio cannot be read, or has a codec that Matroska cannot hold.
    """
    with open_input(path) as container:
        streams = container.streams.audio
        if not streams:
            return None
        shift = origin if start is None else start
        target = io.BytesIO()
        try:
            with av.open(target, "w", format="matroska", options=MATROSKA_OPTIONS) as output:
                copies = {stream.index: _copy_stream(output, stream) for stream in streams}
                # A file whose streams have no packet in the range is as one without audio.
                is_silent = True
                for packet in _packets(container, start, stop):
                    _move(packet, shift)
                    packet.stream = copies[packet.stream_index]
                    output.mux(packet)
                    is_silent = False
        except UNUSABLE as error:
            names = ", ".join(codec_name(stream) for stream in streams)
            raise InputError(
                f"{path}: its audio ({names}) cannot be copied: {explain(error)}; leave it out with "
                f"{override('compress.audio=false')}"
            ) from error
    return None if is_silent else Audio(target.getvalue())


class AudioCopier:
    """Copies the packets of ``audio`` (from :func:`extract_audio`) to an output that is being written.

    Raises
    ------
    InputError
        If the output's format cannot hold the audio codec.
    """

    def __init__(self, audio: Audio, output: OutputContainer) -> None:
        self._output = output
        try:
            self._input = av.open(io.BytesIO(audio.data), "r", format="matroska", metadata_errors="replace")
        except UNUSABLE as error:
            raise InputError(f"the audio is not readable Matroska data: {explain(error)}") from error
        self._copies = {stream.index: self._add(stream) for stream in self._input.streams.audio}
        self._packets = _packets(self._input, None, None)
        self._next = self._read()

    def copy_until(self, seconds: Fraction | None) -> None:
        """Write the packets that begin at ``seconds`` or earlier; all remaining ones if ``None``."""
        while self._next is not None and (seconds is None or _begin(self._next) <= seconds):
            self._next.stream = self._copies[self._next.stream_index]
            try:
                self._output.mux(self._next)
            except (ValueError, ArithmeticError) as error:
                raise InputError(f"the audio is damaged: {explain(error)}; leave it out") from error
            self._next = self._read()

    def close(self) -> None:
        """Release the input."""
        self._input.close()

    def _read(self) -> Packet[AudioStream] | None:
        try:
            return next(self._packets, None)
        except UNUSABLE as error:
            raise InputError(f"the audio is damaged: {explain(error)}; leave it out") from error

    def _add(self, stream: AudioStream) -> AudioStream:
        try:
            return _copy_stream(self._output, stream)
        except UNUSABLE as error:
            formats = f"{self._output.format.name} cannot hold {codec_name(stream)} audio"
            raise InputError(f"{formats}; write .mkv, or leave it out") from error


def codec_name(stream: AudioStream) -> str:
    """Return the name of a stream's codec, ``unknown`` if libav does not know it."""
    # None for such streams, which PyAV's types do not say.
    context: AudioCodecContext | None = stream.codec_context
    return "unknown" if context is None else context.name


def _copy_stream(output: OutputContainer, stream: AudioStream) -> AudioStream:
    if codec_name(stream) == "unknown":
        raise InputError("libav does not know its codec")
    copy = output.add_stream_from_template(stream)
    if stream.language is not None:
        copy.metadata["language"] = stream.language
    return copy


def _packets(
    container: InputContainer, start: Fraction | None, stop: Fraction | None
) -> Iterator[Packet[AudioStream]]:
    """Yield the audio packets of all streams that begin in ``start`` ≤ time < ``stop`` (seconds)."""
    for packet in container.demux(container.streams.audio):
        if packet.size == 0:
            continue  # PyAV ends each stream with an empty packet
        if packet.pts is None:
            packet.pts = packet.dts
        if packet.pts is None:
            raise InputError("packets without a time")
        begin = _begin(packet)
        if (start is None or begin >= start) and (stop is None or begin < stop):
            yield packet


def _begin(packet: Packet[AudioStream]) -> Fraction:
    assert packet.pts is not None
    return packet.pts * packet.time_base


def _move(packet: Packet[AudioStream], seconds: Fraction) -> None:
    assert packet.pts is not None
    # Decoding and presentation time by the same whole number of ticks, so that neither overtakes the other.
    ticks = round(seconds / packet.time_base)
    packet.pts -= ticks
    packet.dts = packet.pts if packet.dts is None else packet.dts - ticks
