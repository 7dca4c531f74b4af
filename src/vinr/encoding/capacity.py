"""What an encode will take, from rates that are measured here, or were measured on another machine.

::

    INPUT ─> plan: segments, networks ──────────────────────────┐
    a few frames and steps ─> rates: seconds per step, frame, … ┴─> time, CPU hours, GPU hours, bytes, memory

Nothing is guessed of machines: an estimate for GPUs needs rates of such a GPU.
"""

from __future__ import annotations

import sys
import time as clock
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Annotated, Final

import torch
from pydantic import Field, ValidationError

from vinr.config import default_model
from vinr.device import may_choose_threads, resolve_device, thread_count_restored
from vinr.encoding.assembly import side_bytes
from vinr.encoding.choice import describe_choice, is_open, model_ahead, model_of_rates
from vinr.encoding.foresee import Trial, foresee, try_network
from vinr.encoding.plan import (
    EncodePlan,
    QualityName,
    Target,
    bits_per_parameter,
    count_parameters,
    describe_threads,
    plan_encode,
)
from vinr.encoding.sound import sounds_of
from vinr.encoding.splitting import makespan
from vinr.encoding.trial import Costs
from vinr.errors import InputError, UsageError, argument
from vinr.fit import ignore
from vinr.fit.precision import resolve_precision
from vinr.settings import StoredValues, checked_arguments, first_problem
from vinr.units import SegmentLength, SizeLike, parse_bytes, parse_count, parse_seconds
from vinr.video.source import VideoReader, open_video
from vinr.video.spec import VideoSpec

Positive = Annotated[float, Field(gt=0)]

MAX_RATES_BYTES: Final = 1 << 16


class Rates(StoredValues):
    """What one worker was measured to take, and for what; ``vinr plan --json`` prints them."""

    device: str = Field(description="what computed, with its threads")
    is_gpu: bool = Field(description="whether that is a GPU")
    threads: int = Field(ge=1, description="CPU threads of the worker")
    model: str = Field(description="model whose steps were measured")
    parameters: int = Field(ge=1, description="parameters of one network")
    height: int = Field(ge=1, description="rows of the frames")
    width: int = Field(ge=1, description="columns of the frames")
    batch_size: int = Field(ge=1, description="frames per step")
    read_seconds_per_frame: Positive = Field(description="opening, decoding, editing and hashing a frame")
    seconds_per_step: Positive = Field(description="a step of the fit")
    code_seconds: Positive = Field(description="coding and opening a network once")
    measure_seconds_per_frame: Positive = Field(description="decoding and scoring a frame")
    memory_bytes: int = Field(ge=0, description="peak memory of the worker, frames of the segment aside")


@dataclass(frozen=True)
class CapacityReport:
    """What an encode will take. Times are in hours, ``wall_hours`` from begin to end.

    ``num_frames`` lie in ``num_segments`` of ``frames_per_segment``, whose networks store ``num_parameters``
    in all; ``num_workers`` fit them for ``epochs``. ``rates`` are the measured costs that all follows from.
    ``worker_hours`` are those that all workers are busy, together; ``cpu_hours`` are these times threads,
    ``gpu_hours`` those times GPUs per worker. ``num_bytes`` is the size of the file, ``memory_bytes`` the
    peak of one worker. ``fit_share`` is the share of fitting in what a worker does. ``notes`` say what the
    time is enough for.
    """

    num_frames: int
    num_segments: int
    frames_per_segment: int
    num_parameters: int
    num_workers: int
    wall_hours: float
    worker_hours: float
    cpu_hours: float
    gpu_hours: float
    num_bytes: int
    memory_bytes: int
    fit_share: float
    epochs: float
    rates: Rates
    notes: tuple[str, ...] = ()

    @property
    def steps_per_network(self) -> float:
        """Steps of the fit of each network."""
        return self.epochs * max(self.frames_per_segment / self.rates.batch_size, 1)


@checked_arguments()
def plan(
    source: str | PathLike[str],
    *,
    model: str | None = None,
    preset: str | None = None,
    params: int | str | None = None,
    size: int | str | None = None,
    quality: QualityName = "medium",
    epochs: int | None = None,
    time: float | str | None = None,
    frames: tuple[int | None, int | None] | None = None,
    crop: SizeLike | None = None,
    resize: SizeLike | None = None,
    segment: float | str | None = None,
    device: str = "auto",
    workers: int | None = None,
    gpus: int | None = None,
    rates: str | PathLike[str] | None = None,
    overrides: Sequence[str] = (),
) -> CapacityReport:
    """Return what an encode with these arguments will take.

    Parameters
    ----------
    source, model, preset, params, size, quality, epochs, time, frames, crop, resize, segment
        As for :func:`vinr.encode`.
    device, overrides
        As for :func:`vinr.encode`.
    workers
        Segments that are fitted at a time; 1 if None.
    gpus
        GPUs, one worker each: in place of ``workers``. Rates must be those of such a GPU.
    rates
        A JSON file of rates, as ``vinr plan --json`` prints them on another machine, in place of measuring
        them here for some seconds.

    Raises
    ------
    UsageError, InputError
        If something cannot be used, or the rates are not those of this encode.
    """
    for name, count in (("workers", workers), ("gpus", gpus)):
        if count is not None and count < 1:
            raise UsageError(f"{argument(name)} {count}: give a positive number")
    if workers is not None and gpus is not None:
        raise UsageError(
            f"{argument('workers')} and {argument('gpus')} exclude each other: each GPU is a worker; give one"
        )
    known = None if rates is None else read_rates(Path(fspath(rates)))
    may_choose = is_open(model=model, preset=preset, time=time, overrides=overrides)
    of_rates = model_of_rates(known.model, default_model()) if known is not None and may_choose else None
    model = model or of_rates
    started = clock.monotonic()
    with open_video(fspath(source), frames=frames, crop=crop, resize=resize) as reader:
        plan_model = partial(
            plan_encode,
            [reader.spec],
            preset=preset,
            num_parameters=None if params is None else parse_count(params),
            epochs=epochs,
            seconds=None if time is None else parse_seconds(time),
            segment=None if segment is None else SegmentLength.of(segment),
            quality=quality,
            target=Target(None if size is None else parse_bytes(size)),
            overrides=overrides,
        )
        estimator = _Estimator(reader, plan_model, known, device, workers, gpus, clock.monotonic() - started)
        report = estimator.report(model)
        if of_rates is not None:
            named = argument("model", of_rates)
            note = f"the rates are of {of_rates}; give {named} to the encode, too, or it chooses by its time"
            return replace(report, notes=(*report.notes, note))
        if model is not None or preset is not None:
            return report
        default, steps = report.rates.model, report.steps_per_network
        chosen = model_ahead(default, steps=steps, num_frames=report.frames_per_segment)
        if chosen is None:
            return report
        if known is not None or not may_choose:
            advice = (
                f"with so much time {argument('model', chosen)} should reach more at the same size; "
                "its files take longer to decode"
            )
            return replace(report, notes=(*report.notes, advice))
        other = estimator.report(chosen)
    return replace(other, notes=(describe_choice(default, chosen, steps), *other.notes))


@dataclass(frozen=True)
class _Estimator:
    """Estimates encodes of one open video that differ by their model alone.

    ``plan`` plans an encode of a model, ``known`` are rates that need not be measured, ``opening`` the
    seconds that it took to open the video. The rest are arguments of :func:`plan`.
    """

    reader: VideoReader
    plan: Callable[..., EncodePlan]
    known: Rates | None
    device: str
    workers: int | None
    gpus: int | None
    opening: float

    def report(self, model: str | None) -> CapacityReport:
        """Return what an encode by ``model`` takes; None: by the one that its preset or the default names."""
        reader, started = self.reader, clock.monotonic()
        planned = self.plan(model=model)
        opening = self.opening + clock.monotonic() - started
        rates = self._rates(planned)
        num_workers, notes = self.gpus or self.workers or 1, list[str]()
        if planned.seconds is not None:
            trial = _as_trial(rates, planned, reader.spec)
            foreseen = foresee(
                planned,
                [reader.spec],
                lambda: trial,
                num_slots=num_workers,
                on_this_cpu=False,
                started=clock.monotonic() - opening,
                decided=None,
                reference=False,
                on_event=ignore,
            )
            planned, notes = foreseen.plan, foreseen.notes()
        if self.known is not None and self.device != "auto":
            given = argument("device", self.device)
            notes.append(f"{given} has no effect: {argument('rates')} have been measured")
        with sounds_of([reader], None, wanted=planned.presets[0].compress.audio) as sounds:
            others = side_bytes([reader], sounds)
        report = estimate(planned, reader.spec, rates, num_workers, other_bytes=others, opening=opening)
        return replace(report, notes=tuple(notes))

    def _rates(self, planned: EncodePlan) -> Rates:
        """Return the rates of a worker: those known, or measured now."""
        rates = self.known or measure_rates(planned, self.reader, resolve_device(self.device))
        _check_rates(rates, planned, self.reader.spec)
        if self.gpus is not None and not rates.is_gpu:
            raise UsageError(
                f"{argument('gpus')} {self.gpus}: these rates are those of {rates.device}; measure them "
                f"where such a GPU is ({argument('device')} cuda), and give them as {argument('rates')}"
            )
        return rates


def estimate(
    planned: EncodePlan,
    spec: VideoSpec,
    rates: Rates,
    num_workers: int,
    *,
    other_bytes: int = 0,
    opening: float = 0.0,
) -> CapacityReport:
    """Return what ``planned`` takes on workers of ``rates``.

    ``opening`` are seconds before the first segment, ``other_bytes`` those of the file that are no networks.
    """
    seconds, fitting, steps_done, num_parameters = [], 0.0, 0.0, 0
    for number, job in enumerate(planned.jobs):
        preset, count = planned.presets[number], job.spec([spec]).num_frames
        fixed = count * (rates.read_seconds_per_frame + rates.measure_seconds_per_frame) + rates.code_seconds
        steps_per_epoch = max(count / preset.fit.batch_size, 1)
        if planned.seconds is None:
            steps = preset.fit.epochs * steps_per_epoch
        else:
            # The time of the plan is that of all workers together: each segment gets its share of it.
            share = makespan([each.share for each in planned.jobs], num_workers)
            allowed = planned.seconds * job.share / share
            steps = max(allowed - fixed, 0.0) / rates.seconds_per_step
        seconds.append(fixed + steps * rates.seconds_per_step)
        fitting += steps * rates.seconds_per_step
        steps_done += steps / steps_per_epoch
        num_parameters += rates.parameters
    busy = sum(seconds)
    network_bytes = planned.network_bytes
    if network_bytes is None:
        num_bytes = round(num_parameters * bits_per_parameter(planned.presets[0]) / 8)
    else:
        num_bytes = sum(network_bytes)
    longest = max(job.spec([spec]).num_frames for job in planned.jobs)
    frame_bytes = (3 if spec.bit_depth == 8 else 6) * spec.height * spec.width
    return CapacityReport(
        num_frames=spec.num_frames,
        num_segments=len(planned.jobs),
        frames_per_segment=longest,
        num_parameters=num_parameters,
        num_workers=num_workers,
        wall_hours=(opening + makespan(seconds, num_workers)) / 3600,
        worker_hours=busy / 3600,
        cpu_hours=busy * rates.threads / 3600,
        gpu_hours=busy / 3600 if rates.is_gpu else 0.0,
        num_bytes=num_bytes + other_bytes,
        memory_bytes=rates.memory_bytes + longest * frame_bytes,
        fit_share=fitting / busy,
        epochs=steps_done / len(planned.jobs),
        rates=rates,
    )


def measure_rates(planned: EncodePlan, reader: VideoReader, device: torch.device) -> Rates:
    """Return the rates of a worker on ``device``, tried as before an encode."""
    preset, spec = planned.presets[0], reader.spec
    precision = resolve_precision(preset.fit.precision, device)
    with thread_count_restored():
        choose = may_choose_threads(device)
        trial = try_network(planned.jobs[0], preset, {0: reader}, device, precision, choose_threads=choose)
        threads, words = torch.get_num_threads(), describe_threads(device)
    costs = trial.costs
    return Rates(
        device=words,
        is_gpu=device.type == "cuda",
        threads=threads,
        model=preset.model,
        parameters=_count_parameters(planned, spec),
        height=spec.height,
        width=spec.width,
        batch_size=preset.fit.batch_size,
        read_seconds_per_frame=trial.read,
        seconds_per_step=costs.step,
        code_seconds=costs.build + costs.code,
        measure_seconds_per_frame=costs.freeze + costs.frame,
        memory_bytes=_peak_bytes(device),
    )


def _as_trial(rates: Rates, planned: EncodePlan, spec: VideoSpec) -> Trial:
    """Return what a trial would find on a machine of these rates."""
    count, batch = planned.jobs[0].spec([spec]).num_frames, planned.presets[0].fit.batch_size
    frame = rates.measure_seconds_per_frame
    costs = Costs(0.0, rates.seconds_per_step, 0.0, rates.code_seconds, frame, max(round(count / batch), 1))
    return Trial(costs, rates.read_seconds_per_frame)


def _peak_bytes(device: torch.device) -> int:
    """Return the peak memory of this process, or of what it has on a GPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _count_parameters(planned: EncodePlan, spec: VideoSpec) -> int:
    """Return what the first network stores."""
    return count_parameters(replace(planned, jobs=planned.jobs[:1], presets=planned.presets[:1]), [spec])


def read_rates(path: Path) -> Rates:
    """Return the rates in a JSON file: those alone, or all that ``vinr plan --json`` prints.

    Raises
    ------
    InputError
        If the file holds no rates.
    """
    import json

    try:
        with open(path, "rb") as file:
            document = json.loads(file.read(MAX_RATES_BYTES))
        if isinstance(document, dict) and "rates" in document:
            document = document["rates"]
        return Rates.model_validate(document)
    except ValidationError as error:
        reason = first_problem(error)
    except (OSError, ValueError, RecursionError) as error:
        reason = str(getattr(error, "strerror", None) or error)
    raise InputError(f"{path}: holds no rates ({reason}); `vinr plan` prints them as JSON")


def _check_rates(rates: Rates, planned: EncodePlan, spec: VideoSpec) -> None:
    """Refuse rates of another network or other frames."""
    preset = planned.presets[0]
    here = (preset.model, _count_parameters(planned, spec), spec.height, spec.width, preset.fit.batch_size)
    there = (rates.model, rates.parameters, rates.height, rates.width, rates.batch_size)
    if here != there:
        names = ("model", "parameters", "rows", "columns", "batch size")
        differs = next(number for number in range(len(names)) if here[number] != there[number])
        raise UsageError(
            f"the rates are those of {names[differs]} {there[differs]}, this encode has {here[differs]}; "
            "measure them with the same settings"
        )
