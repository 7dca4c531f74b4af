"""What is done with a finished file: decode it to a video, check it, score it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from vinr.bitstream import Clip, Container, Header, SectionKind
from vinr.decoding.decoder import VideoDecoder, split_clip
from vinr.decoding.integrity import ClipReport, Ranges, VerifyReport, inspect_file, ranges_text
from vinr.decoding.networks import parse_memory
from vinr.decoding.settings import load_decode_settings
from vinr.decoding.sources import PlayedSource, StreamedSource, TimedSource
from vinr.device import resolve_device
from vinr.errors import BitstreamError, UsageError
from vinr.quality.clip import bits_per_pixel, compare_sources, kilobits_per_second
from vinr.units import parse_indices
from vinr.video.edit import Edit
from vinr.video.sink import open_sink, written_behind
from vinr.video.source import open_video
from vinr.video.spec import Timeline, VideoSpec


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
    max_memory: int | str | None = None,
    keep_going: bool = False,
    on_frame: Callable[[int, int], None] = quiet,
    on_note: Callable[[str], None] = unsaid,
    on_lost: Callable[[Ranges], None] = lambda ranges: None,
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
        ``torch`` or ``onnx``, and ``decode.key=value``: see :class:`vinr.decoding.settings.DecodeSettings`.
    max_memory
        See :class:`vinr.decoding.decoder.VideoDecoder`.
    keep_going
        Write what damage does not touch. Frames that are left keep their times (.mp4, .mkv) or numbers (PNG);
        damaged sound is left out, with damaged times the rate is constant.
    on_note
        Called with each line of :attr:`VideoDecoder.notes`, and with what is left out.
    on_lost
        Called with the ranges of frames that are lost, half open, where some are.

    Raises
    ------
    UsageError, BitstreamError, OutputError
        If something cannot be used; the output is then not touched.
    """
    if frames is not None and fps_scale != 1:
        raise UsageError("both a choice of frames and a rate scale are given; give one of them")
    if keep_going and fps_scale != 1:
        raise UsageError("frames between damaged ones cannot be made; give --keep-going without --fps-scale")
    settings = load_decode_settings(overrides, backend=backend)
    clip = _inspected(file, device, max_memory) if keep_going else None
    with VideoDecoder(
        file,
        device=device,
        settings=settings,
        max_memory=max_memory,
        constant_rate=clip is not None and not clip.times_ok,
    ) as decoder:
        times: Sequence[float | Fraction] = range(len(decoder))
        timeline = decoder.timeline
        if frames is not None:
            times = parse_indices(frames, len(decoder))
            timeline = _chosen_timeline(timeline, times)
        elif fps_scale > 1:
            times = _Times(len(decoder), fps_scale)
            timeline = timeline.scaled(fps_scale)
        if clip is not None and clip.lost:
            asked = range(len(decoder)) if frames is None else parse_indices(frames, len(decoder))
            times, timeline = _whole_of(clip, asked, decoder.timeline, frames is None)
        spec = decoder.spec
        out = VideoSpec(len(times), spec.height, spec.width, timeline.frame_rate, spec.color)
        # Sound belongs to the whole clip; a choice of frames has none.
        has_sound = frames is None and (clip is None or clip.sound_ok is not False)
        audio = decoder.audio() if has_sound else None
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
        for note in (*decoder.notes, *(() if clip is None else _left_out(clip))):
            on_note(note)
    if clip is not None and clip.lost:
        on_lost(clip.lost)
    return len(times)


def _whole_of(
    clip: ClipReport, asked: Sequence[int], timeline: Timeline, is_all: bool
) -> tuple[list[int], Timeline]:
    """Return those of the frames ``asked`` that are whole, and their timeline."""
    starts = [first for first, _ in clip.whole]

    def is_whole(number: int) -> bool:
        place = bisect_right(starts, number) - 1
        return place >= 0 and number < clip.whole[place][1]

    kept = [number for number in asked if is_whole(number)]
    if not kept:
        raise BitstreamError(f"clip {clip.name}: all requested frames are damaged")
    return kept, timeline.without_others(kept) if is_all else _chosen_timeline(timeline, kept)


def _left_out(clip: ClipReport) -> list[str]:
    notes = [f"frames lost to damage: {ranges_text(clip.lost)}"] if clip.lost else []
    if clip.sound_ok is False:
        notes.append("the sound is damaged and left out")
    if not clip.times_ok:
        notes.append("the presentation times are damaged; the frame rate is constant")
    return notes


def _chosen_timeline(timeline: Timeline, chosen: Sequence[int]) -> Timeline:
    rising = isinstance(chosen, range) or all(later > earlier for earlier, later in pairwise(chosen))
    return timeline.selected(chosen) if rising else Timeline(len(chosen), timeline.frame_rate)


class _Times(Sequence[Fraction]):
    """Times of frames, ``scale`` for each step from a frame to the next; nothing is kept."""

    def __init__(self, num_frames: int, scale: int) -> None:
        self._count, self._scale = (num_frames - 1) * scale + 1, scale

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return Fraction(range(self._count)[index], self._scale)


def _inspected(file: str, device: str, max_memory: int | str | None) -> ClipReport:
    """Return what is whole of the clip that ``file`` names."""
    path, name = split_clip(file)
    with Container.open(path) as container:
        clips = container.header.clips
        if name is None and len(clips) > 1:
            raise UsageError(f"the file holds {len(clips)} clips; name one: FILE.vinr#{clips[0].name}, …")
        name = _checked_clip(container.header, name) or clips[0].name
        report = inspect_file(
            container, path, resolve_device(device), clip=name, max_memory=parse_memory(max_memory)
        )
    return report.clips[0]


def _checked_clip(header: Header, name: str | None) -> str | None:
    names = [clip.name for clip in header.clips]
    if name is not None and name not in names:
        raise UsageError(f"no clip {name!r} in the file; it holds {', '.join(names[:20])}")
    return name


def verify_file(file: str, *, device: str = "auto", max_memory: int | str | None = None) -> VerifyReport:
    """Read every section once, check every checksum, decode a frame of each network; say what damage touches.

    ``file`` may end in ``#name``: that clip alone is reported then. Networks are tried in order, as many as
    the budget of work for a file of this size allows (docs/format.md, 8); ``max_memory`` lifts it.

    Raises
    ------
    BitstreamError
        If header or index are damaged: nothing can be read then. LimitError if a network asks for too much.
    InputError, UsageError
        If the file is not there, or has no such clip.
    """
    path, name = split_clip(file)
    with Container.open(path) as container:
        name = _checked_clip(container.header, name)
        return inspect_file(
            container, file, resolve_device(device), clip=name, max_memory=parse_memory(max_memory)
        )


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
    max_memory: int | str | None = None,
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
    with VideoDecoder(file, device=device, settings=settings, max_memory=max_memory) as decoder:
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
