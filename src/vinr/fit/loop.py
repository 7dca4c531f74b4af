"""The only training loop.

::

    frames (uint8, on the device) ─┐
    order of an epoch ─> batch ────┼─> model ─> loss ─> gradients ─> optimiser ─> average
                                   └─────────────> end of a round: PSNR, collapse?, checkpoint

A round is an epoch, or 250 steps where an epoch is longer. State is kept at the ends of good rounds only, so
a resumed fit goes on as the interrupted one would have, and a collapsed one goes back to where it was good.
On CPUs the resumed fit repeats the other bit for bit. On GPUs sums have no fixed order: no fit repeats so.

The plain fit may be followed by phases (``fit.phases``) that prepare the network for coding. They train the
frozen network, latents included, with a fresh optimiser, and through :class:`CodingNoise`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vinr.config import Preset
from vinr.device import exact_float32, memory_kept
from vinr.errors import FitError, UsageError
from vinr.fit.batches import Batches
from vinr.fit.budget import Budget
from vinr.fit.checkpoint import FitState, random_state, restore_random_state
from vinr.fit.events import Collapsed, Event, Resumed, RoundDone, ignore
from vinr.fit.learner import Learner
from vinr.fit.losses import build_loss, psnr_from_mse_db
from vinr.fit.phases import Moment, moment_at
from vinr.fit.precision import resolve_precision
from vinr.fit.prepare import DeviceFrames
from vinr.fit.tasks import Reconstruct, Task
from vinr.models import HybridModel, VideoModel
from vinr.tensorfile import read_tensors, write_tensors
from vinr.video.spec import FrameSource, PatchGrid

__all__ = ["FitResult", "fit"]

ROUND_STEPS = 250
MAX_COLLAPSES = 6
CHECKPOINT_SECONDS = 120.0


@dataclass(frozen=True)
class FitResult:
    """A fitted model, frozen (no source needed) and in evaluation mode, with how the fit went.

    ``steps``: learned quantisation steps by stored name, as :func:`vinr.compress.pack_tensors` takes them;
    the model's numbers are not rounded to them yet. ``encoder``: where it was to be kept, and had not been
    dropped before the fit was resumed.
    """

    model: VideoModel
    train_psnr_db: float
    num_epochs: float
    num_steps: int
    num_collapses: int
    seconds: float
    steps: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    encoder: nn.Module | None = field(default=None, repr=False)


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
        File in which the state is kept every two minutes and on interruption.
    resume
        Go on from ``checkpoint`` where it exists.
    seconds
        Spend this much time instead of ``preset.fit.epochs``, less ``reserve_epochs`` epochs' worth.
    keep_encoder
        Return a hybrid model's encoder too, which only experiments need.

    Raises
    ------
    FitError
        If the fit collapses again and again.
    UsageError
        If ``checkpoint`` belongs to another video or other settings.
    """
    run = _Run(source, preset, task or Reconstruct(), torch.device(device), seconds, reserve_epochs)
    if resume and checkpoint is not None and checkpoint.exists():
        run.load(FitState(*read_tensors(checkpoint)))
        on_event(Resumed(run.steps_done / run.steps_per_epoch))
    # Held on to here, since the model drops it; averaged weights are written into it in place.
    model = run.learner.model
    encoder = model.encoder if keep_encoder and isinstance(model, HybridModel) else None
    saved_at = time.monotonic()
    try:
        with memory_kept(run.device) if preset.fit.keep_memory else nullcontext(), exact_float32(run.device):
            for event in run.rounds():
                on_event(event)
                if checkpoint is not None and time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                    write_tensors(checkpoint, run.good.tensors, run.good.values)
                    saved_at = time.monotonic()
    except KeyboardInterrupt:
        if checkpoint is not None:
            write_tensors(checkpoint, run.good.tensors, run.good.values)
        raise
    return replace(run.finish(), encoder=encoder)


@dataclass(frozen=True)
class _Part:
    """What a part of a batch came to: its part of the mean squared error, and the bits of all numbers."""

    mse: Tensor
    num_bits: Tensor | None


class _Run:
    """The state of one fit between steps."""

    def __init__(
        self,
        source: FrameSource,
        preset: Preset,
        task: Task,
        device: torch.device,
        seconds: float | None,
        reserve_epochs: float,
    ) -> None:
        settings = preset.fit
        self.preset, self.settings, self.task, self.device = preset, settings, task, device
        self.frames = DeviceFrames(task.target(source), device)
        visible = task.visible(self.frames)
        self.learner = Learner(preset, visible, device)
        model = self.learner.model
        model.check_patches(PatchGrid(*settings.patches))
        if model.keyframes is not None:
            model.keyframes.code(visible)
        frame_N = task.training_frames(source.spec)
        self.batches = Batches(frame_N, model.group_of(frame_N), settings, model.coded_size())
        self.loss = build_loss(settings.loss)
        self.dtype, _ = resolve_precision(settings.precision, device)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.budget = Budget(settings.epochs * self.steps_per_epoch, seconds, reserve_epochs)
        self.steps_done, self.seconds_done, self.step_seconds = 0, 0.0, 0.0
        self.best_psnr_db, self.rate_scale, self.num_collapses = -math.inf, 1.0, 0
        self.good = self.state()

    # -- stepping ------------------------------------------------------------------------------------------

    def rounds(self) -> Iterator[Event]:
        """Run to the end of the budget; yield what happened after each round."""
        while self.progress() < 1:
            number = self.moment().number
            if number > self.learner.part:
                self.learner.enter(number)
                self.best_psnr_db = -math.inf  # rounding costs quality, which is no collapse
                self.good = self.state()
            psnr_db = self._round()
            if self._collapsed(psnr_db):
                yield self._roll_back(psnr_db)
                continue
            self.best_psnr_db = max(self.best_psnr_db, psnr_db)
            self._calibrate()
            self.good = self.state()
            yield self._report(psnr_db)

    def progress(self) -> float:
        """Return how much of the budget is used, 0 to 1."""
        return self.budget.progress(
            self.steps_done, self.seconds_done, self.step_seconds * self.steps_per_epoch
        )

    def moment(self) -> Moment:
        """Return in which part of the fit the next step is, and where in it."""
        return moment_at(self.progress(), self.settings.phases)

    def _round(self) -> float:
        self.learner.model.train()
        mse = torch.zeros((), device=self.device)
        epoch, first = divmod(self.steps_done, self.steps_per_epoch)
        batches = self.batches.of_epoch(epoch)[first : first + ROUND_STEPS]
        count = 0
        for batch in batches:
            started = time.monotonic()
            mse += self._step(batch)
            count += 1
            self.steps_done += 1
            self._clock(time.monotonic() - started)
            if self.progress() >= 1 or self.moment().number > self.learner.part:
                break
        return float(psnr_from_mse_db(mse / count))

    def _calibrate(self) -> None:
        started = time.monotonic()
        self.learner.calibrate()
        self.seconds_done += time.monotonic() - started

    def _clock(self, seconds: float) -> None:
        self.seconds_done += seconds
        # The first steps warm caches up; the running mean forgets them.
        share = max(0.05, 1 / self.steps_done)
        self.step_seconds += share * (seconds - self.step_seconds)

    def _step(self, batch: Sequence[Tensor]) -> Tensor:
        self.learner.set_rate(self.moment(), self.rate_scale)
        count = sum(len(sample_N) for sample_N in batch)
        parts = [self._add_gradients(sample_N, len(sample_N) / count) for sample_N in batch]
        self.learner.update(self.steps_done)
        mse = torch.stack([part.mse for part in parts]).sum()
        self.learner.observe(parts[0].num_bits, psnr_from_mse_db(mse), self.moment())
        return mse

    def _add_gradients(self, sample_N: Tensor, share: float) -> _Part:
        """Add the gradients of a part of a batch, which is ``share`` of it."""
        query = self.batches.query(sample_N.to(self.device))
        target_NCHW = self.batches.target(self.frames.rgb_NCHW, query).float() / 255
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            outputs = self.learner.evaluate(query)
        weight_N1HW = self.batches.weight(self.task.weight(query.time_N.long()), query)
        values = [self.loss(rgb_NCHW.float(), target_NCHW, weight_N1HW) for _, rgb_NCHW in outputs.frames]
        losses = [weight * value.total for (weight, _), value in zip(outputs.frames, values, strict=True)]
        total = torch.stack(losses).sum()
        if outputs.num_bits is not None:
            total = total + self.learner.price(outputs.num_bits, total.detach())
        (share * total).backward()  # type: ignore[no-untyped-call]
        num_bits = None if outputs.num_bits is None else outputs.num_bits.detach()
        return _Part(share * values[0].mse.detach(), num_bits)

    # -- collapse ------------------------------------------------------------------------------------------

    def _collapsed(self, psnr_db: float) -> bool:
        return not math.isfinite(psnr_db) or psnr_db < self.best_psnr_db - self.settings.collapse_db

    def _roll_back(self, psnr_db: float) -> Collapsed:
        steps_lost, seconds = self.steps_done, self.seconds_done
        scale, count = self.rate_scale / 2, self.num_collapses + 1
        if count > MAX_COLLAPSES:
            raise FitError(
                f"the fit collapsed {count} times, last from {self.best_psnr_db:.1f} dB to {psnr_db:.1f} dB; "
                f"lower fit.learning_rate ({self.settings.learning_rate:g}) or choose another seed"
            )
        self.load(self.good)
        self.rate_scale, self.num_collapses = scale, count
        if self.budget.seconds is not None:
            self.seconds_done = seconds  # the clock does not go back
        self.good = self.state()
        epochs_lost = (steps_lost - self.steps_done) / self.steps_per_epoch
        return Collapsed(psnr_db, self.best_psnr_db, epochs_lost, scale)

    # -- state ---------------------------------------------------------------------------------------------

    def state(self) -> FitState:
        """Return a copy of everything that decides how the fit goes on."""
        tensors, values = self.learner.state()
        tensors |= {f"random.{name}": value for name, value in random_state(self.device).items()}
        values |= {
            "fingerprint": self._fingerprint(),
            "steps_done": self.steps_done,
            "seconds_done": self.seconds_done,
            "step_seconds": self.step_seconds,
            "best_psnr_db": self.best_psnr_db if math.isfinite(self.best_psnr_db) else None,
            "rate_scale": self.rate_scale,
            "num_collapses": self.num_collapses,
        }
        return FitState({name: value.detach().clone() for name, value in tensors.items()}, values)

    def load(self, state: FitState) -> None:
        """Go on from ``state``."""
        if state.values["fingerprint"] != self._fingerprint():
            raise UsageError(
                "the checkpoint belongs to another video or other settings; "
                "repeat the first command with --resume, or leave --resume out"
            )
        self.learner.load(state.tensors, state.values)
        randoms = {
            name.removeprefix("random."): value
            for name, value in state.tensors.items()
            if name.startswith("random.")
        }
        restore_random_state(randoms, self.device)
        values = state.values
        self.steps_done, self.seconds_done = values["steps_done"], values["seconds_done"]
        self.step_seconds = values["step_seconds"]
        self.best_psnr_db = -math.inf if values["best_psnr_db"] is None else values["best_psnr_db"]
        self.rate_scale, self.num_collapses = values["rate_scale"], values["num_collapses"]
        self.good = state

    def _fingerprint(self) -> dict[str, Any]:
        spec = self.frames.spec
        return {
            "model": self.preset.model,
            "task": self.task.describe(),
            "architecture": self.preset.model_dump(mode="json")["architecture"],
            "fit": self.settings.model_dump(mode="json"),
            "video": [*spec.span_lengths, spec.height, spec.width],
            "content": int(self.frames.rgb_NCHW[:: max(1, spec.num_frames // 8)].sum(dtype=torch.int64)),
        }

    # -- end -----------------------------------------------------------------------------------------------

    def _report(self, psnr_db: float) -> RoundDone:
        progress = self.progress()
        left = self.seconds_done * (1 - progress) / progress if progress else math.inf
        if self.budget.seconds is None:
            left = (self.budget.num_steps - self.steps_done) * self.step_seconds
        epochs_done = self.steps_done / self.steps_per_epoch
        return RoundDone(epochs_done, progress, psnr_db, self.seconds_done, left)

    def finish(self) -> FitResult:
        """Take the averaged weights where there are any, freeze, and return the model."""
        steps = self.learner.close_part()
        self.task.complete(self.learner.model)
        return FitResult(
            model=self.learner.model.eval(),
            train_psnr_db=self.best_psnr_db,
            num_epochs=self.steps_done / self.steps_per_epoch,
            num_steps=self.steps_done,
            num_collapses=self.num_collapses,
            seconds=self.seconds_done,
            steps=steps,
        )
