"""Encoding: from video files to one .vinr file.

::

    inputs ─> plan ─> for each segment: frames ─> fit ─> quantise, code ─> decode and measure ─┐
                                                                                               ├─> one file
    sound, timestamps ─────────────────────────────────────────────────────────────────────────┘
"""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from fractions import Fraction
from os import PathLike, fspath
from pathlib import Path
from typing import Literal

from vinr.config import load_preset, preset_asked_for
from vinr.decoding.integrity import refused_by_default
from vinr.device import gradients_on, thread_count_restored
from vinr.encoding.advice import FirstSteps, advise, describe_miss, without_effect
from vinr.encoding.assembly import assemble, check_networks, side_bytes
from vinr.encoding.choice import is_open
from vinr.encoding.fits import Fits, Here, Place
from vinr.encoding.foresee import closing_seconds, refuse_used_up
from vinr.encoding.kept import find_kept
from vinr.encoding.on_workers import ClipSource, OnWorkers, refuse_pipes
from vinr.encoding.plan import EncodePlan, QualityName, Target, plan_encode
from vinr.encoding.report import EncodeReport, bytes_of, report_of, with_reference
from vinr.encoding.sound import sounds_of
from vinr.encoding.splitting import count_joinable, count_pixels
from vinr.errors import OutputError, UsageError, argument
from vinr.files import check_suffix
from vinr.fit import Event, Noted, StageBegun, Written, ignore
from vinr.scale.pool import open_pool
from vinr.scale.workers import Workers
from vinr.settings import checked_arguments
from vinr.state.folder import EncodeJob, StateFolder
from vinr.units import SegmentLength, SizeLike, parse_bytes, parse_count, parse_seconds
from vinr.video.pipes import is_kept, is_pipe
from vinr.video.reading import ReadOptions
from vinr.video.scene_cuts import find_cuts
from vinr.video.source import VideoReader, open_video
from vinr.video.spec import VideoSpec

_STARTED: ContextVar[float | None] = ContextVar("started", default=None)


@contextmanager
def time_counted_from(started: float) -> Iterator[None]:
    """Let ``time`` of what the body does count from an earlier reading of ``time.monotonic()``."""
    token = _STARTED.set(started)
    try:
        yield
    finally:
        _STARTED.reset(token)


def counted_from() -> float:
    """Return the reading of ``time.monotonic()`` from which ``time`` counts: now, or an earlier one."""
    started = _STARTED.get()
    return clock.monotonic() if started is None else started


@checked_arguments()
@gradients_on()
def encode(
    inputs: str | PathLike[str] | Sequence[str | PathLike[str]],
    output: str | PathLike[str],
    *,
    model: str | None = None,
    preset: str | None = None,
    params: int | str | None = None,
    size: int | str | None = None,
    bpp: float | None = None,
    psnr: float | None = None,
    quality: QualityName = "medium",
    epochs: int | None = None,
    time: float | str | None = None,
    frames: tuple[int | None, int | None] | None = None,
    crop: SizeLike | None = None,
    resize: SizeLike | None = None,
    bit_depth: Literal[8, 10] | None = None,
    stream: int | None = None,
    pix_fmt: str | None = None,
    raw_size: SizeLike | None = None,
    rate: Fraction | float | str | None = None,
    deinterlace: bool = False,
    segment: float | str | None = None,
    scene_cuts: bool = False,
    join: bool | None = None,
    device: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    ray: str | None = None,
    gpus_per_worker: float | None = None,
    threads_per_worker: int | None = None,
    resume: bool = False,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
    reference: bool = False,
    on_event: Callable[[Event], None] = ignore,
) -> EncodeReport:
    """Fit networks to videos and write them as one file.

    Parameters
    ----------
    inputs
        One video (container, image folder, raw video, ``-`` for standard input), or several, which become
        clips named after their files.
    output
        The .vinr file. It appears whole or not at all.
    model, preset
        Name of a model, or of a model and size. If both are None: a size that suits the video, and a default
        model, or with ``time`` the one that reaches most in it.
    params
        Parameters that the whole file stores, latents and head included, such as ``"1.5M"``.
    size, bpp, psnr
        A target, at most one: bytes (or ``"500kB"``) or bits per pixel of the file, never exceeded and met to
        3 %; or a PSNR in dB, in as few bytes as possible.
    quality
        ``low``: half the parameters and half the time that are chosen otherwise; ``high``: twice the
        parameters and four times the time. A time or epochs that are given stay as they are.
    epochs, time
        How long to fit: passes over the frames, or wall-clock seconds (or ``"10m"``) for everything together;
        a time that suits the video if both are None.
    frames, crop, resize
        Half-open frame range, centred crop, and resize of every input. A size is (rows, columns) or a text:
        ``"640:360"`` (width:height), ``"640:-2"``, ``"360p"``, ``"50%"``, ``"360x640"`` (height x width).
    bit_depth
        Bits per colour of the frames, 8 or 10, of every input; if None 8, and 10 for video of more than 8.
    stream
        Number of the video stream, from 0; the one that players show if None.
    pix_fmt, raw_size, rate
        Samples, size and frames per second of raw video, where its name does not say them; image
        folders have a rate, too.
    deinterlace
        Make full frames of interlaced ones.
    segment
        Longest length of segments in seconds (or ``"10s"``, or ``"120f"``: frames), each with a network of
        its own; one segment if None, unless the frames fill 2 GiB. Only the frames of the segment at hand
        are in memory.
    scene_cuts
        End segments at scene cuts where that is possible; all frames are read once more, to find them.
    join
        One network for all inputs of one size, or a network for each; as the model's paper has it if None.
    device
        ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
    threads
        Threads to compute on; if None, all cores, or one where more are not faster: for small networks, and
        on a busy machine (tried where the fit has a time). OMP_NUM_THREADS is kept to if it is set.
    workers, ray
        Fit so many segments at a time, each in a process of its own, with Ray (``pip install 'vinr[ray]'``):
        on this machine, or on the cluster at the address ``ray``, where None takes as many as there is room
        for. One after another in this process if both are None. ``time`` is that of all together.
    gpus_per_worker, threads_per_worker
        GPUs of each worker, 0 if None; 0.5 puts two workers on one. CPU threads of each worker, 1 if None.
    resume
        Continue an interrupted encode of the same output, inputs and settings, in its arithmetic.
    seed
        Random seed of the fit; that of the preset if None.
    overrides
        ``section.key=value`` settings, such as ``fit.recipe=paper``.
    force
        Replace an existing output.
    reference
        Measure in the end what x264 needs at the same PSNR, which takes seconds; the command line does so
        unless ``--no-reference`` is given.
    on_event
        Called with each event of the fits (:mod:`vinr.fit.events`).

    Raises
    ------
    UsageError, InputError, OutputError
        Before any fitting, if something cannot be used.
    FitError
        If a fit collapses again and again.
    KeyboardInterrupt
        On Ctrl-C, once the state is kept in a folder beside ``output``.
    """
    started, seconds = counted_from(), None if time is None else parse_seconds(time)
    if seconds is not None and not resume:
        refuse_used_up(seconds, clock.monotonic() - started)
    sources = [inputs] if isinstance(inputs, (str, PathLike)) else list(inputs)
    paths = [fspath(source) for source in sources]
    if not sources:
        raise UsageError("no input is given; give at least one video")
    asked = Workers.asked_for(workers, ray, gpus_per_worker, threads_per_worker, threads)
    if asked is not None:
        refuse_pipes(paths)
    if resume:
        _refuse_lost_pipes(paths)
    options = ReadOptions.of(
        stream=stream,
        pix_fmt=pix_fmt,
        raw_size=raw_size,
        rate=rate,
        deinterlace=deinterlace,
        bit_depth=bit_depth,
    )
    overrides = [*overrides, *([] if join is None else [f"fit.join_clips={str(join).lower()}"])]
    params = None if params is None else parse_count(params)
    if threads is not None and threads < 1:
        raise UsageError(f"{argument('threads', threads)}: give at least 1")
    path = Path(fspath(output))
    check_suffix(path, ".vinr", "output (the last path)")
    state = StateFolder(
        path,
        EncodeJob.of(sources, frames=frames, crop=crop, resize=resize),
        settings=_in_short(
            model=model, preset=preset, params=params, quality=quality, epochs=epochs, overrides=[*overrides]
        ),
        resume=resume,
        force=force,
        on_note=lambda text: tell(Noted(text)),
    )

    def tell(event: Event) -> None:
        on_event(event)
        state.check_process()  # a child that it forked must not continue the work of its parent

    with state, thread_count_restored(threads), ExitStack() as opened:
        readers, specs = [], []
        for source in paths:
            reader = open_video(source, crop=crop, resize=resize, frames=frames, options=options)
            readers.append(opened.enter_context(reader))
            specs.append(reader.spec)
            for note in reader.notes:
                tell(Noted(note))
        # A target is that of the whole file: what belongs to no network is taken off it first.
        settings = load_preset(preset_asked_for(model, preset), overrides).compress
        sounds = opened.enter_context(sounds_of(readers, state.folder.parent, wanted=settings.audio))
        others = side_bytes(readers, sounds)
        for reader in readers:
            for note in reader.audio_notes:
                tell(Noted(note))
        length = None if segment is None else SegmentLength.of(segment)
        cuts = _find_cuts(readers, length) if scene_cuts else None
        may_choose = is_open(model=model, preset=preset, time=time, overrides=overrides)

        def plan_with(model: str | None) -> EncodePlan:
            planned = plan_encode(
                specs,
                model=model,
                preset=preset,
                num_parameters=params,
                epochs=epochs,
                seconds=seconds,
                segment=length,
                cuts=cuts,
                target=_target(specs, size, bpp, psnr, others),
                quality=quality,
                seed=seed,
                overrides=overrides,
            )
            check_networks(readers, planned.jobs, planned.presets)
            return planned

        plan = plan_with(state.decided_model if may_choose and resume else model)
        advice = advise(plan, specs) if plan.seconds is None else []
        for note in [*without_effect(plan, specs), *advice]:
            tell(Noted(note))
        first_steps = FirstSteps(plan, tell)

        def tell_fit(event: Event) -> None:
            first_steps(event)
            tell(event)

        if (count := count_joinable(plan.jobs, specs)) > 1 and join is None:
            each = f"{count} clips of one size have a network each"
            tell(Noted(f"{each}; {argument('join', True)} fits one for all"))
        fits = Fits(
            plan,
            specs,
            state,
            other_bytes=others,
            started=started,
            resume=resume,
            reference=reference,
            replan=plan_with if may_choose and not resume else None,
            on_event=tell_fit,
        )
        with _place(asked, plan, paths, readers, device, threads, state.token) as place:
            plan, segments = fits.run(place)
        file = assemble(readers, segments, sounds)
        try:
            num_bytes = file.write(path, force=force, on_written=state.expect_file)
        except OutputError as error:
            if not find_kept(state.folder):
                raise
            raise OutputError(
                f"{error}; what was fitted is kept: {argument('resume', True)} continues with it"
            ) from None
        taken = clock.monotonic() - started
        report = report_of(path, num_bytes, readers, segments, seconds=taken, other_bytes=others)
        report = replace(report, source_bytes=bytes_of(paths))
        tell(Written(report.num_parameters, report.num_epochs, report.seconds))
        state.finish()
        if reference:
            tell(StageBegun("comparing"))
            closing = closing_seconds(started)
            report = with_reference(report, readers, segments, budget=plan.seconds, closing=closing)
        if refused := refused_by_default(path):
            tell(Noted(f"readers refuse this file by default: {refused}"))
    if psnr is not None and (miss := describe_miss(report.psnr_db, psnr, report.num_parameters)) is not None:
        tell(Noted(miss))
    return report


def _find_cuts(readers: Sequence[VideoReader], length: SegmentLength | None) -> list[list[int]]:
    """Return the frames of each clip with which scenes begin."""
    if length is None:
        cut, by = argument("scene_cuts", True), argument("segment", "10s")
        raise UsageError(f"{cut} ends segments at cuts; say how long they are at most, such as {by}")
    return list(map(find_cuts, readers))


@contextmanager
def _place(
    asked: Workers | None,
    plan: EncodePlan,
    sources: Sequence[str],
    readers: Sequence[VideoReader],
    device: str,
    threads: int | None,
    token: str,
) -> Iterator[Place]:
    """Yield where networks are fitted: in this process, or on the workers that are asked for."""
    if asked is None:
        yield Here(readers, device, threads)
        return
    if plan.presets[0].fit.warm_start:
        raise UsageError(
            "with fit.warm_start each segment waits for the one before it, so that workers have nothing "
            f"to do at the same time; leave it or {argument('workers')} and {argument('ray')} out"
        )
    with open_pool(asked) as pool:
        yield OnWorkers(pool, list(map(ClipSource.of, sources, readers)), device, token)


def _refuse_lost_pipes(sources: Sequence[str]) -> None:
    for source in sources:
        if is_pipe(source) and not is_kept(source):
            problem = "what came out of a pipe cannot be read again, so that nothing can be resumed"
            raise UsageError(f"{source}: {problem}; save the video as a file first")


def _target(
    specs: Sequence[VideoSpec], size: int | str | None, bpp: float | None, psnr: float | None, others: int
) -> Target:
    """Return the target of the file; ``others`` are its bytes of times and audio."""
    targets = {"size": size, "bpp": bpp, "psnr": psnr}
    names = [name for name, value in targets.items() if value is not None]
    if len(names) > 1:
        raise UsageError(f"{' and '.join(names)} exclude each other; give one of size, bpp and psnr")
    if bpp is not None and not 0 < bpp <= 24:
        raise UsageError(f"bpp {bpp:g}: give bits per pixel above 0, at most 24, such as 0.05")
    if psnr is not None and not 10 <= psnr <= 60:
        raise UsageError(f"psnr {psnr:g}: give decibels between 10 and 60, such as 34")
    num_bytes = None if size is None else parse_bytes(size)
    if bpp is not None:
        num_bytes = int(bpp * count_pixels(specs) / 8)
    return Target(num_bytes, psnr, others)


def _in_short(**settings: object) -> dict[str, str]:
    return {name: str(value) for name, value in settings.items() if value}
