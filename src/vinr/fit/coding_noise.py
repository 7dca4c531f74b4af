"""What coding will do to the parameters of a network, put into its training.

::

    values ── × mask ───┬─> as they are                                     ──> network
                        ├─> rounded, all or nine in ten (QAT, Quant-Noise)  ──> network
                        └─> rounded to learned steps ──> network;  + noise ──> prior ──> bits ──> loss
                    (in the end fixed one after another)

Sources: Quant-Noise as in HiNeRV (Kwan et al., 2023), supplement; learned steps against a rate as in C-NeRV
(Gomes et al., CVPR 2023), without its shift: symbols are multiples of the step, so that zero stays zero.

Axes: E elements of all tensors that are coded, one after another; T tensors; S steps; R rows of a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from vinr.compress.roles import bits_of, is_channelwise
from vinr.compress.unpack import CHANNEL_CODE_UNIT, MANTISSA_BITS, MAX_STEP_CODE, step_of
from vinr.config import CompressSettings, Phase
from vinr.fit.draws import Draws
from vinr.fit.fixing import Fixing
from vinr.fit.priors import make_prior
from vinr.fit.prune import prune_masks
from vinr.models import StoredTensor

NOISE_SHARE = 0.9
# Adam moves every parameter by about its rate a step; steps have to move faster than biases.
STEP_SPEED = 10.0
# log2 of √(2πe): entropy of a bell of deviation 1 in steps of 1.
BELL_BITS = 0.5 * math.log2(2 * math.pi * math.e)
# Of each float type: an integer as wide, the digits of its mantissa, and the bias of its exponent.
FLOAT_LAYOUTS = {torch.float32: (torch.int32, 23, 127), torch.float64: (torch.int64, 52, 1023)}


def snap_steps(step_S: Tensor, *, by_channel: bool = False, up: bool = False) -> Tensor:
    """Return the nearest steps that a file can hold (``up``: the least that are no smaller).

    Steps a channel are held to fewer digits. Steps beyond what the format has become its least or greatest.
    """
    unit = CHANNEL_CODE_UNIT if by_channel else 1
    levels = 2 ** (MANTISSA_BITS + 1) // unit
    fraction_S, exponent_S = torch.frexp(step_S)
    scaled_S = fraction_S * levels
    rounded_S = scaled_S.ceil() if up else scaled_S.round()
    snapped_S = rounded_S / levels * _power_of_two(exponent_S, step_S.dtype)
    clamped_S: Tensor = snapped_S.clamp(step_of(0), step_of(MAX_STEP_CODE // unit * unit))
    return clamped_S


def _power_of_two(exponent_S: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 2^exponent, −100 to 100, written as the bits of a float.

    ``ldexp`` multiplies by a computed power, and a GPU may get its last digit wrong. A step that is one digit
    too large would be stored as the next larger one.
    """
    integer, digits, bias = FLOAT_LAYOUTS[dtype]
    bits_S: Tensor = exponent_S.clamp(-100, 100).to(integer) + bias << digits
    return bits_S.view(dtype)


def _spread(value_R: Tensor, size: int) -> Tensor:
    """Return ``size`` elements in R rows of equal length, each with its row's value."""
    # Not by an index: its gradient on a GPU adds element after element, and in no fixed order.
    return value_R[:, None].expand(-1, size // len(value_R)).flatten()


def _passing(value: Tensor, rounded: Tensor) -> Tensor:
    """Return ``rounded``, with the gradient of ``value`` (straight-through)."""
    return value + (rounded - value).detach()


class CodingNoise(nn.Module):
    """Turns the values of a network into those that one phase of a fit trains with.

    Parameters
    ----------
    stored
        The network's tensors (all, latents among them) at the start of the phase.
    phase, settings
        What the phase does (None: nothing), and how the result will be written.
    draws
        Where all noise comes from, and what a learned prior begins with.
    before
        What the phase before did: what it pruned stays pruned.

    Biases and other vectors are left alone: they are few, and written with many bits.
    """

    def __init__(
        self,
        stored: Mapping[str, StoredTensor],
        phase: Phase | None,
        settings: CompressSettings,
        draws: Draws,
        before: CodingNoise | None = None,
    ) -> None:
        super().__init__()
        self.draws = draws
        self.quantization = "none" if phase is None else phase.quantization
        masks = {} if before is None else before.masks_by_name()
        if phase is not None and phase.sparsity:
            masks = prune_masks(stored, phase.sparsity, phase.pruning)
        self.masks = nn.ParameterDict()  # by index: names of tensors hold dots
        self.mask_places = {name: str(number) for number, name in enumerate(masks)}
        for name, mask in masks.items():
            self.masks[self.mask_places[name]] = nn.Parameter(mask, requires_grad=False)
        self.num_elements = 0
        coded: dict[str, StoredTensor] = {}
        self.sizes: list[int] = []
        self.bits: dict[str, int] = {}
        self.by_channel: dict[str, bool] = {}
        for name, item in stored.items():
            self.num_elements += item.value.numel()
            if self.quantization != "none" and item.role != "bias":
                coded[name] = item
                self.sizes.append(item.value.numel())
                self.bits[name] = bits_of(item.role, settings)
                self.by_channel[name] = is_channelwise(item, settings)
        self.names = list(coded)
        self.log_step: nn.Parameter | None = None
        self.prior: nn.Module | None = None
        self.fixing: Fixing | None = None
        self.rate_moves_numbers = phase is None or phase.rate_moves == "all"
        if phase is not None and phase.quantization == "entropy" and coded:
            self._start_learning_steps(coded, phase)

    def _start_learning_steps(self, coded: Mapping[str, StoredTensor], phase: Phase) -> None:
        starts = []
        for name, item in coded.items():
            masked = self._masked(name, item.value.detach())
            rows = masked.flatten(1) if self.by_channel[name] else masked.reshape(1, -1)
            deviation_R = rows.square().mean(1).sqrt().clamp_min(1e-8)
            # A bell of deviation σ takes log2(σ / s) + BELL_BITS bits in steps s; here initial_bits.
            starts.append(torch.log(deviation_R) + math.log(2) * (BELL_BITS - phase.initial_bits))
        self.num_steps = [len(start) for start in starts]
        self.log_step = nn.Parameter(torch.cat(starts) / STEP_SPEED)
        self.prior = make_prior(phase.prior, self.sizes, self.draws).to(self.log_step.device)
        if phase.fix_from is not None:
            self.fixing = Fixing(sum(self.sizes), phase.fix_from, self.draws)

    def forward(
        self, values: Mapping[str, Tensor], progress: float = 0.0
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return the values to train with at ``progress`` of the phase, by name, and what they cost in bits.

        Bits are None where nobody asks. In float32 whatever the automatic mixed precision around: steps and
        prices need all digits.
        """
        with torch.autocast(next(iter(values.values())).device.type, enabled=False):
            return self._coded(values, progress)

    def _coded(
        self, values: Mapping[str, Tensor], progress: float
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        masked = {name: self._masked(name, value) for name, value in values.items()}
        if not self.names:
            return masked, None
        if self.log_step is None:
            for name in self.names:
                masked[name] = self._rounded(name, masked[name])
            return masked, None
        # One row of elements for all tensors, so that a step has few operations:
        #   value_E   tensor 0 ······│ tensor 1 ···│ tensor 2 ·········
        #   step_E    s s s s s s s s│ t t t u u u │ v v v v v v v v v v     tensor 1: a step per channel
        value_E = self._joined(masked)
        step_T = torch.split(self._step(), self.num_steps)
        step_E = torch.cat(list(map(_spread, step_T, self.sizes)))
        is_fixing = self.fixing is not None and self.fixing.has_begun(progress)
        if is_fixing:
            step_E = step_E.detach()
        code_E = value_E / step_E
        if self.fixing is not None and is_fixing:
            decoded_E = self.fixing(value_E, step_E, progress)
        else:
            decoded_E = _passing(code_E, code_E.round()) * step_E
        masked |= self._apart(decoded_E, masked)
        assert self.prior is not None
        priced_E = code_E if self.rate_moves_numbers else value_E.detach() / step_E
        # Uniform noise of one step stands for rounding: it has the same spread, and a gradient.
        bits_E = self.prior(priced_E, priced_E + self.draws.uniform_like(priced_E) - 0.5)
        return masked, bits_E.sum()

    def _joined(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the elements of all tensors that are coded, one after another."""
        return torch.cat([values[name].flatten() for name in self.names])

    def _apart(self, value_E: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors that are coded of their elements, each shaped as that of ``like``."""
        parts = zip(self.names, torch.split(value_E, self.sizes), strict=True)
        return {name: part.view(like[name].shape) for name, part in parts}

    def masks_by_name(self) -> dict[str, Tensor]:
        """Return name → what is kept (bool) of each pruned tensor."""
        return {name: self.masks[place] for name, place in self.mask_places.items()}

    def _masked(self, name: str, value: Tensor) -> Tensor:
        return value * self.masks[self.mask_places[name]] if name in self.mask_places else value

    def _step(self) -> Tensor:
        assert self.log_step is not None
        step_S = torch.exp(STEP_SPEED * self.log_step)
        parts = torch.split(step_S.detach(), self.num_steps)
        snapped = [snap_steps(part, by_channel=len(part) > 1) for part in parts]
        return _passing(step_S, torch.cat(snapped))

    def _rounded(self, name: str, value: Tensor) -> Tensor:
        rows = value.flatten(1) if self.by_channel[name] else value.reshape(1, -1)
        levels = 2 ** self.bits[name] - 1
        step_R1 = ((rows.amax(1) - rows.amin(1)) / levels).clamp_min(1e-12).unsqueeze(1)
        # Upwards, or the greatest value would need one level more than the bits have.
        step_R1 = _passing(step_R1, snap_steps(step_R1.detach(), by_channel=len(rows) > 1, up=True))
        code = rows / step_R1
        detached = self.quantization == "noise"
        symbol = code.round().detach() if detached else _passing(code, code.round())
        decoded = (symbol * step_R1).view(value.shape)
        if self.quantization == "qat":
            return decoded
        return torch.where(self.draws.uniform_like(value) < NOISE_SHARE, decoded, value)

    # -- the end of a phase --------------------------------------------------------------------------------

    @torch.no_grad()
    def steps(self) -> dict[str, Tensor]:
        """Return learned steps: name → (1,), or one for each index of the first axis; empty if none were."""
        if self.log_step is None:
            return {}
        return dict(zip(self.names, torch.split(self._step().detach(), self.num_steps), strict=True))

    @torch.no_grad()
    def pruned(self, stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
        """Return ``stored`` with pruned values zero, and fixed ones in their places.

        Others with learned steps stay as they are: rounded to those steps, as the file will hold them, they
        are what the network was trained with.
        """
        values = {name: self._masked(name, item.value) for name, item in stored.items()}
        if self.fixing is not None:
            values |= self._apart(self.fixing.place(self._joined(values)), values)
        return {name: replace(item, value=values[name]) for name, item in stored.items()}

    @torch.no_grad()
    def scale_steps(self, bits: float) -> None:
        """Make all learned steps larger, so that each element takes about ``bits`` less."""
        assert self.log_step is not None
        self.log_step.add_(bits * math.log(2) / STEP_SPEED)
