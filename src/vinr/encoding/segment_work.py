"""The work on one segment: its frames are fitted, coded, decoded again and measured.

::

    readers ─> frames ─> fit ─> quantise, code ─> decode, measure ─> FOLDER/segment-%05d.safetensors
                          └─ checkpoint: FOLDER/fit-%05d.safetensors

The work holds plain settings alone, so that it can be sent to another process; readers are opened where it
runs.
"""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from vinr.compress import PackedTensors, pack_tensors
from vinr.compress.rescale import bisect_largest, pack_at, pack_to_size
from vinr.config import Preset
from vinr.encoding.assembly import FinishedSegment, weights_of
from vinr.encoding.kept import fit_path, segment_path
from vinr.encoding.plan import EncodePlan
from vinr.encoding.segment import FittedSegment, load_segment, save_segment
from vinr.encoding.splitting import Job
from vinr.errors import OutputError
from vinr.fit import (
    Event,
    FitResult,
    FramesDone,
    NotKept,
    Reconstruct,
    Reserve,
    StageBegun,
    fit,
)
from vinr.fit.budget import NO_RESERVE
from vinr.fit.fingerprint import fingerprint_of
from vinr.fit.precision import Precision
from vinr.quality.clip import compare
from vinr.state.interruption import held_back
from vinr.video.source import FrameTensor, VideoReader

# Where reading took longer than foreseen, a step is done all the same.
LEAST_LEFT: Final = 0.01
# Trials of coarser or finer steps for a network that is better or worse than its target; each decodes the
# video. What is to spare less than this is left, and steps become a fourth at most.
COARSER_TRIALS: Final = 8
SPARE_DB: Final = 0.02
FINEST_TRIED: Final = -0.35


@dataclass(frozen=True)
class Allowance:
    """The wall-clock time of one segment: ``seconds`` from the reading ``began`` of ``time.monotonic()``.

    ``reserve`` of them is left for what follows the fit.

    ::

        began                     now                                     began + seconds
          |-- reading, planning --|---- building, fit ----|-- coding, scoring: reserve --|
    """

    seconds: float
    began: float
    reserve: Reserve = NO_RESERVE

    def left(self) -> float:
        """Return the seconds from now on that fit and reserve may take, a little at least."""
        passed = clock.monotonic() - self.began
        return max(self.seconds - passed, LEAST_LEFT)


@dataclass(frozen=True)
class SegmentWork:
    """Fitting and coding segment ``number`` of a plan; its result and its checkpoint are kept in ``folder``.

    ``num_bytes`` is the target of the network, None if there is none. ``plan_seconds`` is the time of the
    whole plan, to which a kept state belongs; None where epochs are counted.
    """

    number: int
    job: Job
    preset: Preset
    num_bytes: int | None
    plan_seconds: float | None
    precision: Precision
    folder: Path
    resume: bool

    @classmethod
    def of(
        cls, plan: EncodePlan, number: int, *, precision: Precision, folder: Path, resume: bool
    ) -> SegmentWork:
        """Return the work on segment ``number`` of ``plan``."""
        num_bytes = None if plan.network_bytes is None else plan.network_bytes[number]
        job, preset = plan.jobs[number], plan.presets[number]
        return cls(number, job, preset, num_bytes, plan.seconds, precision, folder, resume)

    def run(
        self,
        readers: Mapping[int, VideoReader],
        *,
        device: torch.device,
        allowance: Allowance | None,
        on_event: Callable[[Event], None],
        before: FinishedSegment | None = None,
    ) -> FinishedSegment:
        """Fit, code and measure the segment, unless it is kept already; return what is said of it.

        Parameters
        ----------
        readers
            Those of the clips of its spans, by number.
        allowance
            The time for everything here; None where epochs are counted.
        before
            The segment before this one, whose network ``fit.warm_start`` begins with.
        """
        spec = self.job.spec({number: reader.spec for number, reader in readers.items()})
        on_event(StageBegun("reading"))
        frames = FrameTensor(_read_spans(self.job, readers), spec)
        finished, checkpoint = segment_path(self.folder, self.number), fit_path(self.folder, self.number)
        initial = None
        if before is not None and self.preset.fit.warm_start:
            initial = weights_of(before, spec)
        fingerprint = fingerprint_of(frames, self.preset, Reconstruct(), self.plan_seconds, initial)
        if self.resume and finished.exists():
            return FinishedSegment.of(load_segment(finished, fingerprint, frames.spec), self.job, finished)
        on_event(StageBegun("fitting"))
        result = fit(
            frames,
            self.preset,
            device=device,
            on_event=on_event,
            checkpoint=checkpoint,
            resume=self.resume,
            seconds=None if allowance is None else allowance.left(),
            reserve=NO_RESERVE if allowance is None else allowance.reserve,
            precision=self.precision,
            fingerprint=fingerprint,
            initial=initial,
        )
        on_event(StageBegun("coding"))
        segment = self.code(result, frames, device, on_event)
        with held_back():
            try:
                save_segment(segment, finished, fingerprint)
            except OutputError as error:
                on_event(NotKept(str(error)))
                return FinishedSegment.of(segment, self.job, None)
            checkpoint.unlink(missing_ok=True)
        return FinishedSegment.of(segment, self.job, finished)

    def code(
        self,
        result: FitResult,
        frames: FrameTensor,
        device: torch.device,
        on_event: Callable[[Event], None],
    ) -> FittedSegment:
        """Return the coded network with the quality of the frames that it decodes to."""
        preset = self.preset

        def measured(packed: PackedTensors) -> FittedSegment:
            segment = FittedSegment.of(preset, result, packed, frames.spec)
            on_event(StageBegun("measuring"))
            with segment.open(frames.spec, str(device)) as decoder:
                quality = compare(decoder, frames, on_frame=lambda *done: on_event(FramesDone(*done)))
            return segment.measured(quality)

        stored, settings, steps = result.model.stored(), preset.compress, result.steps
        if self.num_bytes is not None:
            keyframes = result.model.keyframes
            left = self.num_bytes - (0 if keyframes is None else keyframes.num_bytes)
            may_refine = preset.fit.phases[-1].fix_from is None
            return measured(pack_to_size(stored, settings, left, steps=steps, may_refine=may_refine))
        target_db = preset.fit.phases[-1].target_psnr_db if preset.fit.phases else None
        if target_db is None:
            return measured(pack_tensors(stored, settings, steps=steps))
        return coded_to_quality(
            lambda amount: measured(pack_at(stored, settings, amount, steps=steps)), target_db
        )


def coded_to_quality(coded: Callable[[float], FittedSegment], target_db: float) -> FittedSegment:
    """Return the segment coded as coarsely as keeps to ``target_db``; as fitted, if nothing reaches that.

    ``coded`` codes by an amount of :func:`pack_at` and measures, which decodes the video: a few times at
    most.
    """
    # Trials are kept, so that the chosen one is not coded and measured again.
    segments = {0.0: coded(0.0)}

    def is_good(amount: float) -> bool:
        segments[amount] = coded(amount)
        return segments[amount].psnr_db >= target_db

    # −1 finer ──── FINEST_TRIED ── as fitted: 0 ──────────── 1 coarser
    if target_db <= segments[0.0].psnr_db <= target_db + SPARE_DB:
        return segments[0.0]
    if segments[0.0].psnr_db > target_db:
        return segments[bisect_largest(is_good, low=0.0, num_trials=COARSER_TRIALS)]
    if not is_good(FINEST_TRIED):
        return segments[0.0]  # bytes would be spent for a target that is missed all the same
    chosen = bisect_largest(is_good, low=FINEST_TRIED, high=0.0, num_trials=COARSER_TRIALS - 1)
    return segments[chosen]


def _read_spans(job: Job, readers: Mapping[int, VideoReader]) -> Tensor:
    """Return the frames of a network, rgb_NCHW, those of its spans one after another."""
    parts = []
    for span in job.spans:
        frames = readers[span.clip].read(span.first_frame, span.first_frame + span.num_frames)
        parts.append(frames.rgb_NCHW)
    # A single span, the usual case, is not copied; of several the parts are freed on return, before the fit.
    return parts[0] if len(parts) == 1 else torch.cat(parts)
