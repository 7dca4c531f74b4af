"""What is done with a finished file: decode it to a video, check it, score it."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from operator import itemgetter
from os import PathLike, fspath
from typing import Literal

from vinr.bitstream import Clip, SectionKind
from vinr.decoding.file import FileLike, VinrFile, name_of
from vinr.decoding.integrity import ClipReport, Ranges, VerifyReport, format_ranges, inspect_file
from vinr.decoding.on_workers import OpenedAs, play_on_workers
from vinr.decoding.settings import DecodeSettings
from vinr.decoding.streams import StreamClock
from vinr.errors import BitstreamError, UsageError, argument
from vinr.quality.clip import bits_per_pixel, compare, kilobits_per_second
from vinr.scale.workers import Workers
from vinr.settings import checked_arguments
from vinr.units import SizeLike, parse_indices
from vinr.video.audio import cut_audio
from vinr.video.audio_section import AudioSource
from vinr.video.deinterlace import interlaced
from vinr.video.depth import with_depth
from vinr.video.edit import Edit
from vinr.video.reading import ReadOptions
from vinr.video.sink import open_sink, size_of_output, written_behind
from vinr.video.source import open_video
from vinr.video.spec import Audio, Timeline


@dataclass(frozen=True)
class DecodeReport:
    """What a decode wrote: ``num_frames`` frames to ``path``.

    ``lost`` are half-open ranges of frames that damage took, empty without ``keep_going``. ``notes`` are
    those of :attr:`VideoDecoder.notes`, and what was left out. ``written`` is a codec and its quality, or a
    format; ``num_bytes`` those of the file, of all its streams, or of the images; None on standard output.
    """

    path: str
    num_frames: int
    lost: Ranges = ()
    notes: tuple[str, ...] = ()
    written: str = ""
    num_bytes: int | None = None


@checked_arguments()
def decode(
    file: FileLike,
    output: str | PathLike[str],
    *,
    clip: str | None = None,
    frames: str | Sequence[int] | None = None,
    fps_scale: int = 1,
    codec: str | None = None,
    crf: int | None = None,
    bit_depth: Literal[8, 10] | None = None,
    device: str = "auto",
    settings: DecodeSettings | None = None,
    force: bool = False,
    max_memory: int | str | None = None,
    keep_going: bool = False,
    workers: int | None = None,
    ray: str | None = None,
    gpus_per_worker: float | None = None,
    threads_per_worker: int | None = None,
    on_frame: Callable[[int, int], None] | None = None,
) -> DecodeReport:
    """Write frames of a .vinr file as a video or as images.

    Networks run in the calling thread; colours are converted and frames written in another.

    Parameters
    ----------
    file
        Path, bytes, or a seekable binary file; a path ``FILE.vinr#name`` chooses a clip.
    clip
        Name of the clip, where the file holds several and the path does not name one.
    output
        .mp4, .mov, .mkv, .webm, .gif, .y4m, a folder or pattern of PNGs, or ``-`` for y4m on standard output.
        It appears whole or not at all.
    frames
        Frame numbers, or numbers and slices as text: ``0,10,20:40:5``; all frames if None.
    fps_scale
        2 puts one frame between each two and doubles the rate, 3 two, and so on.
    codec
        x264, x265, av1, vp9 or ffv1, for video files; x264, of 10-bit frames x265, of .webm vp9, if None.
    crf
        How coarse the codec is: 0 (best) to 51, of av1 and vp9 to 63. The usual ones, 18 and 24, cost about
        0.1 dB against the original.
    bit_depth
        Bits per colour of what is written, 8 or 10; those of the clip if None.
    device, max_memory
        As for :meth:`VinrFile.open`.
    settings
        How frames are computed.
    force
        Replace an existing output.
    keep_going
        Write the frames that damage does not touch. They keep their times (.mp4, .mkv) or numbers (PNG);
        damaged audio is left out, and the rate is constant where the times are damaged.
    workers, ray, gpus_per_worker, threads_per_worker
        Decode on workers that read the file themselves, as :func:`vinr.encode` fits on them; the frames are
        the same. In this process if ``workers`` and ``ray`` are None.
    on_frame
        Called with the number of frames decoded so far, and of all frames.

    Raises
    ------
    UsageError, InputError, BitstreamError, OutputError
        If something cannot be used; the output is then not touched.
    """
    if frames is not None and fps_scale != 1:
        raise UsageError(
            f"{argument('frames')} and {argument('fps_scale')} exclude each other; give one of them"
        )
    if keep_going and fps_scale != 1:
        raise UsageError(
            "frames between damaged ones cannot be made; "
            f"give {argument('keep_going')} without {argument('fps_scale')}"
        )
    asked = Workers.asked_for(workers, ray, gpus_per_worker, threads_per_worker)
    if asked is not None and not isinstance(file, (str, PathLike)):
        raise UsageError("workers read the file themselves; give its path")
    with VinrFile.open(file, clip=clip, device=device, max_memory=max_memory) as opened:
        found = _inspect_chosen(opened, name_of(file)) if keep_going else None
        decoder = opened.clip(settings=settings, constant_rate=found is not None and not found.times_ok)
        numbers, timeline = _choose_frames(frames, len(decoder)), decoder.timeline
        if found is not None and found.lost:
            numbers = _keep_whole(found, numbers)
            # Without a choice each frame that is left keeps its time; of a choice the first appears at 0.
            timeline = timeline.without_others(numbers) if frames is None else _select(timeline, numbers)
        elif frames is not None:
            timeline = _select(timeline, numbers)
        times: Iterable[float | Fraction] = numbers
        if fps_scale > 1:
            # scale 3: frames 0, ⅓, ⅔, 1, …; the last one is a frame of the file
            timeline = timeline.scaled(fps_scale)
            times = (Fraction(number, fps_scale) for number in range(timeline.num_frames))
        spec, num_frames = decoder.spec, timeline.num_frames
        out = replace(
            spec,
            num_frames=num_frames,
            frame_rate=timeline.frame_rate,
            span_lengths=(),
            bit_depth=bit_depth or spec.bit_depth,
        )
        notes = [*(() if found is None else _list_left_out(found))]
        audio: AudioSource | None = None
        if found is None or found.sound_ok is not False:
            audio = decoder.stored_audio()
        if audio is not None and frames is not None:
            audio, left_out = _cut_audio(audio, decoder.timeline, numbers)
            notes += left_out
        if asked is None:
            frames_in_order = decoder.play(times)
        else:
            path = os.path.abspath(fspath(file))  # type: ignore[arg-type]
            as_here = OpenedAs(path, clip, device, max_memory, settings)
            frames_in_order = play_on_workers(asked, as_here, spec, times)
        with (
            open_sink(
                fspath(output),
                out,
                timeline,
                audio=audio,
                codec=codec,
                crf=crf,
                force=force,
            ) as sink,
            written_behind(sink) as write,
            closing(frames_in_order) as batches,
        ):
            num_done = 0
            for rgb_NCHW in batches:
                write(with_depth(rgb_NCHW, out.bit_depth))
                num_done += len(rgb_NCHW)
                if on_frame is not None:
                    on_frame(num_done, num_frames)
        # Some notes come at the end: only the finished file tells whether the shape of pixels is stated.
        notes += sink.notes
        lost = () if found is None else found.lost
        size = size_of_output(fspath(output))
        return DecodeReport(fspath(output), num_frames, lost, (*decoder.notes, *notes), sink.written, size)


def _choose_frames(frames: str | Sequence[int] | None, num_frames: int) -> Sequence[int]:
    """Return the numbers of the frames to write, 0 to ``num_frames`` − 1."""
    if frames is None:
        return range(num_frames)
    text = frames if isinstance(frames, str) else ",".join(map(str, frames))
    return parse_indices(text, num_frames)


def _select(timeline: Timeline, numbers: Sequence[int]) -> Timeline:
    """Return when the frames ``numbers`` are shown: at the nominal rate unless they rise.

    Frames that rise keep their numbers, by which images are named.
    """
    rising = isinstance(numbers, range) or all(later > earlier for earlier, later in pairwise(numbers))
    if not rising:
        return Timeline(len(numbers), timeline.frame_rate)
    if len(numbers) == timeline.num_frames:
        return timeline
    return replace(timeline.selected(numbers), numbers=tuple(numbers))


def _cut_audio(
    audio: AudioSource, timeline: Timeline, numbers: Sequence[int]
) -> tuple[Audio | None, tuple[str, ...]]:
    """Return the audio of the frames ``numbers`` if they follow one another; else None, and a note."""
    first, stop = numbers[0], numbers[-1] + 1
    if list(numbers) != list(range(first, stop)):
        return None, ("the audio is left out: the chosen frames do not follow one another",)
    return (
        cut_audio(
            audio,
            start=timeline.seconds(first) if first > 0 else None,
            stop=timeline.seconds(stop) if stop < timeline.num_frames else None,
        ),
        (),
    )


def _keep_whole(clip: ClipReport, numbers: Sequence[int]) -> list[int]:
    """Return those of the frames ``numbers`` that damage does not touch."""
    kept = []
    for number in numbers:
        # The only range that may hold the frame is the last one that starts no later.
        place = bisect_right(clip.whole, number, key=itemgetter(0)) - 1
        if place >= 0 and number < clip.whole[place][1]:
            kept.append(number)
    if not kept:
        raise BitstreamError(f"clip {clip.name}: all requested frames are damaged")
    return kept


def _list_left_out(clip: ClipReport) -> list[str]:
    notes = [f"frames lost to damage: {format_ranges(clip.lost)}"] if clip.lost else []
    if clip.sound_ok is False:
        notes.append("the audio is damaged and left out")
    if not clip.times_ok:
        notes.append("the presentation times are damaged; the frame rate is constant")
    return notes


def _inspect_chosen(file: VinrFile, name: str) -> ClipReport:
    """Return what is whole of the clip that ``#name`` chose, or of the only one."""
    number = file.clip_number()  # refuses a file of several clips
    reports = inspect_file(file, name).clips
    return reports[number] if file.clip_name is None else reports[0]


@checked_arguments()
def verify(
    file: FileLike, *, clip: str | None = None, device: str = "auto", max_memory: int | str | None = None
) -> VerifyReport:
    """Read each byte of a file once, check all checksums, decode a frame of each network; list the damage.

    Parameters
    ----------
    file
        Path, bytes, or a seekable binary file; of a path ``FILE.vinr#name`` that clip alone is checked.
    clip
        Name of the clip to check; all clips if None.
    device
        As for :meth:`VinrFile.open`.
    max_memory
        As for :meth:`VinrFile.open`. Without it networks are tried in order, as many as the budget of work
        for a file of this size allows (docs/format.md, 8); with it all are.

    Raises
    ------
    BitstreamError
        If header or index are damaged: nothing can be read then. LimitError if a network asks for too much.
    InputError, UsageError
        If the file is not there, or has no such clip.
    """
    with VinrFile.open(file, clip=clip, device=device, max_memory=max_memory) as opened:
        return inspect_file(opened, name_of(file))


@dataclass(frozen=True)
class EvaluationReport:
    """How close a file is to its original, what it costs, and how fast it decodes (decoding alone).

    ``psnr_db`` and ``ms_ssim`` are means over frames, ``pooled_psnr_db`` is the PSNR of the mean squared
    error; MS-SSIM, measured with a window of ``ms_ssim_window`` pixels, is None where frames are too small
    for it. ``per_frame_psnr_db`` and ``per_frame_ms_ssim`` are those of each of the ``num_frames`` frames.
    ``bpp`` and ``kbit_per_s`` are of the whole file of ``num_bytes``, of which ``audio_bytes`` are audio;
    ``decode_fps`` is frames decoded per second. ``notes`` are those of :attr:`VideoDecoder.notes` and of the
    reference.
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
    """Return how the original of ``clip`` was cropped, resized and cut before it was fitted."""
    record = clip.edit
    if record is None:
        return Edit()
    return Edit(record.crop, record.resize, record.first_frame, record.stop_frame)


def options_of(clip: Clip, options: ReadOptions) -> ReadOptions:
    """Return ``options`` with stream and bit depth of ``clip``, and deinterlaced as it was."""
    record, options = clip.edit, replace(options, bit_depth=clip.bit_depth)
    if record is None:
        return options
    stream = record.stream if options.stream is None else options.stream
    return replace(options, stream=stream, deinterlace=options.deinterlace or record.deinterlaced)


@checked_arguments()
def evaluate(
    file: FileLike,
    reference: str | PathLike[str],
    *,
    clip: str | None = None,
    stream: int | None = None,
    pix_fmt: str | None = None,
    raw_size: SizeLike | None = None,
    rate: Fraction | float | str | None = None,
    deinterlace: bool = False,
    device: str = "auto",
    settings: DecodeSettings | None = None,
    max_memory: int | str | None = None,
    on_frame: Callable[[int, int], None] | None = None,
) -> EvaluationReport:
    """Compare a clip of a .vinr file with the video it was made from.

    Parameters
    ----------
    file
        Path, bytes, or a seekable binary file; a path ``FILE.vinr#name`` chooses a clip.
    clip
        As for :func:`decode`.
    reference
        The original; crop, resize, frame range, bit depth and stream are taken from the file.
    stream, pix_fmt, raw_size, rate, deinterlace
        As for :func:`vinr.encode`; stream and deinterlacing are those of the file if they are not given.
    device, settings, max_memory, on_frame
        As for :func:`decode`.

    Raises
    ------
    BitstreamError, InputError, UsageError
        If one of them cannot be read, or their sizes differ.
    """
    options = ReadOptions.of(
        stream=stream, pix_fmt=pix_fmt, raw_size=raw_size, rate=rate, deinterlace=deinterlace
    )
    with VinrFile.open(file, clip=clip, device=device, max_memory=max_memory) as opened:
        decoder = opened.clip(settings=settings)
        next(decoder.play([0]))  # the weights are read before the clock starts
        clock = StreamClock()
        edit, options = edit_of(decoder.clip), options_of(decoder.clip, options)
        with open_video(fspath(reference), edit=edit, options=options) as reader:
            quality = compare(clock.watch(decoder.stream()), reader, on_frame=on_frame)
        spec = decoder.spec
        duration = decoder.timeline.duration
        audio = [section.num_bytes for section in opened.sections if section.kind is SectionKind.AUDIO]
        return EvaluationReport(
            psnr_db=quality.psnr_db,
            pooled_psnr_db=quality.pooled_psnr_db,
            ms_ssim=quality.ms_ssim,
            ms_ssim_window=quality.ms_ssim_window,
            bpp=bits_per_pixel(opened.num_bytes, spec.num_pixels),
            kbit_per_s=kilobits_per_second(opened.num_bytes, float(duration)),
            num_bytes=opened.num_bytes,
            audio_bytes=sum(audio),
            num_frames=spec.num_frames,
            decode_fps=spec.num_frames / clock.seconds,
            per_frame_psnr_db=quality.per_frame_psnr_db,
            per_frame_ms_ssim=quality.per_frame_ms_ssim,
            # The frames are compared as they were fitted: another choice is of no use here.
            notes=(*decoder.notes, *(note for note in reader.notes if not note.endswith(interlaced()))),
        )
