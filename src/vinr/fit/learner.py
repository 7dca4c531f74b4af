"""What learns: the network, what coding does to it in the phase at hand, and its optimiser.

::

    plain fit   model with encoder ──> frames             phase   frozen model's numbers ──> coding noise ──┐
                                                                          frames <── model with those <─────┘
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Real

import torch
from torch import Tensor, nn

from vinr.compress import pack_tensors
from vinr.config import Phase, Preset
from vinr.device import exact_float32
from vinr.errors import InputError, UsageError, plural
from vinr.fit.checkpoint import (
    Snapshot,
    SnapshotValues,
    all_finite,
    check_tensors,
    pack_optimizer,
    restore_draws,
    under_prefix,
    unpack_optimizer,
    with_prefix,
)
from vinr.fit.coding_noise import CodingNoise
from vinr.fit.draws import Draws
from vinr.fit.fixing import Fixing
from vinr.fit.optimizers import build_optimizer, moments_of, set_learning_rate
from vinr.fit.phases import Moment, schedule_of
from vinr.fit.precision import Precision
from vinr.fit.prepare import Outputs, build_model, share_frames
from vinr.fit.ranks import ALONE, Ranks
from vinr.fit.rate_control import AIM, RateControl
from vinr.fit.schedules import learning_rate_multiplier
from vinr.models import VideoModel
from vinr.video.spec import FrameSource, Query

# How often steps are corrected at the start of a phase, and by how many bits an element each time at most.
FIRST_CORRECTIONS, MOST_BITS = 3, 1.0
# Finer steps are of no use, whatever size is asked for.
FINEST_BITS = 8


@dataclass(frozen=True)
class TrainingOutputs:
    """(weight, float rgb_NCHW) pairs, and the bits of all parameters where the phase asks for them."""

    frames: tuple[tuple[float, Tensor], ...]
    num_bits: Tensor | None


class Learner:
    """A model in training; ``part`` is −1 in the plain fit and then the number of the phase."""

    def __init__(
        self,
        preset: Preset,
        visible: FrameSource,
        device: torch.device,
        precision: Precision,
        draws: Draws,
        schedule: Callable[[float], float] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.preset, self.visible, self.device, self.draws = preset, visible, device, draws
        self.settings, self._schedule, self.precision = preset.fit, schedule, precision
        self.model = build_model(preset, visible.spec, device, precision, draws)
        _check_phases(self.model, preset)
        self.ranks = ranks
        share_frames(self.model, ranks)
        self.outputs = Outputs(self.model)
        self.part, self.coding = -1, CodingNoise({}, None, preset.compress, draws)
        self.control: RateControl | None = None
        self._progress = 0.0  # of the part at hand, at the step at hand
        self.optimizer = build_optimizer(self.model.named_parameters(), self.settings)

    @property
    def phase(self) -> Phase | None:
        """The phase at hand, None in the plain fit."""
        return None if self.part < 0 else self.settings.phases[self.part]

    def follow(self, preset: Preset) -> None:
        """Take up settings that differ in the phases to come."""
        _check_phases(self.model, preset)
        self.preset, self.settings = preset, preset.fit

    # -- a step --------------------------------------------------------------------------------------------

    def begin_step(self, moment: Moment, scale: float) -> None:
        """Set the learning rates of the step at ``moment``, all times ``scale``; mind the size asked for."""
        self._progress = moment.progress
        num_bytes = None if self.phase is None else self.phase.target_bytes
        fixing = self.coding.fixing
        if num_bytes is not None and fixing is not None and fixing.is_correction_due(moment.progress):
            self._meet_size(num_bytes, fixing)
        full = 1.0 if self.phase is None else self.phase.learning_rate
        if self._schedule is None:
            schedule = schedule_of(self.part, self.settings)
            multiplier = learning_rate_multiplier(moment.schedule_progress, schedule)
        else:
            multiplier = self._schedule(moment.schedule_progress)
            if not isinstance(multiplier, Real) or not 0 <= multiplier < math.inf:
                raise UsageError(
                    f"the schedule returns {multiplier!r} at progress {moment.schedule_progress:g}; "
                    "return a finite number of at least 0, which multiplies the full learning rate"
                )
        set_learning_rate(self.optimizer, full * scale * multiplier)

    @property
    def learning_rate(self) -> float:
        """The largest learning rate of the step at hand."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    def evaluate(self, query: Query) -> TrainingOutputs:
        """Return what the loss compares with the frames."""
        if self.part < 0:
            return TrainingOutputs(self.outputs(query, self.visible), None)
        stored = self.model.stored()
        values, num_bits = self.coding({name: item.value for name, item in stored.items()}, self._progress)
        return TrainingOutputs(self.outputs.of(values, stored, query), num_bits)

    def price(self, num_bits: Tensor, slope: Tensor) -> Tensor:
        """Return what the rate adds to a loss that moves by ``slope`` where the error does by its size."""
        phase = self.phase
        assert phase is not None
        assert self.control is not None
        if phase.rate_unit == "bpp":
            return self.control.weight * num_bits / self.visible.spec.num_pixels
        return self.control.weight * slope * num_bits / self.coding.num_elements

    def update(self, mse: Tensor, num_bits: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Move everything that learns down its gradient, and forget the gradients.

        Returns ``mse``, of which each rank gives its share, and ``num_bits`` of the whole batch.
        """
        if self.ranks.are_several:
            mse, num_bits = self._add_up(mse, num_bits)
        if self.settings.gradient_clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return mse, num_bits

    def _add_up(self, mse: Tensor, num_bits: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Add up over all ranks the gradients, and what :meth:`update` returns."""
        # One message:   gradients, 0 where there is none │ 1 for each that there is │ mse │ bits
        learning = [item for group in self.optimizer.param_groups for item in group["params"]]
        gradients = [torch.zeros_like(item) if item.grad is None else item.grad for item in learning]
        is_there = mse.new_tensor([float(item.grad is not None) for item in learning])
        # All ranks have the same bits: those of rank 0 count.
        bits = mse.new_zeros(()) if num_bits is None or not self.ranks.is_first else num_bits
        *sums, is_there, mse, bits = self.ranks.add_up([*gradients, is_there, mse, bits])
        torch._foreach_copy_(gradients, sums)
        if any(item.grad is None for item in learning):
            # Another rank may have one; what has none anywhere is left alone, as in a fit on one device.
            for item, gradient, count in zip(learning, gradients, is_there.tolist(), strict=True):
                item.grad = gradient if count else None
        return mse, None if num_bits is None else bits

    def observe(self, num_bits: Tensor | None, psnr_db: Tensor, moment: Moment) -> None:
        """Let rate control see what the step at ``moment`` came to."""
        if self.control is not None and self.control.is_needed and num_bits is not None:
            self.control.observe(float(num_bits), float(psnr_db), moment.progress)

    def end_round(self) -> None:
        """Let rate control take stock; code the network as it is, where its size matters."""
        if self.control is None or self.phase is None:
            return
        self.control.end_round()
        if self.phase.target_bytes is None or self.coding.fixing is not None:
            return
        self.control.calibrate(self.ranks.decide(self._count_bytes))

    def _meet_size(self, num_bytes: int, fixing: Fixing) -> None:
        """Make all steps larger or smaller, so that the network takes ``num_bytes``."""
        bytes_per_bit = self.coding.num_elements / 8
        aim = min(AIM * num_bytes, FINEST_BITS * bytes_per_bit)
        for _ in range(1 if fixing.num_corrections else FIRST_CORRECTIONS):
            # Steps twice as large take one bit less of each element.
            bits = (self.ranks.decide(self._count_bytes) - aim) / bytes_per_bit
            self.coding.scale_steps(min(max(bits, -MOST_BITS), MOST_BITS))
        fixing.correct()

    def _count_bytes(self) -> int:
        pruned = self.coding.pruned(self.model.stored())
        num_bytes = pack_tensors(pruned, self.preset.compress, steps=self.coding.steps()).file_bytes
        return num_bytes + (0 if self.model.keyframes is None else self.model.keyframes.num_bytes)

    # -- phases --------------------------------------------------------------------------------------------

    def enter(self, number: int, before_db: float = math.nan) -> None:
        """Go on to phase ``number``: train the frozen network, with a new optimiser.

        ``before_db`` is the PSNR that it has come to, where it is known.
        """
        self.close_part()
        self.part = number
        phase = self.settings.phases[number]
        stored = self.model.stored()
        coding = CodingNoise(stored, phase, self.preset.compress, self.draws, self.coding)
        self.coding = coding.to(self.device)
        for item in stored.values():
            item.value.requires_grad_(phase.trains == "all" or item.role == "latent")
        learned = self.coding.named_parameters(prefix="coding")
        rule = phase.optimizer or self.settings.optimizer
        settings = self.settings.model_copy(update={"optimizer": rule})
        self.optimizer = build_optimizer(chain(self.model.named_parameters(), learned), settings)
        self.control = RateControl(phase, before_db)

    def close_part(self) -> Mapping[str, Tensor]:
        """Leave the plain fit or a phase: freeze the network; return the steps that were learned."""
        if self.part < 0:
            with exact_float32(self.device):
                self.model.freeze(self.visible)
        stored = self.model.stored()
        with torch.no_grad():
            for name, item in self.coding.pruned(stored).items():
                stored[name].value.copy_(item.value)
        return self.coding.steps()

    # -- state ---------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Return, by name, all tensors that steps change, as they are; :meth:`load` goes on from copies."""
        moments, _ = pack_optimizer(self.optimizer.state_dict())
        return {
            **with_prefix("model.", self.model.state_dict()),
            **with_prefix("optimizer.", moments),
            **with_prefix("coding.", self.coding.state_dict()),
            **with_prefix("random.", self.draws.state()),
        }

    def align(self) -> None:
        """Take all that learns, and what the optimiser keeps of it, from rank 0.

        It is the same already where all ranks have the same kind of CPU or GPU.
        """
        if self.ranks.are_several:
            moments, _ = pack_optimizer(self.optimizer.state_dict())
            coding = self.coding.state_dict().values()
            self.ranks.spread([*self.model.parameters(), *coding, *moments.values()])

    @property
    def is_sound(self) -> bool:
        """Whether all its values are finite."""
        return all_finite(self.tensors()) and (self.control is None or self.control.is_sound)

    def optimizer_steps(self) -> tuple[int | None, ...]:
        """Return how many steps each group of parameters has done, where the update rule counts them."""
        return pack_optimizer(self.optimizer.state_dict())[1]

    def load(self, tensors: Mapping[str, Tensor], values: SnapshotValues) -> None:
        """Go on from :meth:`tensors`, of this part of the fit or a later one.

        Raises
        ------
        InputError
            If they do not belong to it.
        """
        if not self.part <= values.part < len(self.settings.phases):
            raise InputError(
                f"the kept state is in phase {values.part}, the fit has "
                f"{plural(len(self.settings.phases), 'phase')}"
            )
        for number in range(self.part + 1, values.part + 1):
            self.enter(number)
        if not all_finite(tensors):
            raise InputError("the kept state holds values that are not finite")
        # Copies: the state is gone back to again if the fit collapses.
        copies = {name: value.clone() for name, value in tensors.items()}
        model, coding = under_prefix("model.", copies), under_prefix("coding.", copies)
        check_tensors(self._like_model(model), model, "tensor")
        check_tensors(self.coding.state_dict(), coding, "coding parameter")
        self.model.load_state_dict(model)
        self.coding.load_state_dict(coding)
        slots, kept = moments_of(self.optimizer), under_prefix("optimizer.", copies)
        state = unpack_optimizer(self.optimizer.state_dict(), kept, values.optimizer_steps, slots)
        self.optimizer.load_state_dict(state)
        if self.control is not None:
            if values.control is None:
                raise InputError("the kept state has no rate control")
            self.control.load(values.control)
        restore_draws(self.draws, under_prefix("random.", copies))

    def rehearse(self, snapshots: Sequence[Snapshot]) -> None:
        """Refuse what :meth:`load` would refuse of ``snapshots``, one after the other, and change nothing.

        Raises
        ------
        InputError
            If they do not belong to it.
        UsageError
            If they are of a part of the fit that is over.
        """
        first = snapshots[0].values.part
        if first < self.part:
            kept, here = _name_of_part(first), _name_of_part(self.part)
            raise UsageError(
                f"the kept state is of {kept}, the fit has come to {here}; load it into a new Trainer"
            )
        # Going on to a phase cannot be undone: a new learner tries it.
        trial = Learner(
            self.preset, self.visible, self.device, self.precision, Draws(self.settings.seed, self.device)
        )
        if trial.model.keyframes is not None and self.model.keyframes is not None:
            trial.model.keyframes.attach(self.model.keyframes.coded.__getitem__)
        for snapshot in snapshots:
            trial.load(snapshot.tensors, snapshot.values)

    def _like_model(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the model's state with those buffers filled that are filled in ``kept``.

        Such a buffer holds frames of the whole video, as the model makes them or as they are shown.
        """
        expected = self.model.state_dict()
        video = self.model.video
        coded = (video.num_frames, 3, *self.model.coded_size())
        shown = (video.num_frames, 3, video.height, video.width)
        for prefix, module in self.model.named_modules():
            # Not named_buffers(): that leaves out those that are empty.
            for buffer_name, value in module._buffers.items():
                name = f"{prefix}.{buffer_name}".lstrip(".")
                if value is None and name in kept and kept[name].shape in (coded, shown):
                    # As FrameBuffer keeps them.
                    expected[name] = kept[name].to(torch.uint8 if video.bit_depth == 8 else torch.int16)
                elif value is not None and name not in kept and value.shape in (coded, shown):
                    del expected[name]
        return expected


def _name_of_part(number: int) -> str:
    return "the plain fit" if number < 0 else f"phase {number}"


def _check_phases(model: VideoModel, preset: Preset) -> None:
    """Raise UsageError where a phase trains latents and the model has none."""
    if model.per_frame_shapes():
        return
    for number, phase in enumerate(preset.fit.phases):
        if phase.trains == "latents":
            raise UsageError(
                f'fit.phases[{number}] has trains = "latents", and {preset.model} has no latents; '
                'take trains = "all", or a model with latents such as hnerv'
            )
