"""How much the rate weighs: as told, or so that a size or a quality is met.

::

    bits per step ─> × what the coder really takes of them ─> above the target? ──> the rate weighs more
    PSNR before the phase ─┐
    PSNR per round ────────┴─> what it ends at ─> − target: what coding may cost ─> the weight that costs it

A weight is what coding costs. Of a distortion D₀ + c · 2⁻²ᵇ with b bits per parameter, one bit less is worth
a share w of the whole where coding makes up w / (2 ln 2) of it: 0.3 dB at w = 0.1, 0.1 dB at 0.03. So where a
quality is hardly in reach, the rate weighs less from the first step of the phase on, and never more than as
the recipe has it: what the network has to spare in the end is given up by larger steps, which takes as few
bytes as a larger weight while it trains, or fewer (docs/results/quality-target.md). What steps show is less
than what the phase ends at, since PSNR rises as the learning rate falls: rounds are prolonged on a straight
line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, linear_regression

from vinr.config import Phase
from vinr.fit.checkpoint import ControlValues

# e-folds of the weight over a whole phase where the target is missed by its own size; and the largest miss
# that counts.
SIZE_GAIN, SIZE_LIMIT = 40.0, 0.5
WEIGHT_LIMITS = (1e-4, 30.0)
MEMORY = 0.9
# A file may not exceed its target, and the last steps still move its size by 1 %.
AIM = 0.987

# The weight at which all distortion would be that of coding.
WHOLE_WEIGHT = 2 * math.log(2)
# What coding costs at least, dB: below, bits are spent for next to nothing. At most it costs what it does at
# the weight of the recipe.
LEAST_COST_DB = 0.06
# Where nearly all distortion is that of coding, it is no such sum any more.
MOST_SHARE = 0.9
# By how much the PSNR of the part before, a mean over its last round, is less than what the phase ends at
# without coding: 1 to 3 dB in short fits, less in long ones. Rounds tell later.
RISE_DB = 1.2
# A line through the rounds of this share of the phase is prolonged. Its first part counts in none: a learning
# rate that starts again costs quality at first.
LINE_SHARE, LINE_FROM = 0.25, 0.15
# How a miss of what the line ends at moves what coding may cost: dB per dB over a whole phase, in full from
# TRUSTED on.
QUALITY_GAIN, TRUSTED, QUALITY_LIMIT_DB = 4.0, 0.6, 2.0
# So much above the target is aimed at: what is to spare in the end is given up exactly, what lacks is lost.
QUALITY_MARGIN_DB = 0.05


def weight_that_costs(cost_db: float) -> float:
    """Return the weight, in units of ``relative``, at which coding costs so many dB."""
    return WHOLE_WEIGHT * min(1 - 10 ** (-cost_db / 10), MOST_SHARE)


def cost_of_weight(weight: float) -> float:
    """Return how many dB coding costs at a weight: the inverse of :func:`weight_that_costs`."""
    return -10 * math.log10(1 - min(weight / WHOLE_WEIGHT, MOST_SHARE))


class RateControl:
    """The weight of the rate in the loss of one phase, moved after each step where there is a target.

    ``before_db`` is the PSNR at the end of the part before, NaN or infinite if it is not known.
    """

    def __init__(self, phase: Phase, before_db: float = math.nan) -> None:
        self._phase = phase
        self.weight = phase.rate_weight
        self.mean_bits = self.mean_psnr_db = math.nan
        # Bytes of the coded network to the bytes that the prior expects.
        self.ratio = 1.0
        self._progress = 0.0
        # Mean PSNR of the steps of the round at hand, where it began; (middle, mean PSNR) of earlier ones.
        self._round_db, self._round_steps, self._round_start = 0.0, 0, 0.0
        self._rounds: list[tuple[float, float]] = []
        # What coding may cost to meet a quality.
        self.cost_db = self._most_db = max(cost_of_weight(phase.rate_weight), LEAST_COST_DB)
        if phase.target_psnr_db is not None:
            if math.isfinite(before_db):
                self.cost_db = self._allowed(before_db + RISE_DB - self._aim_db)
            self.weight = weight_that_costs(self.cost_db)

    @property
    def _aim_db(self) -> float:
        assert self._phase.target_psnr_db is not None
        return self._phase.target_psnr_db + QUALITY_MARGIN_DB

    @property
    def is_needed(self) -> bool:
        """Whether the weight has a target to meet; a size is met by the steps where symbols are fixed."""
        has_size = self._phase.target_bytes is not None and self._phase.fix_from is None
        return has_size or self._phase.target_psnr_db is not None

    @property
    def is_sound(self) -> bool:
        """Whether no step has led it astray, as values that are not finite do."""
        is_far = math.isinf(self.mean_bits) or math.isinf(self.mean_psnr_db)  # NaN: there was no step yet
        return math.isfinite(self.weight * self.ratio * self.cost_db) and not is_far

    def observe(self, num_bits: float, psnr_db: float, progress: float) -> None:
        """Take the rate and the PSNR of the step at ``progress`` of the phase; move the weight."""
        self.mean_bits = self._smooth(self.mean_bits, num_bits)
        self.mean_psnr_db = self._smooth(self.mean_psnr_db, psnr_db)
        passed = progress - self._progress
        if self._phase.target_bytes is not None:
            expected_bytes = self.ratio * self.mean_bits / 8
            miss = expected_bytes / (AIM * self._phase.target_bytes) - 1
            push = SIZE_GAIN * _within(miss, SIZE_LIMIT)
            # weight ← weight · e^(push · Δprogress): a constant miss moves it by as many e-folds, however
            # many steps the phase has.
            low, high = WEIGHT_LIMITS
            self.weight = min(max(self.weight * math.exp(push * passed), low), high)
        self._round_db += (psnr_db - self._round_db) / (self._round_steps + 1)
        self._round_steps += 1
        self._progress = progress

    def end_round(self) -> None:
        """A round has ended: the steps since the last one showed every frame, or many, once."""
        if not self._round_steps:
            return
        start, now = self._round_start, self._progress
        self._rounds.append(((start + now) / 2, self._round_db))
        # The last two make a line however long rounds are.
        while len(self._rounds) > 2 and self._rounds[0][0] < now - LINE_SHARE:
            self._rounds.pop(0)
        self._round_db, self._round_steps, self._round_start = 0.0, 0, now
        end_db = line_at_end(self._rounds)
        if self._phase.target_psnr_db is None or end_db is None:
            return
        trust = min(now / TRUSTED, 1.0)
        miss_db = _within(end_db - self._aim_db, QUALITY_LIMIT_DB)
        self.cost_db = self._allowed(self.cost_db + QUALITY_GAIN * trust * miss_db * (now - start))
        self.weight = weight_that_costs(self.cost_db)

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
            cost_db=self.cost_db,
            rounds=tuple(self._rounds),
            round_db=self._round_db,
            round_steps=self._round_steps,
            round_start=self._round_start,
            progress=self._progress,
        )

    def load(self, state: ControlValues) -> None:
        """Go on from :meth:`state`."""
        self.weight, self.ratio, self._progress = state.weight, state.ratio, state.progress
        self.mean_bits = math.nan if state.mean_bits is None else state.mean_bits
        self.mean_psnr_db = math.nan if state.mean_psnr_db is None else state.mean_psnr_db
        self.cost_db, self._rounds = state.cost_db, list(state.rounds)
        self._round_db, self._round_steps = state.round_db, state.round_steps
        self._round_start = state.round_start

    def _allowed(self, cost_db: float) -> float:
        return min(max(cost_db, LEAST_COST_DB), self._most_db)

    @staticmethod
    def _smooth(mean: float, value: float) -> float:
        return value if math.isnan(mean) else MEMORY * mean + (1 - MEMORY) * value


def line_at_end(rounds: Sequence[tuple[float, float]]) -> float | None:
    """Return what a line through (progress, PSNR) of rounds comes to at the end, None if they make no line.

    PSNR does not fall any more once the learning rate does, but for what frames and noise make of it.
    """
    points = [point for point in rounds if point[0] >= LINE_FROM]
    if len(points) < 2:
        return None
    line = linear_regression(*zip(*points, strict=True))
    middle, mean_db = (fmean(values) for values in zip(*points, strict=True))
    slope = max(line.slope, 0.0)
    return mean_db + slope * (1 - middle)


def _within(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)
