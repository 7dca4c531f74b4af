"""The only training loop.

::

    frames (uint8, on the device) ─┐
    order of an epoch ─> batch ────┼─> model ─> loss ─> gradients ─> optimiser ─> average
                                   └─────────────> end of a round: PSNR, collapse?, state

A round is an epoch, or 250 steps where an epoch is longer. A collapsed fit goes back to the end of its last
good round. A state that is kept holds that one, and the one after the last step.

The plain fit may be followed by phases (``fit.phases``) that prepare the network for coding. They train the
frozen network, latents included, with a fresh optimiser, and through :class:`CodingNoise`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from vinr.config import Preset
from vinr.draws import Draws
from vinr.errors import FitError, InputError
from vinr.fit.batches import Batches
from vinr.fit.budget import Budget, StepClock
from vinr.fit.checkpoint import (
    FitState,
    Snapshot,
    SnapshotValues,
    check_tensors,
    restore_draws,
)
from vinr.fit.events import Collapsed, Event, RoundDone
from vinr.fit.learner import Learner
from vinr.fit.losses import build_loss, psnr_from_mse_db
from vinr.fit.phases import Moment, moment_at
from vinr.fit.precision import Precision, PrecisionName, resolve_precision
from vinr.fit.prepare import DeviceFrames
from vinr.fit.tasks import Task
from vinr.models import VideoModel
from vinr.state.interruption import held_back
from vinr.video.spec import FrameSource, PatchGrid

ROUND_STEPS = 250
MAX_COLLAPSES = 6


@dataclass(frozen=True)
class FitResult:
    """A fitted model, frozen (no source needed) and in evaluation mode, with how the fit went.

    ``steps``: learned quantisation steps by stored name, as :func:`vinr.compress.pack_tensors` takes them;
    the model's numbers are not rounded to them yet. ``encoder``: where it was to be kept, and had not been
    dropped before the fit was resumed. ``precision``: the arithmetic of the fit.
    """

    model: VideoModel
    train_psnr_db: float
    num_epochs: float
    num_steps: int
    num_collapses: int
    seconds: float
    steps: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    encoder: nn.Module | None = field(default=None, repr=False)
    precision: PrecisionName = "fp32"


@dataclass(frozen=True)
class _Part:
    """What a part of a batch came to: its part of the mean squared error, and the bits of all numbers."""

    mse: Tensor
    num_bits: Tensor | None


class Run:
    """One fit: its state, and the steps that change it."""

    def __init__(
        self,
        source: FrameSource,
        preset: Preset,
        task: Task,
        device: torch.device,
        seconds: float | None,
        reserve_epochs: float,
        precision: Precision | None = None,
    ) -> None:
        settings = preset.fit
        self.preset, self.settings, self.task, self.device = preset, settings, task, device
        self.precision = precision or resolve_precision(settings.precision, device)
        self.frames = DeviceFrames(task.target(source), device)
        visible = task.visible(self.frames)
        self.draws = Draws(settings.seed, device)
        self.learner = Learner(preset, visible, device, self.precision, self.draws)
        model = self.learner.model
        model.check_patches(PatchGrid(*settings.patches))
        if model.keyframes is not None:
            model.keyframes.code(visible)
        frame_N = task.training_frames(source.spec)
        self.batches = Batches(frame_N, model.group_of(frame_N), settings, model.coded_size())
        self.loss = build_loss(settings.loss)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.budget = Budget(settings.epochs * self.steps_per_epoch, seconds, reserve_epochs)
        self.clock = StepClock()
        self.steps_done, self.round_steps = 0, 0
        self.round_mse = torch.zeros((), device=device)
        self.best_psnr_db, self.rate_scale, self.num_collapses = -math.inf, 1.0, 0
        self.is_finished, self._is_at_rest = False, True
        self.after_step: Callable[[], None] = _nothing
        self.good = self._copy()

    # -- stepping ------------------------------------------------------------------------------------------

    def rounds(self) -> Iterator[Event]:
        """Run to the end of the budget; yield what happened after each round."""
        while self.progress() < 1 or self.round_steps:
            self._round()
            with self._at_work():
                event = self._end_round()
            yield event

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Change the state: signals wait, and what another interruption leaves behind is not kept."""
        with held_back():
            self._is_at_rest = False
            yield
            self._is_at_rest = True

    def progress(self) -> float:
        """Return how much of the budget is used, 0 to 1."""
        if self.is_finished:
            return 1.0
        return self.budget.progress(
            self.steps_done, self.clock.seconds, self.clock.step_seconds * self.steps_per_epoch
        )

    def moment(self) -> Moment:
        """Return in which part of the fit the next step is, and where in it."""
        return moment_at(self.progress(), self.settings.phases)

    def _round(self) -> None:
        """Do the steps of a round; those that are left of it where an interrupted fit goes on."""
        if not self.round_steps:
            with self._at_work():
                self._enter()
        self.learner.model.train()
        epoch, first = divmod(self.steps_done - self.round_steps, self.steps_per_epoch)
        batches = self.batches.of_epoch(epoch)[first : first + ROUND_STEPS]
        self.clock.start()
        for batch in batches[self.round_steps :]:
            if self.round_steps and (self.progress() >= 1 or self.moment().number > self.learner.part):
                break
            with self._at_work():
                self.round_mse += self._step(batch)
                self.round_steps += 1
                self.steps_done += 1
                self.clock.tick(self.steps_done)
            self.after_step()
            self.clock.skip()

    def _enter(self) -> None:
        """Begin the next part of the fit where it is time to."""
        number = self.moment().number
        if number > self.learner.part:
            self.learner.enter(number)
            self.best_psnr_db = -math.inf  # rounding costs quality, which is no collapse
            self.good = self._copy()

    def _end_round(self) -> Event:
        psnr_db = float(psnr_from_mse_db(self.round_mse / self.round_steps))
        self.clock.wait(self.steps_done)
        # The PSNR is that of before each update: what the last one did is seen in the numbers alone.
        if not self.learner.is_sound:
            psnr_db = math.nan
        if self._collapsed(psnr_db):
            return self._roll_back(psnr_db)
        self.best_psnr_db = max(self.best_psnr_db, psnr_db)
        self.learner.calibrate()
        self.clock.wait(self.steps_done)
        self.round_mse, self.round_steps = torch.zeros_like(self.round_mse), 0
        self.good = self._copy()
        return self._report(psnr_db)

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
        dtype = self.precision.dtype
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
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
        steps_lost, seconds = self.steps_done, self.clock.seconds
        scale, count = self.rate_scale / 2, self.num_collapses + 1
        if count > MAX_COLLAPSES:
            raise FitError(
                f"the fit collapsed {count} times, last from {self.best_psnr_db:.1f} dB to {psnr_db:.1f} dB; "
                f"lower fit.learning_rate ({self.settings.learning_rate:g}) or choose another seed"
            )
        self._go_on_from(self.good)
        self.rate_scale, self.num_collapses = scale, count
        if self.budget.seconds is not None:
            self.clock.seconds = seconds  # the clock does not go back
        self.good = self._copy()
        epochs_lost = (steps_lost - self.steps_done) / self.steps_per_epoch
        return Collapsed(psnr_db, self.best_psnr_db, epochs_lost, scale)

    # -- state ---------------------------------------------------------------------------------------------

    def state(self) -> FitState:
        """Return everything that decides how the fit goes on, as it is: it changes with the next step."""
        # Numbers that are not finite come to nothing at the end of the round, and so they do again.
        is_sound = bool(self.round_mse.isfinite()) and self.learner.is_sound
        is_inside = self.round_steps > 0 and self._is_at_rest and is_sound
        return FitState(
            good=self.good,
            now=self._snapshot() if is_inside else None,
            precision=self.precision.name,
            epochs_done=(self.steps_done if is_inside else self.good.values.steps_done)
            / self.steps_per_epoch,
            is_finished=self.is_finished,
        )

    def load(self, state: FitState) -> None:
        """Go on from ``state``.

        Raises
        ------
        InputError
            If it is not one of a fit like this.
        """
        for values in (state.good.values, state.last.values):
            if self.budget.seconds is None and values.steps_done > self.budget.num_steps:
                raise InputError(
                    f"the kept state has {values.steps_done} steps, the fit only {self.budget.num_steps}"
                )
        good, last = state.good.values, state.last.values
        if (
            good.round_steps
            or last.part != good.part
            or last.steps_done - last.round_steps != good.steps_done
        ):
            raise InputError("the rounds of the kept state do not follow one another")
        self._go_on_from(state.good)
        self.good = state.good
        if state.now is not None:
            self._go_on_from(state.now)
        self.is_finished = state.is_finished

    def _copy(self) -> Snapshot:
        snapshot = self._snapshot()
        copies = {name: value.detach().clone() for name, value in snapshot.tensors.items()}
        return replace(snapshot, tensors=copies)

    def _snapshot(self) -> Snapshot:
        tensors = {**self.learner.tensors(), "round.mse": self.round_mse}
        tensors |= {f"random.{name}": value for name, value in self.draws.state().items()}
        control = self.learner.control
        values = SnapshotValues(
            part=self.learner.part,
            steps_done=self.steps_done,
            round_steps=self.round_steps,
            seconds_done=self.clock.seconds,
            step_seconds=self.clock.step_seconds,
            best_psnr_db=self.best_psnr_db if math.isfinite(self.best_psnr_db) else None,
            rate_scale=self.rate_scale,
            num_collapses=self.num_collapses,
            optimizer_steps=self.learner.optimizer_steps(),
            control=None if control is None else control.state(),
        )
        return Snapshot(tensors, values)

    def _go_on_from(self, snapshot: Snapshot) -> None:
        tensors, values = snapshot.tensors, snapshot.values
        self.learner.load(tensors, values)
        mse = {name: value for name, value in tensors.items() if name == "round.mse"}
        check_tensors({"round.mse": self.round_mse}, mse, "tensor")
        randoms = {
            name.removeprefix("random."): value
            for name, value in tensors.items()
            if name.startswith("random.")
        }
        restore_draws(self.draws, randoms)
        self.round_mse = tensors["round.mse"].to(self.device, copy=True)
        self.steps_done, self.round_steps = values.steps_done, values.round_steps
        self.clock.seconds, self.clock.step_seconds = values.seconds_done, values.step_seconds
        self.best_psnr_db = -math.inf if values.best_psnr_db is None else values.best_psnr_db
        self.rate_scale, self.num_collapses = values.rate_scale, values.num_collapses

    # -- end -----------------------------------------------------------------------------------------------

    def _report(self, psnr_db: float) -> RoundDone:
        progress = self.progress()
        seconds = self.clock.seconds
        left = seconds * (1 - progress) / progress if progress else math.inf
        if self.budget.seconds is None:
            left = (self.budget.num_steps - self.steps_done) * self.clock.step_seconds
        epochs_done = self.steps_done / self.steps_per_epoch
        return RoundDone(epochs_done, progress, psnr_db, seconds, left)

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
            seconds=self.clock.seconds,
            steps=steps,
            precision=self.precision.name,
        )


def _nothing() -> None:
    """Do nothing after a step."""
