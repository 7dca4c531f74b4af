"""Compares networks and real codecs on the same frames, and writes one page of it.

::

    INPUT ─> crop, resize ─> frames ─┬─> x264, x265, SVT-AV1, VP9 ──> points ─┐
                                     ├─> encode(), a file a size ───> points ─┼─> curves, BD-rates ─> page
                files fitted before ─┴──────────────────────────────> points ─┤
                                            published points of a table ──────┘

Points are measured one after another in this process, or on workers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from os import PathLike, fspath
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Final

from vinr.comparison.kept import Crops, KeptWork, describe_video, kept_in_words
from vinr.comparison.machine import machine
from vinr.comparison.on_workers import measure_on
from vinr.comparison.page import ComparisonPage, CropSet
from vinr.comparison.plan import (
    COMPARED_BITS,
    DEFAULT_ANCHORS,
    Budget,
    ComparedFile,
    check_folder,
    check_sizes,
    common_edit,
    common_options,
    open_file,
    plan_fits,
    read_anchors,
)
from vinr.comparison.plots import SHOWN_MEASURES
from vinr.comparison.points import Measured, Points, Progress, list_points
from vinr.comparison.rd import BDResult, Kind, RDCurve, RDPoint, bd_table, equal_time_table
from vinr.comparison.runs import Runner, Setup, look
from vinr.decoding.file import FileLike
from vinr.device import check_device_name, resolve_device
from vinr.encoding.on_workers import refuse_pipes
from vinr.encoding.telling import Teller
from vinr.errors import OutputError, argument, format_frame, plural
from vinr.files import atomic_path, check_suffix
from vinr.fit import Event, Noted, OfJob, StageBegun, ignore
from vinr.scale.pool import run_here
from vinr.scale.workers import Workers
from vinr.settings import checked_arguments
from vinr.state.folder import PAGE_SO_FAR, EncodeJob, StateFolder, partial_folder
from vinr.state.interruption import held_back
from vinr.units import SizeLike, parse_count, parse_seconds
from vinr.video.asked_edit import AskedEdit
from vinr.video.color import Upsampling
from vinr.video.names import FALLBACK
from vinr.video.pipes import is_pipe, pipe_name
from vinr.video.reading import ReadOptions
from vinr.video.source import VideoReader, open_video

PAGE_SUFFIX: Final = ".html"
# Audio is no part of what is compared.
NO_AUDIO: Final = "compress.audio=false"


@dataclass(frozen=True)
class ComparisonReport:
    """What was compared: every point, measured or published, and what each curve saves against another.

    ``input`` is the video, ``page`` the HTML file; ``num_frames``, ``height``, ``width`` and ``fps`` are
    those compared. ``curves`` hold the points, networks first, ``bd`` the BD-rates of curves against codecs,
    ``bd_equal_time`` those of networks against each other, where they were given the same time.
    ``upsampling`` is how chroma of the codecs was brought to full size, whichever served them better.
    """

    input: str
    page: str
    num_frames: int
    height: int
    width: int
    fps: float
    upsampling: Upsampling
    curves: tuple[RDCurve, ...]
    bd: tuple[BDResult, ...]
    bd_equal_time: tuple[BDResult, ...] = ()


@checked_arguments()
def compare(
    source: str | PathLike[str],
    page: str | PathLike[str] | None = None,
    *,
    models: Sequence[str] = (),
    presets: Sequence[str] = (),
    params: Sequence[int | str] = (),
    bpp: Sequence[float] = (),
    epochs: int | None = None,
    time: float | str | Sequence[float | str] | None = None,
    files: Sequence[FileLike] = (),
    anchors: Sequence[str] | None = None,
    frames: tuple[int | None, int | None] | None = None,
    crop: SizeLike | None = None,
    resize: SizeLike | None = None,
    stream: int | None = None,
    pix_fmt: str | None = None,
    raw_size: SizeLike | None = None,
    rate: Fraction | float | str | None = None,
    deinterlace: bool = False,
    device: str = "auto",
    workers: int | None = None,
    ray: str | None = None,
    gpus_per_worker: float | None = None,
    threads_per_worker: int | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
    on_progress: Progress | None = None,
    on_note: Callable[[str], None] | None = None,
    on_event: Callable[[Event], None] = ignore,
) -> ComparisonReport:
    """Compare networks with real codecs on the frames of one video, and write a page of it.

    Parameters
    ----------
    source
        The video.
    page
        The HTML file; ``NAME-compare.html`` in the current folder if None. It appears whole or not at all.
        Networks that are fitted are kept beside it, in a folder ``NAME-compare-files``. Until it is whole,
        finished points lie in a folder ``NAME-compare.html.partial``: after an interruption, the same call
        continues with them.
    models, presets
        What to fit; the default model if neither these nor ``files`` are given.
    params, bpp
        Sizes of each network: parameters, or bits per pixel of the file; four sizes that suit the video if
        both are empty (presets that have a size are fitted at that).
    epochs, time
        How long to fit each network: passes over the frames, or wall-clock seconds (or ``"10m"``). With
        several times, such as ``[60, "5m"]``, each network is fitted for each of them, and each time gives a
        curve.
    files
        .vinr files of the same video, each a path, bytes or a binary file; crop, resize and frame range are
        then theirs.
    anchors
        Codecs as :func:`vinr.codecs.anchors.parse_anchor` reads them, or ``FILE.csv#CLIP`` for published
        points; None: those of ``DEFAULT_ANCHORS``.
    frames, crop, resize
        Half-open frame range, centred crop, and resize, as for :func:`vinr.encode`.
    stream, pix_fmt, raw_size, rate, deinterlace
        As for :func:`vinr.encode`; with ``files``, stream and deinterlacing are theirs if they are not given.
    device, seed, overrides
        As for :func:`vinr.encode`.
    workers, ray, gpus_per_worker, threads_per_worker
        Measure so many points at a time on workers, as :func:`vinr.encode` fits segments: codecs, files and
        networks alike. All workers reach the folder of the page. ``time`` is still that of each network;
        seconds and frames per second are then measured beside other points.
    on_progress
        Called with what is being done and the share of all that is done, 0 to 1.
    force
        Overwrite the page and the files of networks. Points of an interrupted comparison are used even then.
    on_note
        Called with each line on the video itself, such as that it may be cut short, and on what is kept.
    on_event
        Called with stages, and with each event of a point as :class:`vinr.fit.OfJob`; lines are `on_note`'s.

    Raises
    ------
    UsageError, InputError, OutputError, BitstreamError
        Before anything is encoded, if something cannot be used.
    FitError
        If a fit collapses again and again.
    """
    path = page_path(source, page)
    sweeps, published = read_anchors(DEFAULT_ANCHORS if anchors is None else anchors)
    asked = Workers.asked_for(workers, ray, gpus_per_worker, threads_per_worker)
    check_device_name(device)
    if asked is not None:
        refuse_pipes([fspath(source)])
    # That of the points. Workers may have GPUs where this process has none.
    device = str(resolve_device(device)) if asked is None else asked.device(device)

    def note(text: str) -> None:
        if on_note is not None:
            on_note(text)

    compared = [ComparedFile.of(file, number) for number, file in enumerate(files, 1)]
    names = [file.name for file in compared]
    first, stop = frames or (None, None)
    options = ReadOptions.of(
        stream=stream, pix_fmt=pix_fmt, raw_size=raw_size, rate=rate, deinterlace=deinterlace
    )
    times = _times_of(time)
    state = StateFolder(
        path,
        EncodeJob.of([source], frames=frames, crop=crop, resize=resize, work="comparison"),
        resume=None,
        force=force,
        on_note=note,
    )
    with state, ExitStack() as opened:
        # Files, video and sizes are checked before `prepare` touches what an earlier call left.
        here = device if asked is None else "cpu"
        decoders = [opened.enter_context(open_file(file, here)) for file in compared]
        edit = common_edit(decoders, names, AskedEdit(crop, resize, first or 0, stop))
        options = replace(common_options(decoders, names, options), bit_depth=COMPARED_BITS)
        reader = opened.enter_context(open_video(fspath(source), edit=edit, options=options))
        if reader.spec.color.bit_depth > COMPARED_BITS:
            note(f"networks and codecs are compared at {COMPARED_BITS} bits; {fspath(source)} is rounded")
        for text in reader.notes:
            note(text)
        check_sizes(decoders, names, reader.spec)
        budget = Budget(epochs, times, seed, (*overrides, NO_AUDIO))
        # Files alone are compared alone; without any, the default model is fitted.
        fits = []
        if models or presets or params or bpp or not names:
            counts = list(map(parse_count, params))
            fits = plan_fits(models, presets, counts, bpp, reader.spec, budget, note)
        else:
            given = {"epochs": epochs, "time": times or None, "seed": seed, "overrides": overrides or None}
            for name in [name for name, value in given.items() if value is not None]:
                note(f"{argument(name)} has no effect: files are compared, and no network is trained")
        folder = path.with_name(f"{path.stem}-files")
        kept = KeptWork(state.folder, lambda: describe_video(reader), note)
        fitted_as = [decoder.file.header.networks[0].model for decoder in decoders]
        jobs = list_points(sweeps, compared, fitted_as, fits, folder, width=reader.spec.width)
        if on_progress is not None:
            on_progress("reading", 0.0)
        view, original_crops = look(reader)
        setup = Setup(fspath(source), device, view, budget, folder, force)
        runner = Runner(setup, reader, kept)
        check_folder(folder, fits, lambda fit: force or runner.may_use(fit, folder / fit.file_name))
        state.prepare()
        points = Points(jobs, on_progress)
        pages = _PageWriter(path, setup, reader, points, original_crops, published, asked)

        def tell(event: Event) -> None:
            if isinstance(event, OfJob) and isinstance(event.event, Noted):
                note(f"{event.name}: {event.event.text}")
            else:
                on_event(event)

        on_event(StageBegun("comparing"))
        with pages.kept_on_errors(state):
            if asked is None:
                measured = _measure_here(runner, points, tell)
            else:
                measured = measure_on(
                    asked, jobs, setup, reader, kept, state, on_event=points.hear, tell=tell
                )
            with closing(measured):
                for number, point in measured:
                    if points.take(number, point):
                        pages.write_so_far(state)
        report = pages.report([*points.curves(), *published])
        content = pages.render(report)
        # Whoever is killed from here on has a page, which the next call must know as its own.
        state.expect(content)
        with atomic_path(path, force=force) as temporary:
            temporary.write_bytes(content)
        state.finish()
    return report


def _times_of(time: float | str | Sequence[float | str] | None) -> tuple[float, ...]:
    """Return the seconds of one time or several; none for None."""
    if time is None:
        return ()
    if isinstance(time, (str, float, int)):
        return (parse_seconds(time),)
    return tuple(map(parse_seconds, time))


def _measure_here(
    runner: Runner, points: Points, tell: Callable[[Event], None]
) -> Generator[tuple[int, Measured]]:
    """Yield all points with their numbers, one after another."""

    def hear(event: Event) -> None:
        tell(event)
        if isinstance(event, OfJob):
            points.hear(event.number, event.event)

    teller = Teller([job.name for job in points.jobs], hear)
    ends = run_here(lambda job, again, on_event: runner.run(job, on_event), points.jobs, on_event=teller)
    for ended in ends:
        yield ended.number, ended.value()
        teller.end(ended.number)


def page_path(source: str | PathLike[str], page: str | PathLike[str] | None = None) -> Path:
    """Return the file that a comparison writes.

    Raises
    ------
    UsageError
        If its name does not end in .html.
    """
    # realpath: "." and ".." have no name to build on
    name = fspath(source)
    stem = (pipe_name(name) or FALLBACK) if is_pipe(name) else Path(os.path.realpath(name)).stem
    path = Path(f"{stem}-compare{PAGE_SUFFIX}") if page is None else Path(fspath(page))
    check_suffix(path, PAGE_SUFFIX, "page")
    return path


def describe_saved(page: Path) -> str:
    """Return in words what an interrupted comparison has saved, and how to continue it."""
    folder = partial_folder(page)
    kept = kept_in_words(folder)
    if not kept:
        return "nothing was saved"
    shown = folder / PAGE_SO_FAR
    so_far = f"; the page so far: {shown}" if shown.exists() else ""
    return f"saved: {kept}{so_far}. Repeat the command to continue"


class _PageWriter:
    """Makes the report and the page of a comparison, finished or not."""

    def __init__(
        self,
        path: Path,
        setup: Setup,
        reader: VideoReader,
        points: Points,
        original_crops: Crops,
        published: Sequence[RDCurve],
        workers: Workers | None,
    ) -> None:
        self._path, self._setup, self._reader, self._points = path, setup, reader, points
        self._original_crops, self._published, self._workers = original_crops, published, workers
        self._started = monotonic()

    def report(self, curves: Sequence[RDCurve], *, with_rates: bool = True) -> ComparisonReport:
        """Return the report of ``curves``, with or without BD-rates."""
        spec = self._reader.spec
        return ComparisonReport(
            input=self._setup.source,
            page=str(self._path),
            num_frames=spec.num_frames,
            height=spec.height,
            width=spec.width,
            fps=spec.fps,
            upsampling=self._setup.view.upsampling,
            curves=tuple(curves),
            bd=bd_table(curves, SHOWN_MEASURES) if with_rates else (),
            bd_equal_time=equal_time_table(curves, SHOWN_MEASURES) if with_rates else (),
        )

    def render(self, report: ComparisonReport, *, unfinished: str = "") -> bytes:
        """Return the page; ``unfinished`` says what is missing of it."""
        chosen = _at_equal_rate(report.curves)
        crops = [CropSet("original", self._original_crops)]
        for curve, point in chosen:
            title = f"{curve.name}: {point.bpp:.4f} bpp, {point.psnr_db:.2f} dB"
            crops.append(CropSet(title, self._points.crops(curve.name, point.setting)))
        page = ComparisonPage(
            title=f"{self._reader.name}: networks and codecs",
            facts=_facts(report, self._reader, self._workers, seconds=monotonic() - self._started),
            curves=report.curves,
            results=report.bd,
            equal_time=report.bd_equal_time,
            chosen=chosen,
            crops=crops,
            csv_name=f"{self._path.stem}.csv",
            unfinished=unfinished,
        )
        # A path may hold bytes that are no text.
        return page.render().encode("utf-8", errors="backslashreplace")

    def write_so_far(self, state: StateFolder) -> None:
        """Write what is measured so far as a page into the folder of the state."""
        curves = [*self._points.curves(), *self._published]
        done, total = self._points.num_done, len(self._points.jobs)
        missing = f"{done} of {plural(total, 'point')} are here; repeat the command to measure the rest."
        content = self.render(self.report(curves, with_rates=False), unfinished=missing)
        # It is for people to look at: without it the comparison continues all the same.
        with suppress(OutputError), atomic_path(state.folder / PAGE_SO_FAR, force=True) as temporary:
            temporary.write_bytes(content)

    @contextmanager
    def kept_on_errors(self, state: StateFolder) -> Iterator[None]:
        """Write what is measured so far when the work inside is interrupted or fails."""
        try:
            yield
        except BaseException:
            if self._points.num_done:
                with held_back():
                    self.write_so_far(state)
            raise


def _facts(
    report: ComparisonReport, reader: VideoReader, workers: Workers | None, *, seconds: float
) -> list[tuple[str, str]]:
    edit, original = reader.edit, reader.original
    changes = [f"frames {edit.first_frame} to {edit.stop_frame}", f"of {format_frame(*original)}"]
    if edit.crop:
        changes.append(f"crop {edit.crop[1]}×{edit.crop[0]}")
    if edit.resize:
        changes.append(f"resize {edit.resize[1]}×{edit.resize[0]}")
    color, where = reader.spec.color, machine()
    beside = (
        []
        if workers is None
        else [("workers", f"{workers}: seconds and frames/s are those of points beside others")]
    )
    return [
        ("video", report.input),
        (
            "compared",
            f"{plural(report.num_frames, 'frame')} of {format_frame(report.height, report.width)} at "
            f"{report.fps:.3f} fps",
        ),
        ("taken from", ", ".join(changes)),
        (
            "colour",
            f"{color.matrix}, {color.range} range; codecs code 8-bit 4:2:0 unless their name says more",
        ),
        ("chroma of codecs", f"{report.upsampling} to full size: what gives these frames back best uncoded"),
        ("measured", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; this run took {seconds:,.0f} s"),
        ("machine", f"{where['cpu']} ({where['cpu_capability']}), {plural(where['threads'], 'thread')}"),
        *beside,
        ("versions", f"vinr {where['vinr']}, PyTorch {where['torch']}, Python {where['python']}"),
        *(("note", note) for note in reader.notes),
    ]


def _at_equal_rate(curves: Sequence[RDCurve]) -> list[tuple[RDCurve, RDPoint]]:
    """Return of each measured curve the point nearest to the networks' middle rate."""
    measured: list[RDCurve] = []
    rates: dict[Kind, list[float]] = {"vinr": [], "anchor": []}
    for curve in curves:
        # Published points come without frames, of which crops could be shown.
        if curve.kind != "published":
            measured.append(curve)
            rates[curve.kind] += [point.bpp for point in curve.points]
    if not measured:
        return []
    middle = median(rates["vinr"] or rates["anchor"])
    return [(curve, curve.nearest(middle)) for curve in measured]
