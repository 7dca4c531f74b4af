"""Symbols that are fixed one random part after another, while the values that are left make up for them.

::

    progress of the phase   0 ────────── start ──────────────────── FIXED_BY ── 1
    steps                   learned        │ stay as they are
    values                  rounded, all   │ none fixed … half … nearly all │ all fixed

Values that are all rounded to the nearest symbol at once are off independently of each other. Here what a
symbol is off is learned by those not fixed yet, which are not rounded until it is their turn: incremental
quantisation (Zhou et al., "Incremental network quantization", ICLR 2017), in random order instead of the
largest first.

Axes: E elements of all tensors that are coded, one after another.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from vinr.fit.draws import Draws

# Of the phase: then biases alone go on.
FIXED_BY: Final = 0.95
# A size that is asked for is looked after so often in a phase, as long as this share at most is fixed. Of
# vinr's network with 60,000 parameters it grew by 2.5 % until half was fixed, and by 0.1 % from then on.
NUM_CORRECTIONS: Final = 20
CORRECTED_SHARE: Final = 0.5


class Fixing(nn.Module):
    """Which of ``num_elements`` values are fixed, and at what, from ``start`` of the phase (0 to 1) on."""

    order_E: Tensor
    is_fixed_E: Tensor
    fixed_E: Tensor
    corrections: Tensor

    def __init__(self, num_elements: int, start: float, draws: Draws) -> None:
        super().__init__()
        self.start = start
        self.register_buffer("order_E", draws.uniform(num_elements))
        self.register_buffer("is_fixed_E", torch.zeros(num_elements, dtype=torch.bool))
        self.register_buffer("fixed_E", torch.zeros(num_elements))
        # A number of the state of a fit, so that one that goes on corrects no more often.
        self.register_buffer("corrections", torch.zeros((), dtype=torch.int64))

    def has_begun(self, progress: float) -> bool:
        """Whether it has, at ``progress`` of the phase."""
        return progress >= self.start

    @property
    def num_corrections(self) -> int:
        """How often steps were corrected for a size that is asked for."""
        return int(self.corrections)

    def is_correction_due(self, progress: float) -> bool:
        """Whether steps are to be corrected again at ``progress`` of the phase."""
        may_move = self._share(progress) < CORRECTED_SHARE
        return may_move and progress * NUM_CORRECTIONS >= self.num_corrections

    def correct(self) -> None:
        """Steps have been corrected: what was fixed in the old ones is fixed anew."""
        self.corrections += 1
        self.is_fixed_E.zero_()

    def forward(self, value_E: Tensor, step_E: Tensor, progress: float) -> Tensor:
        """Return the values to train with at ``progress``: ``value_E``, some of them fixed."""
        new_E = (self.order_E < self._share(progress)) & ~self.is_fixed_E
        # In place: they are part of the state of a fit.
        self.fixed_E.copy_(torch.where(new_E, (value_E / step_E).round() * step_E, self.fixed_E).detach())
        self.is_fixed_E |= new_E
        return self.place(value_E)

    def place(self, value_E: Tensor) -> Tensor:
        """Return ``value_E`` with the fixed ones in their places."""
        return torch.where(self.is_fixed_E, self.fixed_E, value_E)

    def _share(self, progress: float) -> float:
        return (progress - self.start) / max(FIXED_BY - self.start, 1e-9)
