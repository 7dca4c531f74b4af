"""Runs anchors: encodes a frame source into a file, and decodes that.

Axes: N frames, C colour channels (red, green, blue), H rows, W columns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import av
import numpy as np
import torch
from av.video.frame import VideoFrame

from vinr.codecs.anchors import Anchor
from vinr.codecs.streams import library_versions, write_stream
from vinr.errors import InputError, UsageError
from vinr.temporaries import Maker
from vinr.video.color import ColorConverter, Upsampling, planes_of
from vinr.video.libav import explain, open_input
from vinr.video.spec import FrameBatch, FrameSource, FrameStream, Levels, VideoSpec

# Frames looked at to choose how chroma is brought to full size.
NUM_PROBED: Final = 4


@dataclass(frozen=True)
class EncodedAnchor:
    """What an anchor wrote: the size of the file, its exact options, the time on one thread."""

    path: Path
    num_bytes: int
    options: dict[str, str]
    versions: str
    encode_seconds: float


def encode_anchor(
    anchor: Anchor,
    frames: FrameStream | FrameSource,
    path: Path,
    *,
    quality: int,
    on_frame: Callable[[int, int], None] | None = None,
) -> EncodedAnchor:
    """Encode all ``frames`` into a new file; ``encode_seconds`` hold reading and converting too.

    Frames of odd sizes are padded by their last row and column, which :func:`decode_anchor` cuts off.

    Raises
    ------
    UsageError
        If the encoder refuses frame size, chroma or quality, or frames are not of 8 bits.
    OutputError
        If the file cannot be written.
    """
    started = time.monotonic()
    stream = frames if isinstance(frames, FrameStream) else FrameStream.of(frames, batch_size=1)
    spec = stream.spec
    if spec.bit_depth != 8:
        raise UsageError(
            f"codecs are compared at 8 bits, not {spec.bit_depth}: read the video with bit_depth=8"
        )
    size = spec.height + spec.height % 2, spec.width + spec.width % 2
    write_stream(
        anchor,
        _frames_to_encode(anchor, stream, on_frame),
        path,
        quality=quality,
        size=size,
        frame_rate=spec.frame_rate,
        color=spec.color,
        pixel_aspect=spec.pixel_aspect,
    )
    seconds = time.monotonic() - started
    options = anchor.options(quality, width=size[1])
    return EncodedAnchor(path, path.stat().st_size, options, library_versions(anchor), seconds)


def _frames_to_encode(
    anchor: Anchor, stream: FrameStream, on_frame: Callable[[int, int], None] | None
) -> Iterator[VideoFrame]:
    spec = stream.spec
    converter = ColorConverter(spec.color)
    #           rows                  columns              colours    of HWC, after the last only
    padding = ((0, spec.height % 2), (0, spec.width % 2), (0, 0))
    for batch in stream:
        rgb_NHWC = batch.rgb_NCHW.permute(0, 2, 3, 1).cpu().numpy()
        for number, rgb_HWC in zip(batch.index_N.tolist(), rgb_NHWC, strict=True):
            yield converter.from_rgb(np.pad(rgb_HWC, padding, mode="edge"), anchor.pixel_format)
            if on_frame is not None:
                on_frame(number + 1, spec.num_frames)


def decode_anchor(
    path: Path, spec: VideoSpec, *, upsampling: Upsampling | None = None, planes: bool = False
) -> FrameStream:
    """Return the decoded frames of an anchor's file, one per batch; the file is closed after the last.

    Parameters
    ----------
    spec
        That of the frames that were encoded.
    upsampling
        As in :meth:`~vinr.video.color.ColorConverter.to_rgb`.
    planes
        Whether batches carry the decoder's own planes.

    Raises
    ------
    InputError
        While frames are read, if the file cannot be decoded or holds fewer frames.
    """
    return FrameStream(spec, _decoded_batches(path, spec, upsampling, planes))


def _decoded_batches(
    path: Path, spec: VideoSpec, upsampling: Upsampling | None, planes: bool
) -> Iterator[FrameBatch]:
    converter = ColorConverter(spec.color)

    def cut(padded_HW: Levels) -> Levels:
        return padded_HW[: spec.height, : spec.width]

    # A process that is forked while frames are read leaves the file of its parent alone.
    container, maker = open_input(path), Maker()
    try:
        stream = container.streams.video[0]
        # As many threads as the networks have.
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = torch.get_num_threads()
        decoder = container.decode(stream)
        for number in range(spec.num_frames):
            try:
                frame = next(decoder, None)
            except av.FFmpegError as error:
                raise InputError(f"{path}: cannot be decoded: {explain(error)}") from error
            if frame is None:
                raise InputError(f"{path}: frame {number} is missing after decoding")
            rgb_HWC = cut(converter.to_rgb(frame, upsampling=upsampling))
            rgb_1CHW = torch.from_numpy(rgb_HWC[None]).permute(0, 3, 1, 2)
            luma, *chroma = planes_of(frame) if planes else (rgb_HWC,)
            # Chroma of odd sizes is rounded up: only luma was padded beyond the frame.
            of_frame = ((cut(luma), *chroma),) if planes else None
            yield FrameBatch(torch.tensor([number]), rgb_1CHW, of_frame)
    finally:
        maker.close(container)


def choose_upsampling(source: FrameSource) -> Upsampling:
    """Return how 4:2:0 gives ``source`` back best, without any coding, for the benefit of the anchors.

    Frames that came from 4:2:0 at their own size have chroma that was repeated, resized ones have not.
    """
    converter = ColorConverter(source.spec.color)
    count = source.spec.num_frames
    # Sums of mean squared errors, the probed frames weighing the same.
    error: dict[Upsampling, float] = {"nearest": 0.0, "bicubic": 0.0}
    for index in sorted({count * step // NUM_PROBED for step in range(NUM_PROBED)}):
        rgb_HWC = source.frames(torch.tensor([index]))[0].permute(1, 2, 0).cpu().numpy()
        frame = converter.from_rgb(rgb_HWC, "yuv420p")
        for way in error:
            difference = converter.to_rgb(frame, upsampling=way).astype(np.float64) - rgb_HWC
            error[way] += float(np.square(difference).mean())
    return min(error, key=lambda way: error[way])
