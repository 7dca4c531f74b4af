"""Measures the points that a comparison consists of, one at a time, in whichever process.

Axes: N frames of a batch, C colour channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Final, final

import torch

from vinr.bitstream import SectionKind
from vinr.codecs.runs import choose_upsampling
from vinr.codecs.streams import library_versions
from vinr.comparison.anchor_runs import measure_anchor
from vinr.comparison.kept import (
    Crops,
    KeptNetwork,
    KeptWork,
    Work,
    hash_bytes,
    hash_file,
    work_of_codec,
    work_of_file,
    work_of_fit,
)
from vinr.comparison.page import busiest_window
from vinr.comparison.plan import COMPARED_BITS, Budget, ComparedFile, FitJob
from vinr.comparison.points import CodecRun, Measured, PointJob
from vinr.comparison.rd import RDPoint
from vinr.decoding.decoder import VideoDecoder
from vinr.decoding.file import open_clip, split_clip
from vinr.decoding.streams import CropKeeper, CropWindow, StreamClock, at_depth
from vinr.device import resolve_device
from vinr.encoding.encode import encode
from vinr.encoding.kept import find_kept
from vinr.encoding.plan import describe_threads
from vinr.errors import plural
from vinr.files import clear_abandoned
from vinr.fit import Event, Noted, StageBegun, Written
from vinr.fit.events import FramesDone
from vinr.quality.clip import compare
from vinr.state.folder import EncodeJob, StateFolder, partial_folder
from vinr.state.interruption import held_back
from vinr.video.color import Upsampling
from vinr.video.source import VideoReader
from vinr.video.spec import FrameBatch, FrameStream

OnEvent = Callable[[Event], None]

CROP_SIDE: Final = 160
CROP_TIMES: Final = (0.25, 0.75)


@dataclass(frozen=True)
class View:
    """How all points are seen: which chroma of codecs is compared, which part of which frames is shown."""

    upsampling: Upsampling
    numbers: tuple[int, ...]
    window: CropWindow

    def keeper(self) -> CropKeeper:
        """Return what keeps the crops of a stream."""
        return CropKeeper(self.numbers, self.window)


def look(reader: VideoReader) -> tuple[View, Crops]:
    """Return how the points of a video are seen, and the crops of its own frames."""
    count = reader.spec.num_frames
    numbers = sorted({int(count * part) for part in CROP_TIMES})
    originals_NCHW = reader.frames(torch.tensor(numbers))
    view = View(choose_upsampling(reader), tuple(numbers), busiest_window(originals_NCHW[0], CROP_SIDE))
    # The originals pass a keeper, too, so that all crops are cut alike.
    keeper = view.keeper()
    originals = FrameBatch(torch.tensor(numbers), originals_NCHW)
    for _ in keeper.watch(FrameStream(reader.spec, [originals])):
        pass
    return view, keeper.crops


@dataclass(frozen=True)
class Setup:
    """What all points of a comparison have in common; ``folder`` is where networks are fitted."""

    source: str
    device: str
    view: View
    budget: Budget
    folder: Path
    force: bool


@final
class Runner:
    """Measures codecs and networks against the frames of ``reader``.

    What ``kept`` holds is not measured or fitted again, and each new result goes there.
    """

    def __init__(self, setup: Setup, reader: VideoReader, kept: KeptWork) -> None:
        self._setup, self._reader, self._kept = setup, reader, kept

    def run(self, job: PointJob, on_event: OnEvent) -> Measured:
        """Return the point of ``job``.

        Raises
        ------
        UsageError
            If a codec refuses the frame size.
        FitError
            If a fit collapses again and again.
        """
        match job.work:
            case CodecRun():
                return self._codec(job, job.work, on_event)
            case FitJob():
                return self._fit(job, job.work, on_event)
            case ComparedFile():
                return self._file(job, job.work, None, {}, on_event)

    def _codec(self, job: PointJob, run: CodecRun, on_event: OnEvent) -> Measured:
        on_event(StageBegun("comparing"))
        upsampling = self._setup.view.upsampling

        def measure() -> tuple[RDPoint, Crops]:
            keeper = self._setup.view.keeper()
            point = measure_anchor(
                run.anchor,
                run.quality,
                self._reader,
                upsampling=upsampling,
                watch=keeper.watch,
                on_frame=_frames_told(on_event),
            )
            return point, keeper.crops

        width = self._reader.spec.width
        work = work_of_codec(run.anchor, run.quality, width=width, upsampling=upsampling)
        point, crops = self._known(work, measure)
        return Measured(replace(point, setting=job.setting), crops, library_versions(run.anchor))

    # -- networks that are fitted ----------------------------------------------------------------------------

    def may_use(self, fit: FitJob, path: Path) -> bool:
        """Return whether an interrupted comparison has begun to fit ``path``, and nobody else wrote it."""
        network = self._kept.find_network(self._work_of(fit))
        return network is not None and network.allows(path)

    def _fit(self, job: PointJob, fit: FitJob, on_event: OnEvent) -> Measured:
        folder = self._setup.folder
        folder.mkdir(exist_ok=True)
        path = folder / fit.file_name
        # A worker whose driver was killed lives on for some seconds.
        with self._kept.locked(self._work_of(fit)):
            network = self._network(fit, path, on_event)
        options = {
            "parameters": str(network.num_parameters),
            "epochs": f"{network.num_epochs:.1f}",
        }
        for item in self._setup.budget.overrides:
            key, equals, value = item.partition("=")
            if equals:
                options[key] = value
        return self._file(job, ComparedFile(str(path), str(path)), network.seconds, options, on_event)

    def _network(self, fit: FitJob, path: Path, on_event: OnEvent) -> KeptNetwork:
        """Return what is known of the fitted file ``path``: of a network fitted before, or now."""
        work, note = self._work_of(fit), self._kept.note
        network = self._kept.find_network(work)
        if network is None or not network.allows(path):
            with StateFolder(path, self._encode_job(), force=self._setup.force, on_note=note) as state:
                state.prepare()  # what others have left there is cleared or set aside
            network = self._kept.keep_network(work, replaces=hash_file(path) if path.exists() else None)
        elif path.exists() and network.file == hash_file(path):
            # The process may have been killed when the file was whole and not all else removed.
            with StateFolder(path, self._encode_job(), force=True, on_note=note) as state:
                state.finish()
            clear_abandoned(path)
            return network
        return self._continue_fit(fit, path, work, network, on_event)

    def _continue_fit(
        self, fit: FitJob, path: Path, work: Work, network: KeptNetwork, on_event: OnEvent
    ) -> KeptNetwork:
        """Fit a network that was begun, from where its encode was interrupted."""
        # Unknown (None) where the process was killed, nothing where the fit left no state to continue.
        before = network.seconds if find_kept(partial_folder(path)) else 0.0
        written: list[KeptNetwork] = []

        def spent(seconds: float) -> float | None:
            return None if before is None else before + seconds

        def on_fit_event(event: Event) -> None:
            if isinstance(event, Written):
                known = {
                    "seconds": spent(event.seconds),
                    "file": hash_file(path),
                    "num_parameters": event.num_parameters,
                    "num_epochs": event.num_epochs,
                }
                written.append(self._kept.keep_network(work, replaces=network.replaces, **known))
            elif not isinstance(event, Noted):  # a page of many networks needs no lines on each
                on_event(event)

        # Until the fit ends, nobody can say how long it took: the process may be killed.
        self._kept.keep_network(work, replaces=network.replaces)
        started = monotonic()
        try:
            self._encode(fit, path, on_fit_event)
        # Ctrl-C, too: what the fit has taken so far is part of its time when it continues.
        except BaseException:
            if not written:
                with held_back():
                    seconds = spent(monotonic() - started)
                    self._kept.keep_network(work, replaces=network.replaces, seconds=seconds)
            raise
        return written[-1]

    def _encode(self, fit: FitJob, path: Path, on_event: OnEvent) -> None:
        """Encode the video as ``fit`` says, from where that was interrupted."""
        edit, options, budget = self._reader.edit, self._reader.options, self._setup.budget
        encode(
            self._setup.source,
            path,
            model=fit.model,
            preset=fit.preset,
            params=fit.params,
            bpp=fit.bpp,
            epochs=budget.epochs,
            time=fit.seconds,
            frames=(edit.first_frame, edit.stop_frame),
            crop=edit.crop,
            resize=edit.resize,
            bit_depth=COMPARED_BITS,
            stream=options.stream,
            pix_fmt=options.pixel_format,
            raw_size=options.raw_size,
            rate=options.rate,
            deinterlace=options.deinterlace,
            device=self._setup.device,
            resume=True,
            seed=budget.seed,
            overrides=budget.overrides,
            force=self._setup.force or path.exists(),
            on_event=on_event,
        )

    def _work_of(self, fit: FitJob) -> Work:
        return work_of_fit(fit, overrides=self._setup.budget.overrides, device=self._setup.device)

    def _encode_job(self) -> EncodeJob:
        edit = self._reader.edit
        frames = (edit.first_frame, edit.stop_frame)
        return EncodeJob.of([self._setup.source], frames=frames, crop=edit.crop, resize=edit.resize)

    # -- points ----------------------------------------------------------------------------------------------

    def _file(
        self,
        job: PointJob,
        file: ComparedFile,
        encode_seconds: float | None,
        options: Mapping[str, str],
        on_event: OnEvent,
    ) -> Measured:
        """Return the point of a file; its audio is not counted."""
        on_event(StageBegun("measuring"))
        device = self._setup.device
        with open_clip(file.source, device=device) as decoder:

            def measure() -> tuple[RDPoint, Crops]:
                return self._measure_file(decoder, encode_seconds, _frames_told(on_event))

            where = describe_threads(resolve_device(device))
            work = work_of_file(_hash(file), encode_seconds, device=where)
            point, crops = self._known(work, measure)
        # Where the file lies is no part of the work: the folder may have been moved.
        options = {**options, "file": job.file, **point.options}
        return Measured(replace(point, setting=job.setting, options=options), crops, f"vinr on {where}")

    def _measure_file(
        self, decoder: VideoDecoder, encode_seconds: float | None, show: Callable[[int, int], None]
    ) -> tuple[RDPoint, Crops]:
        next(decoder.play([0]))  # the weights are read before the clock starts
        clock, keeper = StreamClock(), self._setup.view.keeper()
        stream = keeper.watch(clock.watch(at_depth(decoder.stream(), COMPARED_BITS)))
        quality = compare(stream, self._reader, yuv=True, on_frame=show)
        options = {"decoding": "; ".join(decoder.notes)} if decoder.notes else {}
        # Codecs have no audio to code: beside theirs, a size with audio would say nothing.
        audio = 0
        for section in decoder.file.sections:
            if section.kind is SectionKind.AUDIO:
                audio += section.num_bytes
        if audio:
            options["audio left out"] = plural(audio, "byte")
        point = RDPoint.measured(
            "",
            quality,
            num_bytes=decoder.file.num_bytes - audio,
            num_pixels=decoder.spec.num_pixels,
            decode_fps=decoder.spec.num_frames / clock.seconds,
            encode_seconds=encode_seconds,
            options=options,
        )
        return point, keeper.crops

    def _known(self, work: Work, measure: Callable[[], tuple[RDPoint, Crops]]) -> tuple[RDPoint, Crops]:
        """Return the kept point of ``work``, or measure and keep it."""
        kept = self._kept.find_point(work)
        point, crops = kept or measure()
        # A signal waits until the file of the point is whole.
        if kept is None:
            with held_back():
                self._kept.keep_point(work, point, crops)
        return point, crops


def _frames_told(on_event: OnEvent) -> Callable[[int, int], None]:
    return lambda done, total: on_event(FramesDone(done, total))


def _hash(file: ComparedFile) -> str:
    if isinstance(file.source, bytes):
        return hash_bytes(file.source)
    return hash_file(Path(split_clip(file.source)[0]))
