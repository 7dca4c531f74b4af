"""How much the rate weighs: as told, or so that a size or a quality is met.

::

    bits per step ─> × what the coder really takes of them ─> above the target? ──> the rate weighs more
    PSNR per step ──────────────────────────────────────────> above the target? ──> the rate weighs more
"""

from __future__ import annotations

import math

from vinr.config import Phase
from vinr.fit.checkpoint import ControlValues

# e-folds of the weight over a whole phase where the target is missed by its own size, or by 1 dB; and the
# largest miss that counts.
SIZE_GAIN, QUALITY_GAIN = 40.0, 15.0
SIZE_LIMIT, QUALITY_LIMIT_DB = 0.5, 3.0
WEIGHT_LIMITS = (1e-4, 30.0)
MEMORY = 0.9
# A file may not exceed its target, and the last steps still move its size by 1 %.
AIM = 0.987


class RateControl:
    """The weight of the rate in the loss of one phase, moved after each step where there is a target."""

    def __init__(self, phase: Phase) -> None:
        self._phase = phase
        self.weight = phase.rate_weight
        self.mean_bits = self.mean_psnr_db = math.nan
        # Bytes of the coded network to the bytes that the prior expects.
        self.ratio = 1.0
        self._progress = 0.0

    @property
    def is_needed(self) -> bool:
        """Whether there is a target."""
        return self._phase.target_bytes is not None or self._phase.target_psnr_db is not None

    @property
    def is_sound(self) -> bool:
        """Whether no step has led it astray, as values that are not finite do."""
        is_far = math.isinf(self.mean_bits) or math.isinf(self.mean_psnr_db)  # NaN: there was no step yet
        return math.isfinite(self.weight * self.ratio) and not is_far

    def observe(self, num_bits: float, psnr_db: float, progress: float) -> None:
        """Take the rate and the PSNR of the step at ``progress`` of the phase; move the weight."""
        self.mean_bits = self._smooth(self.mean_bits, num_bits)
        self.mean_psnr_db = self._smooth(self.mean_psnr_db, psnr_db)
        if self._phase.target_bytes is not None:
            expected_bytes = self.ratio * self.mean_bits / 8
            miss = expected_bytes / (AIM * self._phase.target_bytes) - 1
            push = SIZE_GAIN * _within(miss, SIZE_LIMIT)
        elif self._phase.target_psnr_db is not None:
            # Quality rises as the learning rate falls: what a step shows says the more, the later it is.
            trust = 3 * progress**2
            miss_db = _within(self.mean_psnr_db - self._phase.target_psnr_db, QUALITY_LIMIT_DB)
            push = QUALITY_GAIN * trust * miss_db
        else:
            return
        # weight ← weight · e^(push · Δprogress): a constant miss moves it by as many e-folds, however many
        # steps the phase has.
        low, high = WEIGHT_LIMITS
        self.weight = min(max(self.weight * math.exp(push * (progress - self._progress)), low), high)
        self._progress = progress

    def calibrate(self, num_bytes: int) -> None:
        """Take how many bytes the network really takes at this point."""
        if self.mean_bits > 0:
            self.ratio = num_bytes / (self.mean_bits / 8)

    def state(self) -> ControlValues:
        """Return what :meth:`load` goes on from."""
        return ControlValues(
            weight=self.weight,
            ratio=self.ratio,
            mean_bits=None if math.isnan(self.mean_bits) else self.mean_bits,
            mean_psnr_db=None if math.isnan(self.mean_psnr_db) else self.mean_psnr_db,
            progress=self._progress,
        )

    def load(self, state: ControlValues) -> None:
        """Go on from :meth:`state`."""
        self.weight, self.ratio, self._progress = state.weight, state.ratio, state.progress
        self.mean_bits = math.nan if state.mean_bits is None else state.mean_bits
        self.mean_psnr_db = math.nan if state.mean_psnr_db is None else state.mean_psnr_db

    @staticmethod
    def _smooth(mean: float, value: float) -> float:
        return value if math.isnan(mean) else MEMORY * mean + (1 - MEMORY) * value


def _within(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)
