"""Runs what a comparison consists of, point by point.

Axes: N frames of a batch, C colour channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Final, final

import torch

from vinr.bitstream import SectionKind
from vinr.codecs.anchors import Anchor
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
from vinr.comparison.plan import COMPARED_BITS, Budget, ComparedFile, FitJob, Sweep
from vinr.comparison.rd import Kind, RDCurve, RDPoint
from vinr.decoding.decoder import VideoDecoder
from vinr.decoding.file import open_clip, split_clip
from vinr.decoding.streams import CropKeeper, StreamClock, at_depth
from vinr.device import resolve_device
from vinr.encoding.encode import encode
from vinr.encoding.kept import find_kept
from vinr.encoding.plan import describe_threads
from vinr.errors import plural
from vinr.files import clear_abandoned
from vinr.fit import Event, RoundDone, Written
from vinr.quality.clip import compare
from vinr.state.folder import EncodeJob, StateFolder, partial_folder
from vinr.state.interruption import held_back
from vinr.video.source import VideoReader
from vinr.video.spec import FrameBatch, FrameStream

Progress = Callable[[str, float], None]
"""Takes what is being done, and the share of all that is done, 0 to 1."""

CROP_SIDE: Final = 160
CROP_TIMES: Final = (0.25, 0.75)


@final
class Runner:
    """Measures files and codecs against the frames of ``reader``; ``crops`` are kept by curve and setting.

    What ``kept`` holds is not measured or fitted again, and each new result goes there.
    """

    def __init__(
        self,
        source: str,
        reader: VideoReader,
        kept: KeptWork,
        *,
        device: str,
        num_points: int,
        on_progress: Progress | None,
    ) -> None:
        self._source, self._reader, self._device = source, reader, device
        self._kept = kept
        self.num_points, self.num_done, self._on_progress = num_points, 0, on_progress
        # Called when a codec's curve or a network's point is whole.
        self.on_curve: Callable[[], None] = lambda: None
        self._so_far: dict[str, tuple[Kind, list[RDPoint]]] = {}
        self._show("reading", 0.0)
        count = reader.spec.num_frames
        self._shown = sorted({int(count * part) for part in CROP_TIMES})
        originals_NCHW = reader.frames(torch.tensor(self._shown))
        self._window = busiest_window(originals_NCHW[0], CROP_SIDE)
        self.upsampling = choose_upsampling(reader)
        self.crops: dict[tuple[str, str], Crops] = {}
        # The originals pass a keeper, too, so that all crops are cut alike.
        keeper = self._keeper()
        originals = FrameBatch(torch.tensor(self._shown), originals_NCHW)
        for _ in keeper.watch(FrameStream(reader.spec, [originals])):
            pass
        self.original_crops = keeper.crops

    def anchors(self, sweeps: Sequence[Sweep]) -> list[RDCurve]:
        """Return a curve for each codec.

        Raises
        ------
        UsageError
            If a codec refuses the frame size.
        """
        curves = []
        for anchor, qualities in sweeps:
            points = tuple(self._anchor(anchor, quality) for quality in qualities)
            curves.append(RDCurve(anchor.name, "anchor", points, library_versions(anchor)))
            self.on_curve()
        return curves

    def curves_so_far(self) -> list[RDCurve]:
        """Return the points that are measured by now, networks first."""
        curves = []
        for name, (kind, points) in self._so_far.items():
            curves.append(RDCurve(name, kind, tuple(points)))
        return sorted(curves, key=lambda curve: curve.kind != "vinr")

    def _anchor(self, anchor: Anchor, quality: int) -> RDPoint:
        width = self._reader.spec.width
        setting = anchor.setting(quality, width=width)
        show = self._frames_of(f"{anchor.name}, {setting}")

        def measure() -> tuple[RDPoint, Crops]:
            keeper = self._keeper()
            point = measure_anchor(
                anchor,
                quality,
                self._reader,
                upsampling=self.upsampling,
                watch=keeper.watch,
                on_frame=show,
            )
            return point, keeper.crops

        work = work_of_codec(anchor, quality, width=width, upsampling=self.upsampling)
        return self._point("anchor", anchor.name, setting, work, measure)

    def networks(
        self,
        files: Sequence[ComparedFile],
        jobs: Sequence[FitJob],
        folder: Path,
        budget: Budget,
        *,
        force: bool,
    ) -> list[RDCurve]:
        """Return a curve for each model, of ``files`` and of networks fitted now and kept in ``folder``."""
        points: dict[str, list[RDPoint]] = {}
        names = [Path(file.name).name for file in files]
        for file, name in zip(files, names, strict=True):
            # Files of one name are told apart by their paths: points and crops are found by what is shown.
            setting = name if names.count(name) == 1 else file.name
            model, point = self._file(file, setting, None, {})
            points.setdefault(model, []).append(point)
            self.on_curve()
        for job in jobs:
            points.setdefault(_curve_name(job.curve), []).append(self._fit(job, folder, budget, force=force))
            self.on_curve()
        where = f"vinr on {describe_threads(resolve_device(self._device))}"
        return [RDCurve(name, "vinr", tuple(measured), where) for name, measured in points.items()]

    # -- networks that are fitted ----------------------------------------------------------------------------

    def may_use(self, job: FitJob, folder: Path, budget: Budget) -> bool:
        """Return whether an interrupted comparison has begun to fit ``job``, and nobody wrote its file."""
        network = self._kept.find_network(self._work_of(job, budget))
        return network is not None and network.allows(folder / job.file_name)

    def _fit(self, job: FitJob, folder: Path, budget: Budget, *, force: bool) -> RDPoint:
        folder.mkdir(exist_ok=True)
        path = folder / job.file_name
        network = self._network(job, path, budget, force=force)
        options = {
            "parameters": str(network.num_parameters),
            "epochs": f"{network.num_epochs:.1f}",
        }
        for item in budget.overrides:
            key, equals, value = item.partition("=")
            if equals:
                options[key] = value
        return self._file(ComparedFile(str(path), str(path)), job.setting, network.seconds, options)[1]

    def _network(self, job: FitJob, path: Path, budget: Budget, *, force: bool) -> KeptNetwork:
        """Return what is known of the fitted file ``path``: of a network fitted before, or now."""
        work = self._work_of(job, budget)
        network = self._kept.find_network(work)
        if network is None or not network.allows(path):
            with StateFolder(path, self._encode_job(), force=force, on_note=self._kept.note) as state:
                state.prepare()  # what others have left there is cleared or set aside
            network = self._kept.keep_network(work, replaces=hash_file(path) if path.exists() else None)
        elif path.exists() and network.file == hash_file(path):
            # The process may have been killed when the file was whole and not all else removed.
            with StateFolder(path, self._encode_job(), force=True, on_note=self._kept.note) as state:
                state.finish()
            clear_abandoned(path)
            return network
        return self._continue_fit(job, path, budget, work, network, force=force)

    def _continue_fit(
        self, job: FitJob, path: Path, budget: Budget, work: Work, network: KeptNetwork, *, force: bool
    ) -> KeptNetwork:
        """Fit a network that was begun, from where its encode was interrupted."""
        # Unknown (None) where the process was killed, nothing where the fit left no state to continue.
        before = network.seconds if find_kept(partial_folder(path)) else 0.0
        show = self._events_of(f"{_curve_name(job.curve)}, {job.setting}")
        written: list[KeptNetwork] = []

        def spent(seconds: float) -> float | None:
            return None if before is None else before + seconds

        def on_event(event: Event) -> None:
            show(event)
            if isinstance(event, Written):
                known = {
                    "seconds": spent(event.seconds),
                    "file": hash_file(path),
                    "num_parameters": event.num_parameters,
                    "num_epochs": event.num_epochs,
                }
                written.append(self._kept.keep_network(work, replaces=network.replaces, **known))

        # Until the fit ends, nobody can say how long it took: the process may be killed.
        self._kept.keep_network(work, replaces=network.replaces)
        edit, options, started = self._reader.edit, self._reader.options, monotonic()
        try:
            encode(
                self._source,
                path,
                model=job.model,
                preset=job.preset,
                params=job.params,
                bpp=job.bpp,
                epochs=budget.epochs,
                time=budget.seconds,
                frames=(edit.first_frame, edit.stop_frame),
                crop=edit.crop,
                resize=edit.resize,
                bit_depth=COMPARED_BITS,
                stream=options.stream,
                pix_fmt=options.pixel_format,
                raw_size=options.raw_size,
                rate=options.rate,
                deinterlace=options.deinterlace,
                device=self._device,
                resume=True,
                seed=budget.seed,
                overrides=budget.overrides,
                force=force or path.exists(),
                on_event=on_event,
            )
        # Ctrl-C, too: what the fit has taken so far is part of its time when it continues.
        except BaseException:
            if not written:
                with held_back():
                    seconds = spent(monotonic() - started)
                    self._kept.keep_network(work, replaces=network.replaces, seconds=seconds)
            raise
        return written[-1]

    def _work_of(self, job: FitJob, budget: Budget) -> Work:
        device = str(resolve_device(self._device))
        return work_of_fit(job, overrides=budget.overrides, device=device)

    def _encode_job(self) -> EncodeJob:
        edit = self._reader.edit
        frames = (edit.first_frame, edit.stop_frame)
        return EncodeJob.of([self._source], frames=frames, crop=edit.crop, resize=edit.resize)

    # -- points ----------------------------------------------------------------------------------------------

    def _file(
        self, file: ComparedFile, setting: str, encode_seconds: float | None, options: Mapping[str, str]
    ) -> tuple[str, RDPoint]:
        """Return the curve's name and the point of a file; its audio is not counted."""
        with open_clip(file.source, device=self._device) as decoder:
            name = _curve_name(decoder.file.header.networks[0].model)

            def measure() -> tuple[RDPoint, Crops]:
                show = self._frames_of(f"{name}, {setting}")
                return self._measure_file(decoder, setting, encode_seconds, show)

            device = describe_threads(resolve_device(self._device))
            digest = _hash(file)
            work = work_of_file(digest, encode_seconds, device=device)
            point = self._point("vinr", name, setting, work, measure)
        # Where the file lies is no part of the work: the folder may have been moved.
        return name, replace(point, options={**options, "file": file.name, **point.options})

    def _measure_file(
        self,
        decoder: VideoDecoder,
        setting: str,
        encode_seconds: float | None,
        show: Callable[[int, int], None],
    ) -> tuple[RDPoint, Crops]:
        next(decoder.play([0]))  # the weights are read before the clock starts
        clock, keeper = StreamClock(), self._keeper()
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
            setting,
            quality,
            num_bytes=decoder.file.num_bytes - audio,
            num_pixels=decoder.spec.num_pixels,
            decode_fps=decoder.spec.num_frames / clock.seconds,
            encode_seconds=encode_seconds,
            options=options,
        )
        return point, keeper.crops

    def _point(
        self,
        kind: Kind,
        curve: str,
        setting: str,
        work: Work,
        measure: Callable[[], tuple[RDPoint, Crops]],
    ) -> RDPoint:
        """Return the kept point of ``work``, or measure and keep it."""
        kept = self._kept.find_point(work)
        point, crops = kept or measure()
        # A signal waits until the file of the point is whole.
        if kept is None:
            with held_back():
                self._kept.keep_point(work, point, crops)
        self.crops[curve, setting] = crops
        self.num_done += 1
        point = replace(point, setting=setting)
        self._so_far.setdefault(curve, (kind, []))[1].append(point)
        return point

    def _keeper(self) -> CropKeeper:
        return CropKeeper(self._shown, self._window)

    def _frames_of(self, text: str) -> Callable[[int, int], None]:
        def on_frame(done: int, total: int) -> None:
            self._show(text, done / total)

        return on_frame

    def _events_of(self, text: str) -> Callable[[Event], None]:
        def on_event(event: Event) -> None:
            if isinstance(event, RoundDone):
                detail = f"epoch {event.epochs_done:.1f}, {event.psnr_db:.2f} dB"
                self._show(f"{text}: {detail}", event.progress)

        return on_event

    def _show(self, text: str, share: float) -> None:
        """Pass on what share of all is done; each point counts the same."""
        if self._on_progress is not None:
            self._on_progress(text, (self.num_done + min(share, 1.0)) / max(self.num_points, 1))


def _hash(file: ComparedFile) -> str:
    if isinstance(file.source, bytes):
        return hash_bytes(file.source)
    return hash_file(Path(split_clip(file.source)[0]))


def _curve_name(model: str) -> str:
    return f"vinr {model}"
