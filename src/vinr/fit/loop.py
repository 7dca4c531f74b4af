"""The only training loop.

::

    frames (uint8, on the device) ─┐
    order of an epoch ─> batch ────┼─> model ─> loss ─> gradients ─> optimiser ─> average
                                   └─────────────> end of a round: PSNR, collapse?, checkpoint

A round is an epoch, or 250 steps where an epoch is longer. State is kept at the ends of good rounds only, so
a resumed fit repeats the interrupted one bit for bit, and a collapsed one goes back to where it was good.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vinr.config import Preset, validate_architecture
from vinr.errors import FitError, UsageError
from vinr.fit.batches import Batches
from vinr.fit.budget import Budget
from vinr.fit.checkpoint import (
    FitState,
    pack_optimizer,
    random_state,
    restore_random_state,
    unpack_optimizer,
)
from vinr.fit.events import Collapsed, Event, Resumed, RoundDone, ignore
from vinr.fit.losses import build_loss, psnr_from_mse_db
from vinr.fit.optimizers import build_optimizer, set_learning_rate
from vinr.fit.precision import resolve_precision
from vinr.fit.schedules import learning_rate_multiplier
from vinr.fit.tasks import Reconstruct, Task
from vinr.models import VideoModel, get_model
from vinr.tensorfile import read_tensors, write_tensors
from vinr.video.spec import FrameSource, PatchGrid, VideoSpec

__all__ = ["FitResult", "build_model", "fit"]

ROUND_STEPS = 250
MAX_COLLAPSES = 6
CHECKPOINT_SECONDS = 120.0


@dataclass(frozen=True)
class FitResult:
    """A fitted model, frozen (no source needed) and in evaluation mode, with how the fit went."""

    model: VideoModel
    train_psnr_db: float
    num_epochs: float
    num_steps: int
    num_collapses: int
    seconds: float


class DeviceFrames:
    """All frames of a source as uint8 on the device; a :class:`FrameSource`."""

    def __init__(self, source: FrameSource, device: torch.device) -> None:
        self.spec: VideoSpec = source.spec
        self.rgb_NCHW = source.frames(torch.arange(source.spec.num_frames)).to(device)

    def frames(self, index_N: Tensor) -> Tensor:
        """Return uint8 rgb_NCHW."""
        return self.rgb_NCHW[index_N]


def build_model(preset: Preset, video: VideoSpec, device: torch.device) -> VideoModel:
    """Return a new model with initial weights drawn from the preset's seed."""
    cls = get_model(preset.model)
    torch.manual_seed(preset.fit.seed)
    model = cls(validate_architecture(cls, preset.architecture), video).to(device)
    if preset.fit.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


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
    saved_at = time.monotonic()
    try:
        for event in run.rounds():
            on_event(event)
            if checkpoint is not None and time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                write_tensors(checkpoint, run.good.tensors, run.good.values)
                saved_at = time.monotonic()
    except KeyboardInterrupt:
        if checkpoint is not None:
            write_tensors(checkpoint, run.good.tensors, run.good.values)
        raise
    return run.finish()


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
        self.frames = DeviceFrames(source, device)
        self.visible = task.visible(self.frames)
        self.model = build_model(preset, source.spec, device)
        self.model.check_patches(PatchGrid(*settings.patches))
        frame_N = task.training_frames(source.spec)
        self.batches = Batches(frame_N, self.model.group_of(frame_N), settings, self.model.coded_size())
        if self.model.keyframes is not None:
            self.model.keyframes.code(self.visible)
        self.loss = build_loss(settings.loss)
        self.optimizer = build_optimizer(self.model.named_parameters(), settings)
        self.dtype, _ = resolve_precision(settings.precision, device)
        self.average = [p.detach().clone() for p in self.model.parameters()] if settings.ema_decay else []
        self.average_update = get_ema_multi_avg_fn(settings.ema_decay)  # type: ignore[no-untyped-call]
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.budget = Budget(settings.epochs * self.steps_per_epoch, seconds, reserve_epochs)
        self.steps_done, self.seconds_done, self.step_seconds = 0, 0.0, 0.0
        self.best_psnr_db, self.rate_scale, self.num_collapses = -math.inf, 1.0, 0
        self.good = self.state()

    # -- stepping ------------------------------------------------------------------------------------------

    def rounds(self) -> Iterator[Event]:
        """Run to the end of the budget; yield what happened after each round."""
        while self.progress() < 1:
            psnr_db = self._round()
            if self._collapsed(psnr_db):
                yield self._roll_back(psnr_db)
                continue
            self.best_psnr_db = max(self.best_psnr_db, psnr_db)
            self.good = self.state()
            yield self._report(psnr_db)

    def progress(self) -> float:
        """Return how much of the budget is used, 0 to 1."""
        return self.budget.progress(
            self.steps_done, self.seconds_done, self.step_seconds * self.steps_per_epoch
        )

    def _round(self) -> float:
        self.model.train()
        mse = torch.zeros((), device=self.device)
        epoch, first = divmod(self.steps_done, self.steps_per_epoch)
        batches = self.batches.of_epoch(epoch)[first : first + ROUND_STEPS]
        count = 0
        for sample_N in batches:
            started = time.monotonic()
            mse += self._step(sample_N)
            count += 1
            self.steps_done += 1
            self._clock(time.monotonic() - started)
            if self.progress() >= 1:
                break
        return float(psnr_from_mse_db(mse / count))

    def _clock(self, seconds: float) -> None:
        self.seconds_done += seconds
        # The first steps warm caches up; the running mean forgets them.
        share = max(0.05, 1 / self.steps_done)
        self.step_seconds += share * (seconds - self.step_seconds)

    def _step(self, sample_N: Tensor) -> Tensor:
        multiplier = learning_rate_multiplier(self.progress(), self.settings.schedule)
        set_learning_rate(self.optimizer, multiplier * self.rate_scale)
        query = self.batches.query(sample_N.to(self.device))
        target_NCHW = self.batches.target(self.frames.rgb_NCHW, query).float() / 255
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            outputs = self.model.training_outputs(query, self.visible)
        weight_N1HW = self.batches.weight(self.task.weight(query.time_N.long()), query)
        values = [self.loss(rgb_NCHW.float(), target_NCHW, weight_N1HW) for _, rgb_NCHW in outputs]
        parts = [share * value.total for (share, _), value in zip(outputs, values, strict=True)]
        total = torch.stack(parts).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        if self.settings.gradient_clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
        self.optimizer.step()
        if self.average:
            current = [p.detach() for p in self.model.parameters()]
            self.average_update(self.average, current, self.steps_done)
        return values[0].mse.detach()

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
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        slots, groups = pack_optimizer(self.optimizer.state_dict())
        tensors |= {f"optimizer.{name}": value for name, value in slots.items()}
        tensors |= {f"average.{i:05d}": value for i, value in enumerate(self.average)}
        tensors |= {f"random.{name}": value for name, value in random_state(self.device).items()}
        values: dict[str, Any] = {
            "fingerprint": self._fingerprint(),
            "optimizer": groups,
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
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "average": {}, "random": {}}
        for name, value in state.tensors.items():
            prefix, _, rest = name.partition(".")
            parts[prefix][rest] = value.clone()
        self.model.load_state_dict(parts["model"])
        self.optimizer.load_state_dict(unpack_optimizer(parts["optimizer"], state.values["optimizer"]))
        self.average = [parts["average"][name].to(self.device) for name in sorted(parts["average"])]
        restore_random_state(parts["random"], self.device)
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
        if self.average:
            with torch.no_grad():
                for parameter, value in zip(self.model.parameters(), self.average, strict=True):
                    parameter.copy_(value)
        self.model.freeze(self.visible)
        return FitResult(
            model=self.model.eval(),
            train_psnr_db=self.best_psnr_db,
            num_epochs=self.steps_done / self.steps_per_epoch,
            num_steps=self.steps_done,
            num_collapses=self.num_collapses,
            seconds=self.seconds_done,
        )
