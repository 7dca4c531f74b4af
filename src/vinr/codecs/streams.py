"""Writes what an anchor encodes: one elementary stream, on one thread, by libav."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from importlib.metadata import files, version
from pathlib import Path

import av
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from vinr.codecs.anchors import Anchor
from vinr.errors import OutputError, UsageError
from vinr.temporaries import Maker
from vinr.video.color import tag_color
from vinr.video.encoders import open_encoder, why_refused
from vinr.video.libav import explain
from vinr.video.spec import ColorSpec


def library_versions(anchor: Anchor) -> str:
    """Return the versions of PyAV, libavcodec and the encoder (the name of its file in PyAV's wheel)."""
    # Wheels rename the libraries in them to NAME-HASH.so, which tells builds apart.
    names = [file.name for file in files("av") or [] if file.name.startswith(f"{anchor.library}-")]
    libavcodec = ".".join(map(str, av.library_versions["libavcodec"]))
    return f"PyAV {version('av')}, libavcodec {libavcodec}, {names[0] if names else anchor.encoder}"


def write_stream(
    anchor: Anchor,
    frames: Iterable[VideoFrame],
    path: Path,
    *,
    quality: int,
    size: tuple[int, int],
    frame_rate: Fraction,
    color: ColorSpec,
    pixel_aspect: Fraction = Fraction(1),
) -> None:
    """Encode frames of ``anchor.pixel_format`` and ``size`` (rows, columns) as an elementary stream.

    The stream states ``color`` and ``pixel_aspect`` as a decoded file does.

    Raises
    ------
    UsageError
        If the encoder refuses the size or the rate.
    OutputError
        If the file cannot be written.
    """
    try:
        with Maker().closing(av.open(str(path), "w", format=anchor.muxer)) as container:
            options = anchor.options(quality, width=size[1])
            stream = container.add_stream(anchor.encoder, rate=frame_rate, options=options)
            assert isinstance(stream, VideoStream)
            stream.height, stream.width = size
            stream.pix_fmt = anchor.pixel_format
            # One tick per frame: a frame's time is its number.
            stream.codec_context.time_base = 1 / frame_rate
            tag_color(stream.codec_context, color, anchor.pixel_format)
            if pixel_aspect != 1:
                stream.codec_context.sample_aspect_ratio = pixel_aspect
            _open_encoder(anchor, stream, size, frame_rate)
            for packet in _filtered(anchor, stream, _encoded(stream, frames, 1 / frame_rate)):
                container.mux(packet)
    except (av.FFmpegError, OSError) as error:
        raise OutputError(f"{anchor.name}: {path} cannot be written: {explain(error)}") from error


def _open_encoder(anchor: Anchor, stream: VideoStream, size: tuple[int, int], frame_rate: Fraction) -> None:
    try:
        open_encoder(stream.codec_context)
    except av.FFmpegError as error:
        height, width = size
        cause = why_refused(anchor.encoder, error, height=height, width=width, frame_rate=frame_rate)
        raise UsageError(f"{anchor.name} {cause}; leave it out") from error
    # What the encoder did not take is left over; the result would then state options that were not used.
    unused = stream.codec_context.options
    assert not unused, f"{anchor.encoder} does not know {unused}"


def _encoded(
    stream: VideoStream, frames: Iterable[VideoFrame], time_base: Fraction
) -> Iterator[Packet[VideoStream]]:
    for index, frame in enumerate(frames):
        frame.pts, frame.time_base = index, time_base
        # A frame that was decoded before must not bring its old type along.
        frame.pict_type = PictureType.NONE
        yield from stream.encode(frame)
    yield from stream.encode(None)  # what the encoder still looks ahead at


def _filtered(
    anchor: Anchor, stream: VideoStream, packets: Iterator[Packet[VideoStream]]
) -> Iterator[Packet[VideoStream]]:
    if anchor.stream_filter is None:
        yield from packets
        return
    stream_filter = BitStreamFilterContext(anchor.stream_filter, stream)
    for packet in packets:
        for kept in stream_filter.filter(packet):
            kept.stream = stream
            yield kept
    for kept in stream_filter.filter(None):
        kept.stream = stream
        yield kept
