"""One fit: from a source and settings to a fitted model, with its state kept in a file on the way.

::

    state of an interrupted fit ─┐
    source, preset, task ────────┴─> Trainer: steps ─┬─> events        ─> fitted model
                                                     └─> Keeper ─> state

On a CPU a resumed fit repeats the interrupted one bit for bit, wherever it was interrupted. On GPUs sums have
no fixed order: no fit repeats so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from vinr.config import Preset
from vinr.device import gradients_on
from vinr.fit.budget import NO_RESERVE, Reserve
from vinr.fit.events import Event, Noted, Resumed, ignore
from vinr.fit.fingerprint import Fingerprint, fingerprint_of
from vinr.fit.follow import lead
from vinr.fit.keeper import Keeper
from vinr.fit.precision import Precision, keep_precision, resolve_precision
from vinr.fit.ranks import current
from vinr.fit.result import FitResult
from vinr.fit.task import Reconstruct, Task
from vinr.fit.trainer import Trainer
from vinr.video.spec import FrameSource


@gradients_on()
def fit(
    source: FrameSource,
    preset: Preset,
    task: Task | None = None,
    *,
    device: torch.device | str = "cpu",
    on_event: Callable[[Event], None] = ignore,
    checkpoint: Path | None = None,
    resume: bool = False,
    seconds: float | None = None,
    reserve: Reserve = NO_RESERVE,
    keep_encoder: bool = False,
    precision: Precision | None = None,
    fingerprint: Fingerprint | None = None,
    initial: Mapping[str, Tensor] | None = None,
) -> FitResult:
    """Fit a model to ``source``.

    Parameters
    ----------
    source
        The frames. All of them are held on ``device``, as the source has them.
    preset
        Model, complete architecture and fit settings.
    task
        What is seen and scored; :class:`Reconstruct` when left out.
    checkpoint
        File in which the state is kept every two minutes, at the end, and where an interruption or an error
        of something else ends the fit, such as one that ``on_event`` raises. Where it cannot be written,
        ``on_event`` is told and the fit goes on.
    resume
        Go on from ``checkpoint`` where it exists, in the arithmetic it was begun in.
    seconds
        Spend this much time instead of ``preset.fit.epochs``, from this call on, less ``reserve`` for what
        follows.
    keep_encoder
        Return a hybrid model's encoder too, which only experiments need.
    precision
        The arithmetic, where it has been decided already; what ``preset.fit.precision`` means here if None.
    fingerprint
        What the state belongs to, where it is known already; that of the other arguments if None.
    initial
        Weights to begin with, by stored name, as for :class:`Trainer`.

    Raises
    ------
    FitError
        If the fit collapses again and again.
    UsageError
        If ``checkpoint`` belongs to another video or other settings.
    InputError
        If ``checkpoint`` is no state of a fit, or damaged.
    KeyboardInterrupt
        On Ctrl-C, once the state is kept.
    """
    began, ranks = time.monotonic(), current()
    task, device = task or Reconstruct(), ranks.own_device(torch.device(device))
    precision = precision or resolve_precision(preset.fit.precision, device)
    keeper = state = None
    if checkpoint is not None:
        fingerprint = fingerprint or fingerprint_of(source, preset, task, seconds, initial)
        keeper = Keeper(checkpoint, fingerprint, on_event)
        state = keeper.read() if resume else None
    if state is not None:
        precision = keep_precision(state.precision, precision, device)
    trainer = Trainer(
        source,
        preset,
        task,
        device=device,
        seconds=seconds,
        reserve=reserve,
        precision=precision,
        keep_encoder=keep_encoder,
        fingerprint=fingerprint,
        ranks=ranks,
        initial=initial,
        began=began,
    )
    if keeper is not None and state is not None:
        keeper.restore(trainer, state)
        on_event(Resumed(state.epochs_done))
    if ranks.are_several:
        on_event(Noted(f"{ranks.count} processes share every step of the fit"))
        lead(trainer, source, seconds, state)
    watching = nullcontext() if keeper is None else keeper.watching(trainer)
    with trainer.computing(), ranks.in_step(), watching:
        while not trainer.is_done:
            event = trainer.step()
            on_event(trainer.last_step())
            if event is not None:
                on_event(event)
            if keeper is not None:
                keeper.keep_sometimes(trainer)
            ranks.stop_if_asked()
    return trainer.finish()
