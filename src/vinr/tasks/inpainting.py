"""Filling masked pixels of a video with what a network makes of the others.

::

    video, mask ──> fit, masked pixels left out ──> the network's frames ─┬─> masked pixels ─┬─> output
                └─────────────────────────────────────────────────────────┴─> all others ────┘

A moved copy of the mask is left out of the fit too; there the filling is measured (:mod:`.held_out`).

Axes: N frames of a batch, T frames of the video, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import time as clock
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from os import PathLike, fspath
from statistics import fmean
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vinr.device import gradients_on, resolve_device
from vinr.encoding.encode import counted_from
from vinr.encoding.plan import EncodePlan, describe_threads, plan_encode
from vinr.encoding.sound import sounds_of
from vinr.errors import InputError, format_frame, plural
from vinr.fit import Event, FitResult, Noted, Task, fit, ignore
from vinr.fit.budget import RESERVE_EPOCHS, Reserve
from vinr.fit.precision import Precision, PrecisionName, resolve_precision
from vinr.models import VideoModel
from vinr.settings import checked_arguments
from vinr.tasks.frames import FilledFrames, FittedFrames, MaskedFrames, plain_fit, psnr_of_frames_db
from vinr.tasks.held_out import HeldOutPsnr, hold_out_copy, join_masks, mean_held_out, measure_copy
from vinr.tasks.masks import MaskReader, open_masks
from vinr.tasks.neighbours import find_neighbours, mix_latents
from vinr.units import SizeLike, parse_count, parse_seconds
from vinr.video.reading import ReadOptions
from vinr.video.sink import Sink, open_sink
from vinr.video.source import VideoReader, open_video
from vinr.video.spec import FrameSource, VideoSpec


@dataclass(frozen=True, eq=False)
class Inpaint(Task):
    """Leave masked pixels out: weight 0 in the loss, black to encoders (HNeRV).

    Every term of the loss compares both images with masked pixels black, so that windows of SSIM and waves of
    the Fourier transform that reach across a mask see the same there. A frame masked altogether is not
    trained on; its latents are mixed from those of its neighbours in time.

    Parameters
    ----------
    mask_T1HW
        Bool, True where a pixel is masked.

    Raises
    ------
    InputError
        If every pixel is masked; later, if the frames differ from the mask in number or size.
    """

    mask_T1HW: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        if self.mask_T1HW.dtype != torch.bool or self.mask_T1HW.ndim != 4 or self.mask_T1HW.shape[1] != 1:
            raise ValueError(f"a mask is bool (T, 1, H, W), got {self.mask_T1HW.dtype} {self._size}")
        if bool(self.mask_T1HW.all()):
            raise InputError("the mask covers every pixel of every frame: nothing is left to fit")

    @property
    def _size(self) -> tuple[int, ...]:
        return tuple(self.mask_T1HW.shape)

    def describe(self) -> str:
        """See :meth:`Task.describe`."""
        # A mask belongs to what a checkpoint is for: one bit a pixel, whatever device it lies on.
        bits = np.packbits(self.mask_T1HW.cpu().numpy()).tobytes()
        return f"inpaint {self._size} {hashlib.sha256(bits).hexdigest()}"

    def training_frames(self, spec: VideoSpec) -> Tensor:
        """Frames that have a pixel left."""
        # (T, 1, H, W) ─> (T, H · W) ─> (T,) ─> numbers of the frames
        return (~self.mask_T1HW).flatten(1).any(1).nonzero().flatten()

    def target(self, source: FrameSource) -> FrameSource:
        """The frames as they are; masked pixels weigh nothing."""
        spec = source.spec
        if self._size != (spec.num_frames, 1, spec.height, spec.width):
            count, _, height, width = self._size
            raise InputError(
                f"the mask has {plural(count, 'frame')} of {format_frame(height, width)}, the video "
                f"{spec.num_frames} of {spec.width}×{spec.height}; give a mask of the same size"
            )
        return source

    def visible(self, source: FrameSource) -> FrameSource:
        """The frames, masked pixels black."""
        return MaskedFrames(source, self.mask_T1HW)

    def weight(self, index_N: Tensor) -> Tensor | None:
        """0 where masked, else 1."""
        # The mask stays where it is, as a bit a pixel of all frames; only the batch's part is moved.
        mask_N1HW = self.mask_T1HW[index_N.to(self.mask_T1HW.device)]
        return (~mask_N1HW).to(index_N.device, torch.float32)

    def complete(self, model: VideoModel) -> None:
        """Mix latents for frames that are masked altogether."""
        trained_N = self.training_frames(model.video)
        mix_latents(model, find_neighbours(model.video.span_lengths, trained_N))


@dataclass(frozen=True)
class InpaintReport:
    """What an inpainting wrote: ``num_frames`` frames to ``path``.

    The network is a ``model`` of ``num_parameters``, fitted for ``num_epochs`` (fell back ``num_collapses``
    times) in ``seconds`` of wall-clock time, everything included. ``visible_psnr_db`` is its PSNR at pixels
    that it was fitted to.

    The quality of the filled pixels cannot be measured: nobody knows them. ``held_out`` is that of a copy of
    the mask on known pixels that the fit did not see either, beside ways that need no network; None where no
    copy was held out. ``masked_share`` is of all pixels, ``precision`` is the arithmetic of the fit.
    """

    path: str
    num_frames: int
    masked_share: float
    visible_psnr_db: float
    model: str
    num_parameters: int
    num_epochs: float
    num_collapses: int
    seconds: float
    precision: PrecisionName = "fp32"
    held_out: HeldOutPsnr | None = None


@checked_arguments()
@gradients_on()
def inpaint(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    mask: str | PathLike[str],
    model: str | None = None,
    preset: str | None = None,
    params: int | str | None = None,
    epochs: int | None = None,
    time: float | str | None = None,
    frames: tuple[int | None, int | None] | None = None,
    crop: SizeLike | None = None,
    resize: SizeLike | None = None,
    stream: int | None = None,
    pix_fmt: str | None = None,
    raw_size: SizeLike | None = None,
    rate: Fraction | float | str | None = None,
    deinterlace: bool = False,
    all_pixels: bool = False,
    bit_depth: Literal[8, 10] | None = None,
    codec: str | None = None,
    crf: int | None = None,
    device: str = "auto",
    seed: int | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
    on_event: Callable[[Event], None] = ignore,
) -> InpaintReport:
    """Fit a network to the pixels of a video that are not masked, and write the video with the others filled.

    Parameters
    ----------
    source
        A video, as for :func:`vinr.encode`.
    output
        .mp4, .mkv, .y4m, a folder or pattern of PNGs, or ``-``. It appears whole or not at all.
    mask
        What is filled; see :func:`vinr.tasks.masks.open_mask`.
    model, preset, params, epochs, time, frames, crop, resize, bit_depth, device, seed, overrides, on_event
        As for :func:`vinr.encode`.
    stream, pix_fmt, raw_size, rate, deinterlace
        As for :func:`vinr.encode`.
    all_pixels
        Write the network's whole frames; else pixels that are not masked stay what they were. Nothing is held
        out then: the network is fitted to all that is not masked, and ``held_out`` is None.
    codec, crf, force
        As for :func:`vinr.decode`.

    Raises
    ------
    UsageError, InputError, OutputError
        Before any fitting, if something cannot be used.
    FitError
        If a fit collapses again and again.
    """
    started = counted_from()
    options = ReadOptions.of(
        stream=stream,
        pix_fmt=pix_fmt,
        raw_size=raw_size,
        rate=rate,
        deinterlace=deinterlace,
        bit_depth=bit_depth,
    )
    with ExitStack() as opened:
        reader = opened.enter_context(
            open_video(fspath(source), crop=crop, resize=resize, frames=frames, options=options)
        )
        for note in reader.notes:
            on_event(Noted(note))
        # The mask comes before the plan, and the sink before the fit: what is refused is refused at once.
        masks = opened.enter_context(
            open_masks(fspath(mask), reader, frames=frames, on_note=lambda text: on_event(Noted(text)))
        )
        plan = plan_encode(
            [reader.spec],
            model=model,
            preset=preset,
            num_parameters=None if params is None else parse_count(params),
            epochs=epochs,
            seconds=None if time is None else parse_seconds(time),
            seed=seed,
            overrides=overrides,
        )
        _check_segments(plan, masks)
        target_device = resolve_device(device)
        precision = resolve_precision(plan.presets[0].fit.precision, target_device)
        work = _Work(plan, masks, target_device, precision, all_pixels, started, on_event)
        target = fspath(output)
        wanted = plan.presets[0].compress.audio
        with (
            sounds_of([reader], None, wanted=wanted) as (audio,),
            open_sink(
                target, reader.spec, reader.timeline, audio=audio, codec=codec, crf=crf, force=force
            ) as sink,
        ):
            told = (*reader.audio_notes, *sink.notes)
            for note in told:
                on_event(Noted(note))
            on_event(Noted(f"{plan}, on {describe_threads(work.device)}, {precision}"))
            filled = [work.segment(number, reader, sink) for number in range(len(plan.jobs))]
        # Some notes come at the end: only the finished file tells whether the shape of pixels is stated.
        for note in sink.notes:
            if note not in told:
                on_event(Noted(note))
    return _report(target, reader.spec, masks, work, filled)


def _report(
    path: str, spec: VideoSpec, masks: MaskReader, work: _Work, filled: Sequence[_Filled]
) -> InpaintReport:
    """Put the segments together; say where the network is worse than nothing but the surroundings."""
    held_out = mean_held_out([part.held_out for part in filled if part.held_out is not None])
    if held_out is not None and held_out.behind is not None:
        work.on_event(
            Noted(f"{held_out.behind}, in a held-out copy of the mask; fit longer or try another model")
        )
    plan = work.plan
    # Segments may be of different lengths: a longer one counts more.
    shares = [job.share for job in plan.jobs]
    return InpaintReport(
        path=path,
        num_frames=spec.num_frames,
        masked_share=masks.share,
        visible_psnr_db=fmean(psnr_db for part in filled for psnr_db in part.visible_psnr_db),
        model=plan.presets[0].model,
        num_parameters=sum(part.result.model.num_stored() for part in filled),
        num_epochs=fmean([part.result.num_epochs for part in filled], shares),
        num_collapses=sum(part.result.num_collapses for part in filled),
        seconds=clock.monotonic() - work.started,
        precision=work.precision.name,
        held_out=held_out,
    )


def _check_segments(plan: EncodePlan, masks: MaskReader) -> None:
    """Refuse a mask that leaves a whole segment without a pixel to fit: before the first one is fitted."""
    for job in plan.jobs:
        (span,) = job.spans
        last = span.first_frame + span.num_frames - 1
        if masks.covers(span.first_frame, last + 1):
            raise InputError(
                f"the mask covers every pixel of frames {span.first_frame} to {last}, fitted together: "
                "nothing is left to fit; leave these frames out with frames, or mask less of them"
            )


@dataclass(frozen=True, eq=False)
class _Filled:
    """A segment that was written: its fit, and how good it is where that is known."""

    result: FitResult
    visible_psnr_db: tuple[float, ...]
    held_out: HeldOutPsnr | None


@dataclass(frozen=True)
class _Work:
    """Fitting the segments of a plan, and writing them."""

    plan: EncodePlan
    masks: MaskReader
    device: torch.device
    precision: Precision
    all_pixels: bool
    started: float
    on_event: Callable[[Event], None]

    def segment(self, number: int, reader: VideoReader, sink: Sink) -> _Filled:
        """Fit, write and measure a segment."""
        job = self.plan.jobs[number]
        (span,) = job.spans  # one clip is cut into segments, never joined
        stop = span.first_frame + span.num_frames
        # Opening, the mask and planning happened once: the first segment pays for them.
        began = self.started if number == 0 else clock.monotonic()
        frames = reader.read(span.first_frame, stop)
        mask_T1HW = self.masks.read(span.first_frame, stop)
        # With ``all_pixels`` the network's pixels are written there, too: nothing may be kept from it.
        copy_T1HW = None if self.all_pixels else hold_out_copy(mask_T1HW)
        hidden_T1HW = mask_T1HW if copy_T1HW is None else join_masks(mask_T1HW, copy_T1HW)
        result = fit(
            frames,
            plain_fit(self.plan.presets[number]),
            Inpaint(hidden_T1HW),
            device=self.device,
            on_event=self.on_event,
            seconds=self._seconds_left(number, began),
            # Writing and measuring decode every frame: forward passes alone, so less than an epoch each.
            reserve=Reserve(epochs=RESERVE_EPOCHS),
            precision=self.precision,
        )
        fitted = FittedFrames(result.model, frames.spec)
        written = fitted if self.all_pixels else FilledFrames(frames, fitted, mask_T1HW)
        # One by one: a segment at full size need not be in memory twice.
        for index in range(span.num_frames):
            sink.write(written.frames(torch.tensor([index])))
        every_T = torch.arange(span.num_frames)
        return _Filled(
            result,
            psnr_of_frames_db(fitted, frames, every_T, ~hidden_T1HW),
            None if copy_T1HW is None else measure_copy(frames, fitted, mask_T1HW, copy_T1HW),
        )

    def _seconds_left(self, number: int, began: float) -> float | None:
        """Return what is left of the time of a segment, its share, that counts from ``began``."""
        if self.plan.seconds is None:
            return None
        spent = clock.monotonic() - began
        return max(self.plan.seconds * self.plan.jobs[number].share - spent, 1.0)
