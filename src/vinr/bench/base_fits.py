"""Plain fits that rows share: the state at the end is kept, so that every row goes on from the same weights.

::

    plain fit ─> KEY.tensors ─┬─> phases of one row ─> network
                              └─> phases of another ─> network
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from vinr.config import CompressSettings, Preset
from vinr.errors import OutputError
from vinr.fit import Event, FitResult, Trainer, fit, ignore
from vinr.fit.checkpoint import FitState, read_fit_state
from vinr.fit.precision import keep_precision, resolve_precision
from vinr.models import VideoModel
from vinr.tasks.frames import plain_fit
from vinr.temporaries import try_lock
from vinr.video.spec import FrameSource

# Between two looks at another process's fit; fits take minutes.
WAIT_SECONDS: Final = 2.0


@dataclass(frozen=True)
class BaseFit:
    """A plain fit: what was fitted, where, and the state at its end."""

    preset: Preset
    state: FitState
    device: str = "cpu"

    def with_settings(self, compress: CompressSettings) -> BaseFit:
        """Return the same fit, to be prepared for other bit depths, on which a plain fit does not depend."""
        settings = compress.model_dump(mode="json")
        fingerprint = self.state.fingerprint.model_copy(update={"compress": settings})
        preset = self.preset.model_copy(update={"compress": compress})
        return replace(self, preset=preset, state=replace(self.state, fingerprint=fingerprint))


def base_fit(
    frames: FrameSource,
    preset: Preset,
    path: Path,
    *,
    device: str = "cpu",
    on_event: Callable[[Event], None] = ignore,
) -> BaseFit:
    """Fit ``preset`` without its phases, or read the fit that ``path`` holds, which must be one of the same.

    An interrupted fit goes on; while another process fits the same, this one waits.

    Raises
    ------
    OutputError
        If the state cannot be written.
    """
    preset = plain_fit(preset)
    checkpoint = path.with_suffix(".checkpoint")
    while not path.exists():
        with try_lock(path.with_suffix(".lock")) as is_mine:
            if is_mine and not path.exists():
                # The state that a fit leaves at its end is what the rows go on from.
                fit(frames, preset, device=device, on_event=on_event, checkpoint=checkpoint, resume=True)
                if not checkpoint.exists():
                    raise OutputError(f"{checkpoint}: the state of the fit could not be written; see above")
                checkpoint.replace(path)
        if not is_mine:
            time.sleep(WAIT_SECONDS)
    return BaseFit(preset, read_fit_state(path), device).with_settings(preset.compress)


def forget_base(path: Path) -> None:
    """Remove the plain fit that ``path`` holds or will hold, unless another process is at it."""
    with try_lock(path.with_suffix(".lock")) as is_mine:
        if is_mine:
            path.unlink(missing_ok=True)
            path.with_suffix(".checkpoint").unlink(missing_ok=True)


def continue_fit(
    frames: FrameSource,
    base: BaseFit,
    phases: Sequence[tuple[int, Mapping[str, Any]]],
    *,
    at_end: Callable[[Trainer], None] | None = None,
    on_event: Callable[[Event], None] = ignore,
) -> FitResult:
    """Go on from ``base`` with ``phases``: (epochs, settings) each; ``at_end`` is called after each."""
    precision = resolve_precision(base.preset.fit.precision, base.device)
    precision = keep_precision(base.state.precision, precision, base.device)
    trainer = Trainer(frames, base.preset, device=base.device, precision=precision)
    trainer.load(base.state)
    trainer.continue_with(phases)
    #  plain fit     phase 0    phase 1
    #  ├─────────────┼──────────┼──────────┤     epochs at the start and after each part
    ends, end_epochs = [], base.preset.fit.epochs
    for num_epochs, _ in phases:
        end_epochs += num_epochs
        ends.append(end_epochs * trainer.steps_per_epoch)
    for event in trainer.rounds():
        on_event(event)
        # A collapse at the end of a phase goes back before it, so that an end may be reached later.
        while ends and trainer.steps_done >= ends[0]:
            del ends[0]
            if at_end is not None:
                at_end(trainer)
    return trainer.finish()


@torch.no_grad()
def drop_pruned(trainer: Trainer) -> VideoModel:
    """Set what the phase prunes of a model in training to 0; return the model, in evaluation mode."""
    model = trainer.model
    for name, item in trainer.learner.coding.pruned(model.stored()).items():
        model.stored()[name].value.copy_(item.value)
    return model.eval()
