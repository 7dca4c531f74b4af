"""Runs what a comparison consists of, point by point.

Axes: N frames of a batch, C colour channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, final

import torch
from torch import Tensor

from vinr.bitstream import SectionKind
from vinr.comparison.anchor_runs import choose_upsampling, measure_anchor
from vinr.comparison.anchor_streams import library_versions
from vinr.comparison.page import busiest_window
from vinr.comparison.plan import Budget, FitJob, Sweep
from vinr.comparison.rd import RDCurve, RDPoint
from vinr.decoding.file import open_clip
from vinr.decoding.streams import CropKeeper, StreamClock
from vinr.device import resolve_device
from vinr.encoding.encode import encode
from vinr.encoding.plan import describe_threads
from vinr.fit import Event, RoundDone
from vinr.quality.clip import compare
from vinr.video.source import VideoReader
from vinr.video.spec import FrameBatch, FrameStream

Progress = Callable[[str, float], None]
"""Takes what is being done, and the share of all that is done, 0 to 1."""

Crops = dict[int, Tensor]
"""uint8 rgb_CHW by frame number."""

CROP_SIDE: Final = 160
CROP_TIMES: Final = (0.25, 0.75)


@final
class Runner:
    """Measures files and codecs against the frames of ``reader``; ``crops`` are kept by curve and setting."""

    def __init__(
        self, source: str, reader: VideoReader, *, device: str, num_points: int, on_progress: Progress | None
    ) -> None:
        self._source, self._reader, self._device = source, reader, device
        self._num_points, self._num_done, self._on_progress = num_points, 0, on_progress
        self._show("reading", 0.0)
        count = reader.spec.num_frames
        self._shown = sorted({int(count * part) for part in CROP_TIMES})
        originals_NCHW = reader.frames(torch.tensor(self._shown))
        self._window = busiest_window(originals_NCHW[0], CROP_SIDE)
        self.upsampling = choose_upsampling(reader)
        self.crops: dict[tuple[str, str], Crops] = {}
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
            points = []
            for quality in qualities:
                setting = anchor.setting(quality, width=self._reader.spec.width)
                keeper = self._keeper()
                points.append(
                    measure_anchor(
                        anchor,
                        quality,
                        self._reader,
                        upsampling=self.upsampling,
                        watch=keeper.watch,
                        on_frame=self._frames_of(f"{anchor.name}, {setting}"),
                    )
                )
                self.crops[anchor.name, setting] = keeper.crops
                self._num_done += 1
            curves.append(RDCurve(anchor.name, "anchor", tuple(points), library_versions(anchor)))
        return curves

    def networks(
        self, files: Sequence[str], jobs: Sequence[FitJob], folder: Path, budget: Budget, *, force: bool
    ) -> list[RDCurve]:
        """Return a curve for each model, of ``files`` and of networks fitted now and kept in ``folder``."""
        points: dict[str, list[RDPoint]] = {}
        for file in files:
            model, point = self._file(file, Path(file).name, None, {})
            points.setdefault(model, []).append(point)
        for job in jobs:
            points.setdefault(_curve_name(job.curve), []).append(self._fit(job, folder, budget, force=force))
        where = f"vinr on {describe_threads(resolve_device(self._device))}"
        return [RDCurve(name, "vinr", tuple(measured), where) for name, measured in points.items()]

    def _fit(self, job: FitJob, folder: Path, budget: Budget, *, force: bool) -> RDPoint:
        folder.mkdir(exist_ok=True)
        edit = self._reader.edit
        report = encode(
            self._source,
            folder / job.file_name,
            model=job.model,
            preset=job.preset,
            params=job.params,
            bpp=job.bpp,
            epochs=budget.epochs,
            time=budget.seconds,
            frames=(edit.first_frame, edit.stop_frame),
            crop=edit.crop,
            resize=edit.resize,
            device=self._device,
            seed=budget.seed,
            overrides=budget.overrides,
            force=force,
            on_event=self._events_of(f"{_curve_name(job.curve)}, {job.setting}"),
        )
        options = {
            "parameters": str(report.num_parameters),
            "epochs": f"{report.num_epochs:.1f}",
            **dict(item.split("=", 1) for item in budget.overrides if "=" in item),
        }
        return self._file(report.path, job.setting, report.seconds, options)[1]

    def _file(
        self, file: str, setting: str, encode_seconds: float | None, options: dict[str, str]
    ) -> tuple[str, RDPoint]:
        """Return the curve's name and the point of a file; its audio is not counted."""
        with open_clip(file, device=self._device) as decoder:
            name = _curve_name(decoder.file.header.networks[0].model)
            next(decoder.play([0]))  # the weights are read before the clock starts
            clock, keeper = StreamClock(), self._keeper()
            stream = keeper.watch(clock.watch(decoder.stream()))
            show = self._frames_of(f"{name}, {setting}")
            quality = compare(stream, self._reader, yuv=True, on_frame=show)
            extra = {"decoding": "; ".join(decoder.notes)} if decoder.notes else {}
            audio = 0
            for section in decoder.file.sections:
                if section.kind is SectionKind.AUDIO:
                    audio += section.num_bytes
            if audio:
                extra["audio left out"] = f"{audio} bytes"
            point = RDPoint.measured(
                setting,
                quality,
                num_bytes=decoder.file.num_bytes - audio,
                num_pixels=decoder.spec.num_pixels,
                decode_fps=decoder.spec.num_frames / clock.seconds,
                encode_seconds=encode_seconds,
                options={**options, "file": file, **extra},
            )
        self.crops[name, setting] = keeper.crops
        self._num_done += 1
        return name, point

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
            self._on_progress(text, (self._num_done + min(share, 1.0)) / max(self._num_points, 1))


def _curve_name(model: str) -> str:
    return f"vinr {model}"
