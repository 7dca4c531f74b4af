"""Encoding: from video files to one .vinr file.

::

    inputs ─> plan ─> for each segment: frames ─> fit ─> quantise, code ─> decode and measure ─┐
                                                                                               ├─> one file
    sound, timestamps ─────────────────────────────────────────────────────────────────────────┘
"""

from __future__ import annotations

import shutil
import time as clock
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

import torch

from vinr.compress import pack_tensors
from vinr.device import resolve_device
from vinr.errors import OutputError, UsageError
from vinr.evaluate.metrics import bits_per_pixel, compare_sources, kilobits_per_second
from vinr.files import check_target
from vinr.fit import Event, Noted, fit, ignore
from vinr.pack import FittedSegment, assemble, load_segment, mean_quality, save_segment
from vinr.plan import EncodePlan, Job, describe_threads, plan_encode
from vinr.units import parse_count, parse_seconds
from vinr.video.source import FrameTensor, VideoReader, open_video
from vinr.video.spec import VideoSpec

__all__ = ["EncodeReport", "encode"]

# What follows a fit, in epochs' worth of time: freezing and decoding are forward passes, a third of a step.
RESERVE_EPOCHS = 0.8


@dataclass(frozen=True)
class EncodeReport:
    """What an encode wrote. Quality is that of the decoded file against the frames that were fitted."""

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


def encode(
    inputs: str | PathLike[str] | Sequence[str | PathLike[str]],
    output: str | PathLike[str],
    *,
    model: str | None = None,
    preset: str | None = None,
    params: int | str | None = None,
    epochs: int | None = None,
    time: float | str | None = None,
    frames: tuple[int | None, int | None] | None = None,
    crop: tuple[int, int] | None = None,
    resize: tuple[int, int] | None = None,
    segment: float | None = None,
    device: str = "auto",
    resume: bool = False,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
    on_event: Callable[[Event], None] = ignore,
) -> EncodeReport:
    """Fit networks to videos and write them as one file.

    Parameters
    ----------
    inputs
        One video (container, image folder, raw YUV), or several, which become clips named after their files.
    output
        The .vinr file. It appears whole or not at all.
    model, preset
        Model by name, or model and size by name; a default model and a size that suits the video otherwise.
    params
        Numbers to store in the whole file, latents and head included, such as ``"1.5M"``.
    epochs, time
        How long to fit: passes over the frames, or seconds (or ``"10m"``) for everything together.
    frames, crop, resize
        Half-open frame range, centred crop, and resize of every input, as (rows, columns).
    segment
        Length in seconds of segments with a network each; by default one, unless the frames fill 2 GiB.
    resume
        Go on with an interrupted encode of the same output and settings.
    overrides
        ``section.key=value`` settings, such as ``fit.recipe=paper``.

    Raises
    ------
    UsageError, InputError, OutputError
        Before any fitting, if something cannot be used.
    FitError
        If a fit collapses again and again.
    """
    started = clock.monotonic()
    sources = [inputs] if isinstance(inputs, (str, PathLike)) else list(inputs)
    path = Path(fspath(output))
    folder = path.with_name(path.name + ".partial")
    _check_output(path, folder, resume=resume, force=force)
    with ExitStack() as opened:
        readers = [
            opened.enter_context(open_video(fspath(source), crop=crop, resize=resize, frames=frames))
            for source in sources
        ]
        plan = plan_encode(
            [reader.spec for reader in readers],
            model=model,
            preset=preset,
            num_parameters=None if params is None else parse_count(params),
            epochs=epochs,
            seconds=None if time is None else parse_seconds(time),
            segment_seconds=segment,
            seed=seed,
            overrides=overrides,
        )
        work = _Work(plan, resolve_device(device), folder, resume, started, on_event)
        on_event(Noted(f"{plan}, on {describe_threads(work.device)}"))
        segments = work.run(readers)
        file = assemble(readers, plan.jobs, segments, audio=plan.presets[0].compress.audio)
        num_bytes = file.write(path, force=force)
    shutil.rmtree(folder)
    return _report(path, num_bytes, [r.spec for r in readers], segments, clock.monotonic() - started)


def _check_output(path: Path, folder: Path, *, resume: bool, force: bool) -> None:
    """Refuse before hours of work what could not be written after them."""
    if path.suffix != ".vinr":
        raise UsageError(f"output {path}: the last path must end in .vinr")
    check_target(path, force=force)
    if folder.exists() and any(folder.iterdir()) and not resume:
        if not force:
            raise OutputError(
                f"{folder} holds an interrupted encode; give --resume to go on with it, --force to start anew"
            )
        shutil.rmtree(folder)


@dataclass(frozen=True)
class _Work:
    """Fitting and coding the segments of a plan; finished ones and checkpoints are kept in ``folder``."""

    plan: EncodePlan
    device: torch.device
    folder: Path
    resume: bool
    started: float
    on_event: Callable[[Event], None]

    def run(self, readers: Sequence[VideoReader]) -> list[FittedSegment]:
        """Return all segments, in order; an empty folder is not left behind."""
        self.folder.mkdir(exist_ok=True)
        try:
            return [self._segment(number, job, readers) for number, job in enumerate(self.plan.jobs)]
        finally:
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _segment(self, number: int, job: Job, readers: Sequence[VideoReader]) -> FittedSegment:
        finished = self.folder / f"segment-{number:05d}.safetensors"
        if self.resume and finished.exists():
            return load_segment(finished)
        preset = self.plan.presets[number]
        frames = _read_spans(job, readers)
        checkpoint = self.folder / f"fit-{number:05d}.safetensors"
        result = fit(
            frames,
            preset,
            device=self.device,
            on_event=self.on_event,
            checkpoint=checkpoint,
            resume=self.resume,
            seconds=self._seconds(number, job),
            reserve_epochs=RESERVE_EPOCHS,
        )
        packed = pack_tensors(result.model.stored(), preset.compress, steps=result.steps)
        segment = FittedSegment.of(preset, result, packed, frames.spec)
        # The quality that the file states is that of the decoded result.
        with segment.open(frames.spec, str(self.device)) as decoder:
            segment = segment.measured(compare_sources(decoder, frames))
        save_segment(segment, finished)
        checkpoint.unlink(missing_ok=True)
        return segment

    def _seconds(self, number: int, job: Job) -> float | None:
        """Return the time for a segment: its share, less what opening and reading have taken."""
        if self.plan.seconds is None:
            return None
        spent = clock.monotonic() - self.started if number == 0 else 0.0
        return max(self.plan.seconds * job.share - spent, 1.0)


def _read_spans(job: Job, readers: Sequence[VideoReader]) -> FrameTensor:
    """Return the frames of a network, those of its spans one after another."""
    parts = [
        readers[span.clip].read(span.first_frame, span.first_frame + span.num_frames).rgb_NCHW
        for span in job.spans
    ]
    # A single span, the usual case, is not copied.
    rgb_NCHW = parts[0] if len(parts) == 1 else torch.cat(parts)
    return FrameTensor(rgb_NCHW, job.spec([reader.spec for reader in readers]))


def _report(
    path: Path, num_bytes: int, specs: Sequence[VideoSpec], segments: Sequence[FittedSegment], seconds: float
) -> EncodeReport:
    num_frames = sum(segment.num_frames for segment in segments)
    duration = float(sum(spec.num_frames / spec.frame_rate for spec in specs))

    def mean(values: Sequence[float]) -> float:
        return sum(v * s.num_frames for v, s in zip(values, segments, strict=True)) / num_frames

    quality = mean_quality([quality for segment in segments for quality in segment.qualities])
    return EncodeReport(
        path=str(path),
        num_bytes=num_bytes,
        bpp=bits_per_pixel(num_bytes, sum(spec.num_pixels for spec in specs)),
        kbit_per_s=kilobits_per_second(num_bytes, duration),
        psnr_db=quality.psnr_db,
        ms_ssim=quality.ms_ssim,
        ms_ssim_window=quality.ms_ssim_window,
        model=segments[0].model,
        num_parameters=sum(segment.num_parameters for segment in segments),
        num_frames=num_frames,
        num_epochs=mean([segment.num_epochs for segment in segments]),
        train_psnr_db=mean([segment.train_psnr_db for segment in segments]),
        num_collapses=sum(segment.num_collapses for segment in segments),
        seconds=seconds,
    )
