"""A fit of rank 0 on all ranks: what it sends the others, and what they do.

::

    rank 0    plan ──> fit() ──> job, frames ──> steps ──> code, measure, write ──> next fit, or the end
                                      │            │
    others    wait ──────────────> a Trainer ──> steps ──> wait ──────────────────> …

The others need no inputs, options or outputs of their own, and say nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch

from vinr.config import Preset
from vinr.device import gradients_on
from vinr.errors import FitError, RankError, UsageError, VinrError
from vinr.fit.checkpoint import FitState
from vinr.fit.precision import Precision
from vinr.fit.ranks import Ranks, StoppedTogether
from vinr.fit.task import Task
from vinr.fit.trainer import Trainer
from vinr.video.source import FrameTensor
from vinr.video.spec import TYPES, FrameSource, VideoSpec

# Frames that are sent at a time.
FRAMES_SENT_AT_ONCE = 16


@dataclass(frozen=True)
class _FitJob:
    """What a rank needs, besides the frames, to take part in a fit of rank 0; see :func:`vinr.fit.fit`."""

    spec: VideoSpec
    preset: Preset
    task: Task
    device: str
    seconds: float | None
    precision: Precision
    state: FitState | None


def lead(trainer: Trainer, source: FrameSource, seconds: float | None, state: FitState | None) -> None:
    """Let all ranks take part in the fit that ``trainer``, of rank 0, is about to step.

    Raises
    ------
    UsageError
        If another rank cannot.
    """
    ranks, spec, kind = trainer.ranks, source.spec, trainer.device.type
    ranks.send(_FitJob(spec, trainer.preset, trainer.task, kind, seconds, trainer.precision, state))
    for index_N in torch.split(torch.arange(spec.num_frames), FRAMES_SENT_AT_ONCE):
        ranks.spread([source.frames(index_N).cpu()])
    ranks.agree(None)


def work_together(ranks: Ranks, work: Callable[[], object]) -> None:
    """Let rank 0 do ``work``, whose fits run on all ranks; return when it is done.

    Raises
    ------
    RankError
        If another rank is lost.
    VinrError
        If a step fails here for a reason that rank 0 does not know.
    """
    if not ranks.is_first:
        _follow(ranks)
        return
    try:
        work()
    finally:
        with suppress(RankError):  # one that is lost needs no telling
            ranks.send(None)


@gradients_on()
def _follow(ranks: Ranks) -> None:
    """Take part in every fit of rank 0, until it has no more."""
    while (job := ranks.receive()) is not None:
        trainer = _join_fit(job, ranks)
        if trainer is not None:
            _step_along(trainer)


def _join_fit(job: _FitJob, ranks: Ranks) -> Trainer | None:
    """Return a trainer beside that of rank 0; None if any rank has none."""
    spec = job.spec
    shape = (spec.num_frames, 3, spec.height, spec.width)
    rgb_NCHW = torch.empty(shape, dtype=TYPES[spec.bit_depth])
    for part_NCHW in torch.split(rgb_NCHW, FRAMES_SENT_AT_ONCE):
        ranks.spread([part_NCHW])
    trainer, problem = None, None
    try:
        trainer = Trainer(
            FrameTensor(rgb_NCHW, spec),
            job.preset,
            job.task,
            device=ranks.own_device(torch.device(job.device)),
            seconds=job.seconds,
            precision=job.precision,
            fingerprint=None if job.state is None else job.state.fingerprint,
            ranks=ranks,
        )
        if job.state is not None:
            trainer.load(job.state)
    except VinrError as error:
        problem = str(error)
    try:
        ranks.agree(problem)
    except UsageError:  # rank 0 says it
        return None
    return trainer


def _step_along(trainer: Trainer) -> None:
    ranks = trainer.ranks
    try:
        with trainer.computing(), ranks.in_step():
            while not trainer.is_done:
                trainer.step()
                ranks.stop_if_asked()
    except (FitError, StoppedTogether):
        return  # all ranks stop, and rank 0 says why
    except RankError:
        raise
    except VinrError as error:
        raise type(error)(f"rank {ranks.number}: {error}") from error
