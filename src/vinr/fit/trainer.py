"""The only training loop.

::

    frames (levels, on the device) ─┐
    order of an epoch ─> batch ────┼─> model ─> loss ─> gradients ─> optimiser
                                   └─────────────> end of a round: PSNR, collapse?, state

A round is an epoch, or 250 steps where an epoch is longer. A collapsed fit goes back to the end of its last
good round. A state that is kept holds that one, and the one after the last step. Phases (``fit.phases``) that
prepare the network for coding train it frozen, latents included, through :class:`CodingNoise`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from vinr.config import Preset
from vinr.device import exact_float32, memory_kept, resolve_device
from vinr.errors import FitError, UsageError
from vinr.fit.batches import Batches, BatchPart
from vinr.fit.budget import NO_RESERVE, Budget, Reserve, StepClock
from vinr.fit.checkpoint import FitState, Snapshot, SnapshotValues
from vinr.fit.draws import Draws
from vinr.fit.events import Collapsed, Event, RoundDone, StepDone, describe_fall
from vinr.fit.fingerprint import Fingerprint, fingerprint_of_target
from vinr.fit.gradients import add_gradients
from vinr.fit.learner import Learner
from vinr.fit.losses import LossFunction, build_loss, loss_of
from vinr.fit.meter import RoundMeter
from vinr.fit.phases import Moment, append_phases, moment_at
from vinr.fit.precision import Precision, resolve_precision
from vinr.fit.prepare import DeviceFrames, take_weights
from vinr.fit.ranks import ALONE, Ranks
from vinr.fit.result import FitResult
from vinr.fit.task import Reconstruct, Task
from vinr.models import HybridModel, VideoModel
from vinr.quality.measures import psnr_from_mse_db
from vinr.state.interruption import held_back
from vinr.video.spec import FrameSource, PatchGrid

ROUND_STEPS = 250
MAX_COLLAPSES, SHORT_ROUND = 6, 8


@final
class Trainer:
    """One fit that its caller steps: state, order of frames, phases, collapses.

    :func:`vinr.fit.fit` is a short loop over it that also writes the state to a file. Gradients must be on
    (they are, outside ``torch.no_grad()``).

    Parameters
    ----------
    source
        The frames. All of them are held on ``device``, as the source has them.
    preset
        Model, complete architecture and fit settings.
    task
        What is seen and scored; :class:`Reconstruct` if None.
    device
        Where the fit runs: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
    seconds
        Wall-clock time to spend in place of ``preset.fit.epochs``, less ``reserve`` for what follows.
    precision
        The arithmetic; what ``preset.fit.precision`` means on ``device`` if None.
    loss
        A loss in place of that of the preset: from float prediction_NCHW and target_NCHW in [0, 1], masked
        pixels black in both, to one value per frame, Tensor[N].
    schedule
        A learning-rate schedule in place of those of the preset: from the progress of the part of the fit
        that a schedule spans, 0 to 1, to a multiplier of the full rate, at least 0.
    keep_encoder
        Hold on to the encoder of a hybrid model, which is dropped otherwise when the model is frozen.
    fingerprint
        What the trainer's states belong to, where it is known already; that of the other arguments if None.
    ranks
        The processes that step this fit together, each with a Trainer of the same arguments but ``device``.
    initial
        Weights to begin with, by stored name, where they have the shape of the model's own.
    began
        The reading of ``time.monotonic()`` from which ``seconds`` count; now if None.

    Raises
    ------
    UsageError
        If preset, frames and task do not fit together, such as a loss that needs larger frames, or there is
        no such device. From a step: if the loss or the schedule returns what it must not.
    InputError
        If the source's frames are not what its spec says.
    """

    def __init__(
        self,
        source: FrameSource,
        preset: Preset,
        task: Task | None = None,
        *,
        device: torch.device | str = "cpu",
        seconds: float | None = None,
        reserve: Reserve = NO_RESERVE,
        precision: Precision | None = None,
        loss: LossFunction | None = None,
        schedule: Callable[[float], float] | None = None,
        keep_encoder: bool = False,
        fingerprint: Fingerprint | None = None,
        ranks: Ranks = ALONE,
        initial: Mapping[str, Tensor] | None = None,
        began: float | None = None,
    ) -> None:
        if not (isinstance(source, FrameSource) and isinstance(preset, Preset)):
            raise TypeError("Trainer takes a FrameSource and a Preset, as vinr.config.load_preset() returns")
        settings = preset.fit
        self.preset, self.settings, self.task, self.ranks = preset, settings, task or Reconstruct(), ranks
        self.device = resolve_device(str(device))
        self.precision = precision or resolve_precision(settings.precision, self.device)
        self.frames = DeviceFrames(self.task.target(source), self.device)
        visible = self.task.visible(self.frames)
        self.draws = Draws(settings.seed, self.device)
        self._own: dict[str, Any] = {"loss": loss, "schedule": schedule, "initial": initial}
        self.learner = Learner(preset, visible, self.device, self.precision, self.draws, schedule, ranks)
        model = self.model
        if initial is not None:
            take_weights(model, initial)
        model.check_patches(PatchGrid(*settings.patches))
        if model.keyframes is not None:
            model.keyframes.code(visible)
        frame_N = self.task.training_frames(source.spec)
        self.batches = Batches(frame_N, model.group_of(frame_N), settings, model.coded_size(), ranks)
        self.loss = build_loss(settings.loss) if loss is None else loss_of(loss)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.budget = Budget.after(began, settings.epochs * self.steps_per_epoch, seconds, reserve)
        self.clock, self._meter = StepClock(), RoundMeter()
        self.steps_done, self.round_steps = 0, 0
        self.round_mse = torch.zeros((), device=self.device)
        self.best_psnr_db, self.rate_scale, self.num_collapses = -math.inf, 1.0, 0
        self._is_finished, self._is_at_rest = False, True
        self._result: FitResult | None = None
        self._keeps_encoder, self._encoder = keep_encoder, self._held_encoder(keep_encoder)
        self._round_start, self._round_batches = -1, list[tuple[BatchPart, ...]]()
        self._settled: float | None = None  # progress that all ranks agree on, where they follow a clock
        self._good = self._before = self._copy()
        self._retried: Snapshot | None = None
        self._fingerprint = fingerprint

    @property
    def model(self) -> VideoModel:
        """The model in training."""
        return self.learner.model

    def _held_encoder(self, is_kept: bool) -> nn.Module | None:
        return self.model.encoder if is_kept and isinstance(self.model, HybridModel) else None

    # -- stepping ------------------------------------------------------------------------------------------

    @property
    def is_done(self) -> bool:
        """Whether the budget is used up and the last round has ended."""
        return self.progress() >= 1 and not self.round_steps

    def rounds(self) -> Iterator[Event]:
        """Step to the end of the budget; yield what happened after each round.

        Raises
        ------
        FitError
            If the fit collapses again and again.
        """
        while not self.is_done:
            if (event := self.step()) is not None:
                yield event

    def step(self) -> RoundDone | Collapsed | None:
        """Do the next step; return what the round came to if it ended, else None.

        Raises
        ------
        FitError
            If the fit collapses again and again.
        UsageError
            If the budget is used up or the fit finished, or loss or schedule return what they must not.
        """
        self._check_open()
        if self._is_finished:  # not is_done: a clock may run out between that and this
            raise UsageError("the budget of the fit is used up; append phases with continue_with()")
        if self._settled is None:
            self._settle()
        batches = self._batches_of_round()
        if self.round_steps:
            self.clock.skip()  # what the caller did since the last step is no work of the fit
        else:
            with self._at_work():
                self._enter()
                self.learner.align()
            self.clock.start()
        # A fit that was interrupted between the last step of a round and its end has only the end left to do.
        if not self._is_round_over():
            if not self.model.training:
                self.model.train()
            with self._at_work():
                self.round_mse += self.train_on(batches[self.round_steps])
                self.round_steps += 1
                self.steps_done += 1
                self.clock.tick(self.steps_done)
                self._settle()
        if not self._is_round_over():
            return None
        with self._at_work():
            event = self._end_round()
            self._is_finished = self.progress() >= 1
        return event

    def train_on(self, batch: Sequence[BatchPart]) -> Tensor:
        """Update the network once, on ``batch`` (parts of one, as :class:`Batches` gives them).

        Nothing is counted: :meth:`step` is the door for a fit, this one for measuring a step alone.

        Returns
        -------
        Tensor
            The mean squared error before the update, on the device, without gradient.
        """
        self.learner.begin_step(self.moment(), self.rate_scale)
        add = partial(
            add_gradients, learner=self.learner, batches=self.batches, task=self.task, loss=self.loss
        )
        parts = [add(part, self.frames.rgb_NCHW) for part in batch]
        errors = torch.stack([part.mse for part in parts])
        mse, num_bits = self.learner.update(errors.sum(), parts[0].num_bits)
        self._meter.add(parts, num_bits)
        self.learner.observe(num_bits, psnr_from_mse_db(mse), self.moment())
        return mse

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute as :func:`vinr.fit.fit` does: float32 kept exact on a GPU, freed memory kept if so set."""
        memory = memory_kept(self.device) if self.settings.keep_memory else nullcontext()
        with memory, exact_float32(self.device):
            yield

    def _check_open(self) -> None:
        if self._result is not None:
            raise UsageError("the fit is finished, its model frozen; make a new Trainer")

    def progress(self) -> float:
        """Return how much of the budget is used, 0 to 1."""
        if self._is_finished:
            return 1.0
        follows_first = self.ranks.are_several and self.budget.seconds is not None
        return (self._settled or 0.0) if follows_first else self._own_progress()

    def _own_progress(self) -> float:
        epoch_seconds = self.clock.step_seconds * self.steps_per_epoch
        return self.budget.progress(self.steps_done, self.clock.seconds, epoch_seconds)

    def _settle(self) -> None:
        """Let the clock of rank 0 say, once per step, how far all ranks are."""
        if self.ranks.are_several:
            self._settled = self.ranks.settle(self._own_progress())

    def moment(self) -> Moment:
        """Return in which part of the fit the next step is, and where in it."""
        return moment_at(self.progress(), self.settings.phases)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Change the state: signals wait, and what another interruption leaves behind is not kept."""
        with held_back():
            self._is_at_rest = False
            yield
            self._is_at_rest = True

    def _batches_of_round(self) -> list[tuple[BatchPart, ...]]:
        """Return the batches of the round at hand, those included that are done.

        ::

            epoch   0 ──────────────────────┐ 1 ──────────────────────┐
            rounds  ├ 250 ─┼ 250 ─┼ 250 ─┼ 4┤ ├ 250 ─┼ …              an epoch begins a round
        """
        start = self.steps_done - self.round_steps
        if start != self._round_start:
            self._round_start = start
            self._round_batches = self.batches.from_step(start)[:ROUND_STEPS]
        return self._round_batches

    def _is_round_over(self) -> bool:
        """Return whether the round at hand has had its steps, or the budget or its part of the fit ended."""
        if not self.round_steps:
            return False
        is_full = self.round_steps >= len(self._batches_of_round())
        return is_full or self.progress() >= 1 or self.moment().number > self.learner.part

    def _enter(self) -> None:
        """Begin the next part of the fit where it is time to."""
        number = self.moment().number
        if number > self.learner.part:
            self.learner.enter(number, self.best_psnr_db)
            self.best_psnr_db = -math.inf  # rounding costs quality, which is no collapse
            self._good = self._before = self._copy()

    def _end_round(self) -> RoundDone | Collapsed:
        psnr_db = float(psnr_from_mse_db(self.round_mse / self.round_steps))
        self.clock.wait(self.steps_done)
        # The PSNR is that of before each update: what the last one did is seen in the values alone.
        if not self.learner.is_sound:
            psnr_db = math.nan
        if self._collapsed(psnr_db := self.ranks.decide(lambda: psnr_db)):
            return self._roll_back(psnr_db)
        self.best_psnr_db = max(self.best_psnr_db, psnr_db)
        self.learner.end_round()
        self.clock.wait(self.steps_done)
        is_short = self.round_steps < SHORT_ROUND  # of few frames: a second copy takes little memory
        self.round_mse, self.round_steps = torch.zeros_like(self.round_mse), 0
        before, self._good = self._good, self._copy()
        self._before = before if is_short else self._good
        return self._report(psnr_db)

    # -- collapse ------------------------------------------------------------------------------------------

    def _collapsed(self, psnr_db: float) -> bool:
        return not math.isfinite(psnr_db) or psnr_db < self.best_psnr_db - self.settings.collapse_db

    def _roll_back(self, psnr_db: float) -> Collapsed:
        steps_lost, seconds = self.steps_done, self.clock.seconds
        scale, count = self.rate_scale / 2, self.num_collapses + 1
        if count > MAX_COLLAPSES:
            raise FitError(
                f"the fit collapsed {count} times, last {describe_fall(self.best_psnr_db, psnr_db)}; "
                f"lower fit.learning_rate ({self.settings.learning_rate:g}) or choose another seed"
            )
        # A short round is copied before its harm shows: the second time the copy before it is taken.
        self._restore(self._before if self._good is self._retried else self._good)
        self.rate_scale, self.num_collapses = scale, count
        if self.budget.seconds is not None:
            self.clock.seconds = seconds  # the clock does not go back
        self._good = self._retried = self._copy()
        lost = (steps_lost - self.steps_done) / self.steps_per_epoch
        return Collapsed(psnr_db, self.best_psnr_db, lost, scale)

    # -- state ---------------------------------------------------------------------------------------------

    def state(self, *, copied: bool = True) -> FitState:
        """Return everything that decides how the fit goes on.

        Where it is not ``copied``, for writing it at once, its tensors change with the next step.
        """
        self._check_open()
        # Values that are not finite come to nothing at the end of the round, and so they do again.
        is_sound = bool(self.round_mse.isfinite()) and self.learner.is_sound
        now = None
        if self.round_steps and self._is_at_rest and is_sound:
            now = self._copy() if copied else self._snapshot()
        last = self._good if now is None else now
        epochs_done, name = last.values.steps_done / self.steps_per_epoch, self.precision.name
        return FitState(self._good, now, name, epochs_done, self.fingerprint, is_finished=self._is_finished)

    @property
    def fingerprint(self) -> Fingerprint:
        """What a state belongs to; all frames are read for it when it is first asked for."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint_of_target(
                self.frames, self.preset, self.task, self.budget.seconds, **self._own
            )
        return self._fingerprint

    def load(self, state: FitState) -> None:
        """Go on from ``state``; one that is refused changes nothing.

        Raises
        ------
        InputError
            If it is damaged.
        UsageError
            If it belongs to other frames, settings or functions, or to an earlier part of the fit.
        """
        self._check_open()
        if not isinstance(state, FitState):
            raise TypeError(f"load({type(state).__name__}): give what state() returned")
        self.fingerprint.check(state.fingerprint)
        if state.precision != self.precision.name:
            raise UsageError(
                f"the kept state was fitted in {state.precision}, this trainer computes in "
                f"{self.precision.name}; make it with precision=vinr.fit.Precision({state.precision!r})"
            )
        state.check_rounds(math.inf if self.budget.seconds is not None else self.budget.num_steps)
        self.learner.rehearse([state.good] if state.now is None else [state.good, state.now])
        self._restore(state.good)
        self._good = self._before = state.good
        if state.now is not None:
            self._restore(state.now)
        self._settled = None
        self._is_finished = state.is_finished
        self._encoder = self._held_encoder(self._keeps_encoder)
        self.clock.start()

    def continue_with(self, phases: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """Append phases to the fit, and the epochs that they last to its budget.

        Parameters
        ----------
        phases
            For each the epochs it lasts, at least 1, and the settings of a :class:`vinr.config.Phase` but
            its share.

        Raises
        ------
        UsageError
            If a length or a setting is not allowed, the fit follows the clock, or it is finished.
        """
        self._check_open()
        if self.budget.seconds is not None:
            raise UsageError("a fit by time cannot be continued with phases; give it epochs")
        self.settings = append_phases(self.settings, phases)
        self.preset = self.preset.model_copy(update={"fit": self.settings})
        self.learner.follow(self.preset)
        if self._fingerprint is not None:
            settings = self.preset.model_dump(mode="json")["fit"]
            self._fingerprint = self._fingerprint.model_copy(update={"fit": settings})
        self.budget = replace(self.budget, num_steps=self.settings.epochs * self.steps_per_epoch)
        self._is_finished = False

    def _copy(self) -> Snapshot:
        snapshot = self._snapshot()
        copies = {name: value.detach().clone() for name, value in snapshot.tensors.items()}
        return replace(snapshot, tensors=copies)

    def _snapshot(self) -> Snapshot:
        tensors = {**self.learner.tensors(), "round.mse": self.round_mse}
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

    def _restore(self, snapshot: Snapshot) -> None:
        tensors, values = snapshot.tensors, snapshot.values
        self.learner.load(tensors, values)
        self.round_mse = tensors["round.mse"].to(self.device, copy=True)
        self.steps_done, self.round_steps = values.steps_done, values.round_steps
        self.clock.seconds, self.clock.step_seconds = values.seconds_done, values.step_seconds
        self.best_psnr_db = -math.inf if values.best_psnr_db is None else values.best_psnr_db
        self.rate_scale, self.num_collapses = values.rate_scale, values.num_collapses

    # -- end -----------------------------------------------------------------------------------------------

    def seconds_left(self) -> float:
        """Return how long the rest of the fit takes at the pace so far; infinite before the first step."""
        if self.budget.seconds is None:
            return (self.budget.num_steps - self.steps_done) * self.clock.step_seconds
        progress = self.progress()
        return self.clock.seconds * (1 - progress) / progress if progress else math.inf

    def last_step(self) -> StepDone:
        """Return how far the fit has come."""
        return StepDone(self.steps_done / self.steps_per_epoch, self.progress(), self.seconds_left())

    def _report(self, psnr_db: float) -> RoundDone:
        loss, num_bits = self._meter.take()
        epochs_done, seconds = self.steps_done / self.steps_per_epoch, self.clock.seconds
        done = RoundDone(epochs_done, self.progress(), psnr_db, seconds, self.seconds_left(), self.steps_done)
        rate, phase = self.learner.learning_rate, self.learner.part
        bpp = None if num_bits is None else num_bits / self.frames.spec.num_pixels
        return replace(done, loss=loss, num_bits=num_bits, bpp=bpp, learning_rate=rate, phase=phase)

    def finish(self) -> FitResult:
        """Freeze the model and return it, also before the budget is used up; nothing trains afterwards."""
        if self._result is not None:
            return self._result
        steps = self.learner.close_part()
        self.task.complete(self.model)
        self._result = FitResult(
            model=self.model.eval(),
            train_psnr_db=self.best_psnr_db,
            num_epochs=self.steps_done / self.steps_per_epoch,
            num_steps=self.steps_done,
            num_collapses=self.num_collapses,
            seconds=self.clock.seconds,
            steps=steps,
            encoder=self._encoder,
            precision=self.precision.name,
        )
        return self._result
