"""One fit: from a source and settings to a fitted model, with its state kept in a file on the way.

::

    state of an interrupted fit ─┐
    source, preset, task ────────┴─> Run: rounds ─┬─> events            ─> fitted model
                                                  └─> Keeper ─> state

On a CPU a resumed fit repeats the interrupted one bit for bit, wherever it was interrupted. On GPUs sums have
no fixed order: no fit repeats so.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from vinr.config import Preset
from vinr.device import exact_float32, gradients_on, memory_kept
from vinr.errors import FitError, InputError
from vinr.fit.checkpoint import FitState, read_fit_state
from vinr.fit.events import Event, Resumed, ignore
from vinr.fit.fingerprint import Fingerprint, fingerprint_of
from vinr.fit.keeper import Keeper
from vinr.fit.precision import Precision, keep_precision, resolve_precision
from vinr.fit.run import FitResult, Run
from vinr.fit.tasks import Reconstruct, Task
from vinr.models import HybridModel
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
    reserve_epochs: float = 0.0,
    keep_encoder: bool = False,
    precision: Precision | None = None,
    fingerprint: Fingerprint | None = None,
) -> FitResult:
    """Fit a model to ``source``.

    Parameters
    ----------
    source
        The frames. All of them are kept on ``device`` as 8-bit numbers.
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
        Spend this much time instead of ``preset.fit.epochs``, less ``reserve_epochs`` epochs' worth.
    keep_encoder
        Return a hybrid model's encoder too, which only experiments need.
    precision
        The arithmetic, where it has been decided already; what ``preset.fit.precision`` means here if None.
    fingerprint
        What the state belongs to, where it is known already; that of the other arguments if None.

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
    task, device = task or Reconstruct(), torch.device(device)
    precision = precision or resolve_precision(preset.fit.precision, device)
    keeper = state = None
    if checkpoint is not None:
        keeper = Keeper(checkpoint, fingerprint or fingerprint_of(source, preset, task, seconds), on_event)
        if resume and checkpoint.exists():
            state = read_fit_state(checkpoint, keeper.fingerprint)
            precision = keep_precision(state.precision, precision, device)
    run = Run(source, preset, task, device, seconds, reserve_epochs, precision)
    if keeper is not None:
        run.after_step = lambda: keeper.keep_sometimes(run.state)
    if keeper is not None and state is not None:
        _resume(run, keeper, state)
        on_event(Resumed(state.epochs_done))
    # Held on to here, since the model drops it; averaged weights are written into it in place.
    model = run.learner.model
    encoder = model.encoder if keep_encoder and isinstance(model, HybridModel) else None
    with memory_kept(run.device) if preset.fit.keep_memory else nullcontext(), exact_float32(run.device):
        _fit_out(run, keeper, on_event)
    return replace(run.finish(), encoder=encoder)


def _resume(run: Run, keeper: Keeper, state: FitState) -> None:
    """Let ``run`` go on from ``state``, which ``keeper`` keeps."""
    try:
        run.load(state)
    except InputError as error:
        raise InputError(f"{keeper.path}: {error}; delete it to start anew") from None
    keeper.remember(state)


def _fit_out(run: Run, keeper: Keeper | None, on_event: Callable[[Event], None]) -> None:
    """Do all rounds; keep the state now and then, at the end, and where something else ends them early."""
    try:
        for event in run.rounds():
            on_event(event)
            run.after_step()
        run.is_finished = True
        if keeper is not None:
            keeper.keep(run.state())
    except FitError:
        raise  # the same steps would come to the same end
    except BaseException:
        # Ctrl-C, what the caller's on_event or signal handler raises, memory that another program took.
        if keeper is not None:
            keeper.keep(run.state())
        raise
