"""What the steps of a round came to, for whoever watches the fit; no state of the fit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vinr.fit.gradients import Part


class RoundMeter:
    """Adds up the steps of a round; it waits for the device when it is asked alone."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._num_bits: Tensor | None = None

    def add(self, parts: Sequence[Part], num_bits: Tensor | None) -> None:
        """Take the parts of the batch of one step, and the bits that it estimated."""
        self._losses.append(torch.stack([part.loss for part in parts]).sum())
        self._num_bits = num_bits

    def take(self) -> tuple[float | None, float | None]:
        """Return the mean loss of the steps since the last call, and the bits that the last one estimated."""
        losses, num_bits = self._losses, self._num_bits
        self._losses = []
        loss = float(torch.stack(losses).mean()) if losses else None
        return loss, None if num_bits is None else float(num_bits)
