"""The learning rate over a fit: a pure function of progress in [0, 1]."""

from __future__ import annotations

import math

from vinr.config import Schedule


def learning_rate_multiplier(progress: float, schedule: Schedule) -> float:
    """Return the factor of the full learning rate for the step at ``progress``.

    ::

        1 ┤      ╭──╮                     warm-up: warmup_start + (1 − warmup_start) · progress / warmup
          │    ╱     ╲                    decay:   final + (1 − final) · shape(x), shape falls from 1 to 0
          │  ╱         ╲                           cosine: ½ (1 + cos πx);  power: 1 − x ** power
          │╱             ╲___ final                x runs from 0 to 1 after the warm-up, or over the whole
          └──────┬───────────┬─ progress           fit when ``decay_from`` is "start"
              warmup         1

    Raises
    ------
    ValueError
        If ``progress`` lies outside [0, 1].
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress must lie in [0, 1], got {progress}")
    if progress < schedule.warmup:
        return schedule.warmup_start + (1 - schedule.warmup_start) * progress / schedule.warmup
    # x runs from 0 to 1 over what is left, or (HiNeRV) has begun to run during the warm-up.
    decay_start = schedule.warmup if schedule.decay_from == "warmup" else 0.0
    x = (progress - decay_start) / (1 - decay_start)
    shape = 0.5 * (1 + math.cos(math.pi * x)) if schedule.decay == "cosine" else 1 - x**schedule.power
    return schedule.final + (1 - schedule.final) * shape
