"""What is done with a finished file: decode it to a video, describe it, check it, score it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

from vinr.decode import VideoDecoder
from vinr.errors import UsageError
from vinr.evaluate.metrics import bits_per_pixel, compare_sources, kilobits_per_second
from vinr.models import get_model
from vinr.units import format_bytes, parse_indices
from vinr.video.sink import open_sink
from vinr.video.source import Edit, FrameTensor, open_video
from vinr.video.spec import FrameSource, Timeline, VideoSpec

__all__ = [
    "ClipInfo",
    "EvaluationReport",
    "FileInfo",
    "NetworkInfo",
    "decode_to",
    "describe_file",
    "evaluate_file",
    "verify_file",
]


def quiet(done: int, total: int) -> None:
    """Show nothing."""


def decode_to(
    file: str,
    output: str,
    *,
    frames: str | None = None,
    fps_scale: int = 1,
    codec: str = "x264",
    device: str = "auto",
    force: bool = False,
    on_frame: Callable[[int, int], None] = quiet,
) -> int:
    """Write frames of a .vinr file as a video or as images; return how many.

    Parameters
    ----------
    file, output
        The file (``FILE.vinr#name`` chooses a clip), and .mp4, .mkv, .y4m, a folder or pattern of PNGs, or ``-``.
    frames
        Numbers and slices such as ``0,10,20:40:5``; all frames otherwise.
    fps_scale
        2 puts one frame between each two and doubles the rate, 3 two, and so on.

    Raises
    ------
    UsageError, BitstreamError, OutputError
        If something cannot be used; the output is then not touched.
    """
    if frames is not None and fps_scale != 1:
        raise UsageError("both a choice of frames and a rate scale are given; give one of them")
    with VideoDecoder(file, device=device) as decoder:
        chosen = range(len(decoder)) if frames is None else parse_indices(frames, len(decoder))
        times = [Fraction(index) for index in chosen]
        timeline = _chosen_timeline(decoder.timeline, list(chosen))
        if fps_scale > 1:
            times = [Fraction(i, fps_scale) for i in range((len(decoder) - 1) * fps_scale + 1)]
            timeline = _scaled(decoder.timeline, fps_scale)
        spec = decoder.spec
        out = VideoSpec(len(times), spec.height, spec.width, timeline.frame_rate, spec.color)
        # Sound belongs to the whole clip; a choice of frames has none.
        audio = decoder.audio() if frames is None else None
        with open_sink(output, out, timeline, audio=audio, codec=codec, force=force) as sink:
            for done, moment in enumerate(times, start=1):
                sink.write(decoder.frames(torch.tensor([float(moment)], dtype=torch.float64)))
                on_frame(done, len(times))
    return len(times)


def _chosen_timeline(timeline: Timeline, chosen: list[int]) -> Timeline:
    rising = all(later > earlier for earlier, later in zip(chosen, chosen[1:], strict=False))
    return timeline.selected(chosen) if rising else Timeline(len(chosen), timeline.frame_rate)


def _scaled(timeline: Timeline, scale: int) -> Timeline:
    """Return the timeline with ``scale`` − 1 frames put between each two."""
    count = (timeline.num_frames - 1) * scale + 1
    rate = timeline.frame_rate * scale
    if timeline.pts is None:
        return Timeline(count, rate)
    pts = [timeline.pts[0] * scale]
    for before, after in zip(timeline.pts, timeline.pts[1:], strict=False):
        pts += [before * scale + (after - before) * part for part in range(1, scale + 1)]
    return Timeline(count, rate, timeline.time_base / scale, tuple(pts))


@dataclass(frozen=True)
class ClipInfo:
    """One clip of a file; quality as measured when it was encoded."""

    name: str
    num_frames: int
    height: int
    width: int
    fps: float
    has_audio: bool
    edit: str
    psnr_db: float | None
    ms_ssim: float | None
    ms_ssim_window: int | None


@dataclass(frozen=True)
class NetworkInfo:
    """One network of a file."""

    model: str
    num_parameters: int
    num_frames: int


@dataclass(frozen=True)
class FileInfo:
    """What a file holds. ``bytes_by_component`` adds up to ``num_bytes``, the size of the file."""

    num_bytes: int
    format_version: str
    created_by: str
    clips: tuple[ClipInfo, ...]
    networks: tuple[NetworkInfo, ...]
    bytes_by_component: dict[str, int] = field(default_factory=dict)


def describe_file(file: str) -> FileInfo:
    """Return what a .vinr file holds and how many bytes each part takes.

    Raises
    ------
    BitstreamError, UsageError
        If the file is damaged or not there.
    """
    with VideoDecoder.open_any_clip(file) as decoder:
        header = decoder.header
        bytes_by_component: Counter[str] = Counter(decoder.container_sizes())
        networks = []
        for number, entry in enumerate(header.networks):
            model, sizes = decoder.network_sizes(number)
            bytes_by_component.update(sizes)
            networks.append(NetworkInfo(entry.model, model.num_stored(), model.video.num_frames))
        clips = tuple(
            ClipInfo(
                clip.name,
                clip.num_frames,
                clip.height,
                clip.width,
                clip.frame_rate[0] / clip.frame_rate[1],
                clip.has_audio,
                _describe_edit(Edit(**clip.edit.model_dump())) if clip.edit else "",
                clip.quality.psnr_db if clip.quality else None,
                clip.quality.ms_ssim if clip.quality else None,
                clip.quality.ms_ssim_window if clip.quality else None,
            )
            for clip in header.clips
        )
        return FileInfo(
            decoder.num_bytes,
            decoder.format_version,
            header.created_by,
            clips,
            tuple(networks),
            dict(bytes_by_component),
        )


def verify_file(file: str, *, device: str = "auto") -> str:
    """Read every section, check every checksum, decode a frame of each segment; return a line that says so.

    Raises
    ------
    BitstreamError
        Naming the first damaged part.
    """
    with VideoDecoder.open_any_clip(file, device=device) as decoder:
        names = [clip.name for clip in decoder.header.clips]
        num_bytes = decoder.num_bytes
    for name in names:
        with VideoDecoder(file.rpartition("#")[0] if file.endswith(f"#{name}") else file, clip=name) as decoder:
            decoder.verify()
    return f"{file}: {format_bytes(num_bytes)}, {len(names)} clip{'s' * (len(names) > 1)}, no damage found"


@dataclass(frozen=True)
class EvaluationReport:
    """How close a file is to its original, what it costs, and how fast it decodes (decoding alone)."""

    psnr_db: float
    pooled_psnr_db: float
    ms_ssim: float | None
    ms_ssim_window: int | None
    bpp: float
    kbit_per_s: float
    num_bytes: int
    num_frames: int
    decode_fps: float
    per_frame_psnr_db: tuple[float, ...]
    per_frame_ms_ssim: tuple[float, ...] | None


class _Timed:
    """A decoder whose decoding time is added up."""

    def __init__(self, decoder: VideoDecoder) -> None:
        self._decoder = decoder
        self.spec = decoder.spec
        self.seconds = 0.0

    def frames(self, index_N: Tensor) -> Tensor:
        started = time.perf_counter()
        rgb_NCHW = self._decoder.frames(index_N)
        self.seconds += time.perf_counter() - started
        return rgb_NCHW


def evaluate_file(
    file: str, reference: str, *, device: str = "auto", on_frame: Callable[[int, int], None] = quiet
) -> EvaluationReport:
    """Compare a clip of a .vinr file with the video it was made from.

    Crop, resize and frame range are taken from the file. bpp and kbit/s are of the file's whole size.

    Raises
    ------
    BitstreamError, InputError, UsageError
        If one of them cannot be read, or their sizes differ.
    """
    with VideoDecoder(file, device=device) as decoder:
        decoder[0]  # the weights are read before the clock starts
        timed = _Timed(decoder)
        with _reference(reference, decoder) as source:
            quality = compare_sources(timed, source, on_frame=on_frame)
        spec = decoder.spec
        duration = decoder.timeline.seconds(len(decoder) - 1) + 1 / spec.frame_rate
        return EvaluationReport(
            psnr_db=quality.psnr_db,
            pooled_psnr_db=quality.pooled_psnr_db,
            ms_ssim=quality.ms_ssim,
            ms_ssim_window=quality.ms_ssim_window,
            bpp=bits_per_pixel(decoder.num_bytes, spec.num_pixels),
            kbit_per_s=kilobits_per_second(decoder.num_bytes, float(duration)),
            num_bytes=decoder.num_bytes,
            num_frames=spec.num_frames,
            decode_fps=spec.num_frames / timed.seconds,
            per_frame_psnr_db=quality.per_frame_psnr_db,
            per_frame_ms_ssim=quality.per_frame_ms_ssim,
        )
