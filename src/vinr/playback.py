"""What is done with a finished file: decode it to a video, check it, score it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from vinr.bitstream import Clip, SectionKind
from vinr.decode import VideoDecoder
from vinr.decode_settings import load_decode_settings
from vinr.describe import open_first_clip
from vinr.errors import UsageError
from vinr.evaluate.metrics import bits_per_pixel, compare_sources, kilobits_per_second
from vinr.evaluate.sources import PlayedSource, StreamedSource, TimedSource
from vinr.units import format_bytes, parse_indices
from vinr.video.edit import Edit
from vinr.video.sink import open_sink, written_behind
from vinr.video.source import open_video
from vinr.video.spec import Timeline, VideoSpec

__all__ = [
    "EvaluationReport",
    "decode_to",
    "edit_of",
    "evaluate_file",
    "verify_file",
]


def quiet(done: int, total: int) -> None:
    """Show nothing."""


def unsaid(text: str) -> None:
    """Tell nobody."""


def decode_to(
    file: str,
    output: str,
    *,
    frames: str | None = None,
    fps_scale: int = 1,
    codec: str = "x264",
    device: str = "auto",
    backend: str | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
    on_frame: Callable[[int, int], None] = quiet,
    on_note: Callable[[str], None] = unsaid,
) -> int:
    """Write frames of a .vinr file as a video or as images; return how many.

    Networks run in the calling thread; colours are converted and frames written in another.

    Parameters
    ----------
    file, output
        The file (``FILE.vinr#name`` chooses a clip); .mp4, .mkv, .y4m, a folder or pattern of PNGs, or ``-``.
    frames
        Numbers and slices such as ``0,10,20:40:5``; all frames otherwise.
    fps_scale
        2 puts one frame between each two and doubles the rate, 3 two, and so on.
    backend, overrides
        ``torch`` or ``onnx``, and ``decode.key=value``: see :class:`vinr.decode_settings.DecodeSettings`.
    on_note
        Called with each line of :attr:`VideoDecoder.notes`.

    Raises
    ------
    UsageError, BitstreamError, OutputError
        If something cannot be used; the output is then not touched.
    """
    if frames is not None and fps_scale != 1:
        raise UsageError("both a choice of frames and a rate scale are given; give one of them")
    settings = load_decode_settings(overrides, backend=backend)
    with VideoDecoder(file, device=device, settings=settings) as decoder:
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
        with (
            open_sink(output, out, timeline, audio=audio, codec=codec, force=force) as sink,
            written_behind(sink) as write,
            closing(decoder.play(times)) as batches,
        ):
            done = 0
            for rgb_NCHW in batches:
                write(rgb_NCHW)
                done += len(rgb_NCHW)
                on_frame(done, len(times))
        for note in decoder.notes:
            on_note(note)
    return len(times)


def _chosen_timeline(timeline: Timeline, chosen: list[int]) -> Timeline:
    rising = all(later > earlier for earlier, later in pairwise(chosen))
    return timeline.selected(chosen) if rising else Timeline(len(chosen), timeline.frame_rate)


def _scaled(timeline: Timeline, scale: int) -> Timeline:
    """Return the timeline with ``scale`` − 1 frames put between each two."""
    count = (timeline.num_frames - 1) * scale + 1
    rate = timeline.frame_rate * scale
    if timeline.pts is None:
        return Timeline(count, rate)
    pts = [timeline.pts[0] * scale]
    for before, after in pairwise(timeline.pts):
        pts += [before * scale + (after - before) * part for part in range(1, scale + 1)]
    return Timeline(count, rate, timeline.time_base / scale, tuple(pts))


def verify_file(file: str, *, device: str = "auto") -> str:
    """Read every section, check every checksum, decode a frame of each segment; return a line that says so.

    Raises
    ------
    BitstreamError
        Naming the first damaged part.
    """
    with open_first_clip(file, device=device) as first:
        names = [clip.name for clip in first.header.clips]
        num_bytes = first.num_bytes
        first.verify()
    path = file.removesuffix(f"#{names[0]}") if len(names) == 1 else file
    for name in names[1:]:
        with VideoDecoder(path, clip=name, device=device) as decoder:
            decoder.verify()
    return f"{path}: {format_bytes(num_bytes)}, {len(names)} clip{'s' * (len(names) > 1)}, no damage found"


@dataclass(frozen=True)
class EvaluationReport:
    """How close a file is to its original, what it costs, and how fast it decodes (decoding alone).

    ``bpp`` and ``kbit_per_s`` are of the whole file, of which ``audio_bytes`` are sound. ``notes`` are those
    of :attr:`VideoDecoder.notes`.
    """

    psnr_db: float
    pooled_psnr_db: float
    ms_ssim: float | None
    ms_ssim_window: int | None
    bpp: float
    kbit_per_s: float
    num_bytes: int
    audio_bytes: int
    num_frames: int
    decode_fps: float
    per_frame_psnr_db: tuple[float, ...]
    per_frame_ms_ssim: tuple[float, ...] | None
    notes: tuple[str, ...] = ()


def edit_of(clip: Clip) -> Edit:
    """Return what was done to the original of ``clip`` before it was fitted."""
    record = clip.edit
    if record is None:
        return Edit()
    return Edit(record.crop, record.resize, record.first_frame, record.stop_frame)


def evaluate_file(
    file: str,
    reference: str,
    *,
    device: str = "auto",
    backend: str | None = None,
    overrides: Sequence[str] = (),
    on_frame: Callable[[int, int], None] = quiet,
) -> EvaluationReport:
    """Compare a clip of a .vinr file with the video it was made from.

    Crop, resize and frame range are taken from the file. bpp and kbit/s are of the file's whole size.
    The other arguments are those of :func:`decode_to`.

    Raises
    ------
    BitstreamError, InputError, UsageError
        If one of them cannot be read, or their sizes differ.
    """
    settings = load_decode_settings(overrides, backend=backend)
    with VideoDecoder(file, device=device, settings=settings) as decoder:
        next(decoder.play([0]))  # the weights are read before the clock starts
        timed = TimedSource(PlayedSource(decoder))
        with open_video(reference, edit=edit_of(decoder.clip)) as reader:
            quality = compare_sources(timed, StreamedSource(reader), on_frame=on_frame)
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
            audio_bytes=sum(s.num_bytes for s in decoder.section_sizes() if s.kind is SectionKind.AUDIO),
            num_frames=spec.num_frames,
            decode_fps=spec.num_frames / timed.seconds,
            per_frame_psnr_db=quality.per_frame_psnr_db,
            per_frame_ms_ssim=quality.per_frame_ms_ssim,
            notes=(*decoder.notes, *reader.notes),
        )
