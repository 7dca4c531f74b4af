"""What an encode reports: sizes, quality, and how both stand beside the source and x264."""

from __future__ import annotations

import math
import os
import time as clock
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from vinr.encoding.assembly import FinishedSegment, clip_qualities
from vinr.encoding.reference import NoReferenceError, X264Reference, find_reference
from vinr.encoding.splitting import MAX_SEGMENT_BYTES
from vinr.fit.precision import PrecisionName
from vinr.quality.clip import bits_per_pixel, kilobits_per_second
from vinr.quality.record import Quality
from vinr.video.source import FrameTensor, VideoReader

# How long x264 may take: what is left of a time, or a share of what an encode took.
REFERENCE_SHARE: Final = 0.1
LEAST_REFERENCE_SECONDS: Final = 30.0
# How much of it reading the frames once more may take, and on how many of them that is tried.
READING_SHARE: Final = 0.3
TRIED_FRAMES: Final = 16


@dataclass(frozen=True)
class EncodeReport:
    """What an encode wrote. Quality is that of the decoded file against the frames that were fitted.

    ``path`` is the file, of ``num_bytes``: ``bpp`` bits per pixel of all ``num_frames``, ``kbit_per_s`` while
    it plays. ``psnr_db`` and ``ms_ssim`` (a window of ``ms_ssim_window`` pixels) are means over frames.
    Networks of ``model`` hold ``num_parameters``; they were fitted for ``num_epochs`` to ``train_psnr_db``,
    and fell back ``num_collapses`` times. ``seconds`` are of wall-clock time, everything included;
    ``precision`` is the arithmetic of the fit. ``other_bytes`` of the file are audio and times; ``height``
    and ``width`` those of the first clip. ``source_bytes``: the inputs' files, all streams and frames of
    them; None where they are no files. ``reference``: what x264 medium needs at this PSNR; None where it was
    not measured, for ``reference_note``.
    """

    path: str
    num_bytes: int
    bpp: float
    kbit_per_s: float
    psnr_db: float
    ms_ssim: float | None
    ms_ssim_window: int | None
    model: str
    num_parameters: int
    num_frames: int
    num_epochs: float
    train_psnr_db: float
    num_collapses: int
    seconds: float
    precision: PrecisionName = "fp32"
    height: int = 0
    width: int = 0
    other_bytes: int = 0
    source_bytes: int | None = None
    reference: X264Reference | None = None
    reference_note: str | None = None

    @property
    def video_bytes(self) -> int:
        """Bytes of the file without audio and times."""
        return self.num_bytes - self.other_bytes


def report_of(
    path: Path,
    num_bytes: int,
    readers: Sequence[VideoReader],
    segments: Sequence[FinishedSegment],
    *,
    seconds: float,
    other_bytes: int,
) -> EncodeReport:
    """Return the report on a file that holds ``segments``; ``seconds`` is the time that it took."""
    duration, num_pixels, num_frames, num_parameters, num_collapses = 0.0, 0, 0, 0, 0
    epochs, train_psnr_db = 0.0, 0.0
    qualities: list[Quality] = []
    for reader in readers:
        duration += float(reader.timeline.duration)
        num_pixels += reader.spec.num_pixels
    for segment in segments:
        qualities += segment.qualities
        num_frames += segment.num_frames
        num_parameters += segment.num_parameters
        num_collapses += segment.num_collapses
        # Means over frames: a longer segment counts more.
        epochs += segment.num_epochs * segment.num_frames
        train_psnr_db += segment.train_psnr_db * segment.num_frames
    quality, network, spec = Quality.of_all(qualities), segments[0].network, readers[0].spec
    return EncodeReport(
        path=str(path),
        num_bytes=num_bytes,
        bpp=bits_per_pixel(num_bytes, num_pixels),
        kbit_per_s=kilobits_per_second(num_bytes, duration),
        psnr_db=quality.psnr_db,
        ms_ssim=quality.ms_ssim,
        ms_ssim_window=quality.ms_ssim_window,
        model=network.model,
        num_parameters=num_parameters,
        num_frames=num_frames,
        num_epochs=epochs / num_frames,
        train_psnr_db=train_psnr_db / num_frames,
        num_collapses=num_collapses,
        seconds=seconds,
        precision=network.precision,
        height=spec.height,
        width=spec.width,
        other_bytes=other_bytes,
    )


def bytes_of(sources: Sequence[str]) -> int | None:
    """Return the bytes of files and of those in folders; None if one of them is neither."""
    total = 0
    for source in sources:
        path = Path(source)
        if path.is_file():
            total += path.stat().st_size
        elif path.is_dir():
            total += sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())
        else:
            return None
    return total


def with_reference(
    report: EncodeReport,
    readers: Sequence[VideoReader],
    segments: Sequence[FinishedSegment],
    *,
    budget: float | None,
    closing: float = 0.0,
    now: Callable[[], float] = clock.monotonic,
) -> EncodeReport:
    """Return ``report`` with what x264 needs at the PSNR of each clip.

    The file is complete, so that nothing here is an error, and Ctrl-C ends x264 alone. ``budget``: the time
    of the encode, if it was given one, of which ``closing`` seconds are left for ending the process.
    """
    if budget is None:
        seconds = max(LEAST_REFERENCE_SECONDS, REFERENCE_SHARE * report.seconds)
    else:
        seconds = budget - report.seconds - closing
    try:
        if seconds <= 0:
            raise NoReferenceError("no time is left")
        return replace(report, reference=_reference_of(readers, segments, now() + seconds, now))
    except NoReferenceError as error:
        return replace(report, reference_note=str(error))
    except KeyboardInterrupt:
        return replace(report, reference_note="interrupted")


def read_before(reader: VideoReader, deadline: float, now: Callable[[], float]) -> FrameTensor:
    """Return all frames, unless that would last beyond ``deadline``, by how long the first of them take.

    Raises
    ------
    NoReferenceError
        If it would.
    """
    began, total = now(), reader.spec.num_frames
    count = min(TRIED_FRAMES, total)
    frames = reader.read(0, count)
    expected = (now() - began) * total / count
    if now() + (0.0 if count == total else expected) > deadline:
        raise NoReferenceError(f"reading the video again would take about {math.ceil(expected)} s")
    return frames if count == total else reader.read()


def _reference_of(
    readers: Sequence[VideoReader],
    segments: Sequence[FinishedSegment],
    deadline: float,
    now: Callable[[], float],
) -> X264Reference:
    """Return what x264 needs for all clips together, each at its own PSNR, before ``deadline``."""
    found = []
    left = sum(reader.spec.num_pixels for reader in readers)
    for reader, quality in zip(readers, clip_qualities(segments), strict=True):
        if 3 * reader.spec.num_pixels > MAX_SEGMENT_BYTES:
            raise NoReferenceError("the frames would take more than 2 GiB")
        share = (deadline - now()) * reader.spec.num_pixels / left
        stop = now() + share
        frames = read_before(reader, now() + READING_SHARE * share, now)
        found.append(find_reference(frames, quality.psnr_db, seconds=stop - now(), now=now))
        left -= reader.spec.num_pixels
    num_bytes = sum(reference.num_bytes for reference in found)
    return replace(found[0], num_bytes=num_bytes)
