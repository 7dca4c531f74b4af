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
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

import torch

from vinr.compress import pack_tensors
from vinr.config import Preset
from vinr.device import resolve_device
from vinr.errors import OutputError, UsageError
from vinr.evaluate.metrics import bits_per_pixel, compare_sources, kilobits_per_second
from vinr.files import check_target
from vinr.fit import Event, Noted, fit, ignore
from vinr.models import VideoModel
from vinr.pack import FittedSegment, assemble, load_segment, save_segment
from vinr.plan import Budget, Job, choose_budget, choose_preset, describe_threads, split_segments
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


@dataclass(frozen=True)
class _Options:
    """Everything the segments share."""

    preset: Preset
    budget: Budget
    device: torch.device
    folder: Path
    resume: bool
    on_event: Callable[[Event], None]


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
    from vinr.units import parse_count, parse_seconds

    started = clock.monotonic()
    sources = [inputs] if isinstance(inputs, (str, PathLike)) else list(inputs)
    path = Path(fspath(output))
    folder = path.with_name(path.name + ".partial")
    _check_output(path, folder, resume=resume, force=force)
    if seed is not None:
        overrides = [*overrides, f"fit.seed={seed}"]
    if epochs is not None:
        overrides = [*overrides, f"fit.epochs={epochs}"]
    readers = [open_video(fspath(source), crop=crop, resize=resize, frames=frames) for source in sources]
    try:
        specs = [reader.spec for reader in readers]
        jobs = split_segments(specs, segment)
        seconds = None if time is None else parse_seconds(time)
        pixels = sum(spec.num_pixels for spec in specs)
        budget = choose_budget(pixels, epochs=epochs, seconds=seconds, overrides=overrides)
        count = None if params is None else parse_count(params)
        presets = [
            choose_preset(
                _job_spec(specs[job.clip], job),
                model=model,
                preset=preset,
                num_parameters=None if count is None else max(round(count * job.share), 1),
                overrides=overrides,
            )
            for job in jobs
        ]
        target = resolve_device(device)
        _announce(presets[0], budget, jobs, target, on_event)
        folder.mkdir(exist_ok=True)
        options = [_Options(p, budget, target, folder, resume, on_event) for p in presets]
        segments = [
            _encode_segment(number, readers[job.clip], job, options[number], started)
            for number, job in enumerate(jobs)
        ]
        file = assemble(readers, jobs, segments, audio=presets[0].compress.audio)
        num_bytes = file.write(path, force=force)
        shutil.rmtree(folder)
    finally:
        for reader in readers:
            reader.close()
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
    return _report(path, num_bytes, specs, segments, clock.monotonic() - started)


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


def _job_spec(spec: VideoSpec, job: Job) -> VideoSpec:
    return VideoSpec(job.num_frames, spec.height, spec.width, spec.frame_rate, spec.color)


def _announce(
    preset: Preset,
    budget: Budget,
    jobs: Sequence[Job],
    device: torch.device,
    on_event: Callable[[Event], None],
) -> None:
    time = f"{budget.seconds:.0f} s" if budget.seconds is not None else f"{preset.fit.epochs} epochs"
    segments = f", {len(jobs)} segments" if len(jobs) > 1 else ""
    on_event(
        Noted(
            f"model {preset.model} ({preset.name}), recipe {preset.fit.recipe}, "
            f"{time}{' (chosen; see --time, --epochs)' if budget.chosen else ''}{segments}, "
            f"on {describe_threads(device)}"
        )
    )


def _encode_segment(
    number: int, reader: VideoReader, job: Job, options: _Options, started: float
) -> FittedSegment:
    finished = options.folder / f"segment-{number:05d}.safetensors"
    if options.resume and finished.exists():
        return load_segment(finished)
    frames = reader.read(job.first, job.first + job.num_frames)
    checkpoint = options.folder / f"fit-{number:05d}.safetensors"
    seconds = None
    if options.budget.seconds is not None:
        spent = clock.monotonic() - started
        seconds = max(options.budget.seconds * job.share - (spent if number == 0 else 0.0), 1.0)
    result = fit(
        frames,
        options.preset,
        device=options.device,
        on_event=options.on_event,
        checkpoint=checkpoint,
        resume=options.resume,
        seconds=seconds,
        reserve_epochs=RESERVE_EPOCHS,
    )
    segment = _compress(
        result.model, frames, options, result.num_epochs, result.train_psnr_db, result.num_collapses
    )
    save_segment(segment, finished)
    checkpoint.unlink(missing_ok=True)
    return segment


def _compress(
    model: VideoModel,
    frames: FrameTensor,
    options: _Options,
    num_epochs: float,
    train_psnr_db: float,
    num_collapses: int,
) -> FittedSegment:
    """Code a fitted model, decode the result, and measure what came back."""
    packed = pack_tensors(model.stored(), options.preset.compress)
    segment = FittedSegment(
        model=options.preset.model,
        architecture=options.preset.architecture,
        num_parameters=model.num_stored(),
        num_frames=frames.spec.num_frames,
        fixed=packed.fixed,
        chunks=packed.chunks,
        frames_per_chunk=packed.frames_per_chunk,
        components=tuple(packed.components),
        num_epochs=num_epochs,
        train_psnr_db=train_psnr_db,
        num_collapses=num_collapses,
    )
    with segment.open(frames.spec, str(options.device)) as decoder:
        return segment.measured(compare_sources(decoder, frames))


def _report(
    path: Path, num_bytes: int, specs: Sequence[VideoSpec], segments: Sequence[FittedSegment], seconds: float
) -> EncodeReport:
    num_frames = sum(segment.num_frames for segment in segments)
    duration = float(sum(spec.num_frames / spec.frame_rate for spec in specs))

    def mean(values: Sequence[float]) -> float:
        return sum(v * s.num_frames for v, s in zip(values, segments, strict=True)) / num_frames

    similarities = [segment.ms_ssim for segment in segments if segment.ms_ssim is not None]
    return EncodeReport(
        path=str(path),
        num_bytes=num_bytes,
        bpp=bits_per_pixel(num_bytes, sum(spec.num_pixels for spec in specs)),
        kbit_per_s=kilobits_per_second(num_bytes, duration),
        psnr_db=mean([segment.psnr_db for segment in segments]),
        ms_ssim=mean(similarities) if len(similarities) == len(segments) else None,
        ms_ssim_window=segments[0].ms_ssim_window,
        model=segments[0].model,
        num_parameters=sum(segment.num_parameters for segment in segments),
        num_frames=num_frames,
        num_epochs=mean([segment.num_epochs for segment in segments]),
        train_psnr_db=mean([segment.train_psnr_db for segment in segments]),
        num_collapses=sum(segment.num_collapses for segment in segments),
        seconds=seconds,
    )
