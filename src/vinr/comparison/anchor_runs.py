"""Runs anchors: encodes a frame source into a temporary file, decodes that, measures both.

Axes: N frames, C colour channels (red, green, blue), H rows, W columns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Final, Self, final

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from torch import Tensor

from vinr.comparison.anchor_streams import library_versions, write_stream
from vinr.comparison.anchors import Anchor
from vinr.comparison.rd import RDPoint
from vinr.decoding.sources import TimedSource
from vinr.errors import InputError
from vinr.quality.clip import Planes, compare_sources
from vinr.temporaries import Maker, temporary_folder
from vinr.video.color import ColorConverter, Upsampling, planes_of
from vinr.video.libav import explain, open_input, video_stream
from vinr.video.spec import FrameSource, VideoSpec

# Frames looked at to choose how chroma is brought to full size.
NUM_PROBED: Final = 4


def _ignore_frame(done: int, total: int) -> None:
    """Watch nothing."""


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
    source: FrameSource,
    path: Path,
    *,
    quality: int,
    on_frame: Callable[[int, int], None] = _ignore_frame,
) -> EncodedAnchor:
    """Encode all frames of ``source`` into a new file; ``encode_seconds`` hold reading and converting too.

    Frames of odd sizes are padded by their last row and column, which :class:`AnchorVideo` cuts off.

    Raises
    ------
    UsageError
        If the encoder refuses frame size, chroma or quality.
    OutputError
        If the file cannot be written.
    """
    started = time.monotonic()
    spec = source.spec
    size = spec.height + spec.height % 2, spec.width + spec.width % 2
    write_stream(
        anchor,
        _frames_to_encode(anchor, source, on_frame),
        path,
        quality=quality,
        size=size,
        frame_rate=spec.frame_rate,
        color=spec.color,
    )
    seconds = time.monotonic() - started
    options = anchor.options(quality, width=size[1])
    return EncodedAnchor(path, path.stat().st_size, options, library_versions(anchor), seconds)


def _frames_to_encode(
    anchor: Anchor, source: FrameSource, on_frame: Callable[[int, int], None]
) -> Iterator[VideoFrame]:
    spec = source.spec
    converter = ColorConverter(spec.color)
    padding = ((0, spec.height % 2), (0, spec.width % 2), (0, 0))
    for index in range(spec.num_frames):
        rgb_HWC = source.frames(torch.tensor([index]))[0].permute(1, 2, 0).cpu().numpy()
        yield converter.from_rgb(np.pad(rgb_HWC, padding, mode="edge"), anchor.pixel_format)
        on_frame(index + 1, spec.num_frames)


@final
class AnchorVideo:
    """The decoded frames of an anchor's file, asked for in order: a frame source; a context manager.

    ``spec`` is that of the frames that were encoded. ``upsampling`` as in
    :meth:`~vinr.video.color.ColorConverter.to_rgb`.

    Raises
    ------
    InputError
        If the file cannot be read or holds another number of frames.
    """

    def __init__(self, path: Path, spec: VideoSpec, *, upsampling: Upsampling | None = None) -> None:
        self.spec = spec
        self._path = path
        self._upsampling = upsampling
        self._converter = ColorConverter(spec.color)
        self._container: InputContainer | None = None
        self._maker = Maker()
        self._decoder: Iterator[VideoFrame] = iter(())
        self._held: dict[int, VideoFrame] = {}

    def frames(self, index_N: Tensor) -> Tensor:
        """Return uint8 rgb_NCHW; ``index_N`` goes on where the last call stopped, or starts at 0."""
        self._advance(index_N.tolist())
        frames_HWC = [self._converter.to_rgb(f, upsampling=self._upsampling) for f in self._held.values()]
        rgb_NHWC = np.stack([self._cut(rgb_HWC) for rgb_HWC in frames_HWC])
        return torch.from_numpy(rgb_NHWC).permute(0, 3, 1, 2)

    def planes(self, index_N: Tensor) -> list[Planes]:
        """Return the planes of the frames that :meth:`frames` gave last."""
        found = [planes_of(self._held[index]) for index in index_N.tolist()]
        return [(self._cut(luma), *chroma) for luma, *chroma in found]

    def _cut(self, padded_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return padded_HW[: self.spec.height, : self.spec.width]

    def _advance(self, indices: list[int]) -> None:
        if indices[0] == 0:
            self.close()
            self._container, self._maker = open_input(self._path), Maker()
            stream = video_stream(self._container, self._path)
            # As many threads as the networks have.
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = torch.get_num_threads()
            self._decoder = self._container.decode(stream)
        try:
            decoded = list(islice(self._decoder, len(indices)))
        except av.FFmpegError as error:
            raise InputError(f"{self._path}: cannot be decoded: {explain(error)}") from error
        if len(decoded) != len(indices):
            raise InputError(f"{self._path}: frame {indices[0] + len(decoded)} is missing after decoding")
        self._held = dict(zip(indices, decoded, strict=True))

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            self._maker.close(self._container)
            self._container = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def choose_upsampling(source: FrameSource) -> Upsampling:
    """Return how 4:2:0 gives ``source`` back best, without any coding, for the benefit of the anchors.

    Frames that came from 4:2:0 at their own size have chroma that was repeated, resized ones have not.
    """
    converter = ColorConverter(source.spec.color)
    count = source.spec.num_frames
    error: dict[Upsampling, float] = {"nearest": 0.0, "bicubic": 0.0}
    for index in sorted({count * step // NUM_PROBED for step in range(NUM_PROBED)}):
        rgb_HWC = source.frames(torch.tensor([index]))[0].permute(1, 2, 0).cpu().numpy()
        frame = converter.from_rgb(rgb_HWC, "yuv420p")
        for way in error:
            difference = converter.to_rgb(frame, upsampling=way).astype(np.float64) - rgb_HWC
            error[way] += float(np.square(difference).mean())
    return min(error, key=lambda way: error[way])


def measure_anchor(
    anchor: Anchor,
    quality: int,
    reference: FrameSource,
    *,
    upsampling: Upsampling,
    watch: Callable[[FrameSource], FrameSource] = lambda source: source,
    on_frame: Callable[[int, int], None] = _ignore_frame,
) -> RDPoint:
    """Encode ``reference``, decode it twice (once on the clock, once to measure), and return the point.

    The clock runs while frames are decoded and brought to 8-bit RGB as any player does; the measured frames
    are converted with exact arithmetic, ``upsampling``, and YUV-PSNR is that of the decoder's own planes.

    Parameters
    ----------
    watch
        Wraps the decoded source, to keep crops of it.
    on_frame
        Called with frames done and frames in all, first while encoding, then while measuring.

    Raises
    ------
    UsageError, OutputError
        As :func:`encode_anchor`.
    """
    spec = reference.spec
    with temporary_folder("vinr-anchor-") as folder:
        path = folder / f"anchor{anchor.suffix}"
        encoded = encode_anchor(anchor, reference, path, quality=quality, on_frame=on_frame)
        with AnchorVideo(path, spec) as played:
            timed = TimedSource(played)
            for index in range(spec.num_frames):
                timed.frames(torch.tensor([index]))
        with AnchorVideo(path, spec, upsampling=upsampling) as video:
            planes = video.planes if anchor.chroma == "4:2:0" else None
            watched = watch(video)
            measured = compare_sources(watched, reference, yuv=True, decoded_planes=planes, on_frame=on_frame)
    return RDPoint.measured(
        anchor.setting(quality, width=spec.width),
        measured,
        num_bytes=encoded.num_bytes,
        num_pixels=spec.num_pixels,
        decode_fps=spec.num_frames / timed.seconds,
        encode_seconds=encoded.encode_seconds,
        options={"encoder": anchor.encoder, **encoded.options},
    )
