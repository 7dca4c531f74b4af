"""A fitted network coded a little coarser or finer than it was fitted for, to meet a size or a quality.

::

    −1 finer                     0 as fitted                 ½                        1 coarser
     └── smaller steps, ×1/50 ────┴── numbers drawn to zero ──┴── larger steps, ×16 ───┘
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from vinr.compress.pipeline import PackedTensors, pack_tensors
from vinr.config import CompressSettings
from vinr.errors import FitError
from vinr.models import StoredTensor

# The least share of the bytes asked for that counts as hit.
LEAST_SHARE = 0.975
FINEST, COARSEST = 50.0, 16.0
# In steps: a number just above half a step still survives, one just below does not.
LARGEST_DRAW = 0.49
MOST_TRIALS = 20


def pack_at(
    stored: Mapping[str, StoredTensor],
    settings: CompressSettings,
    amount: float,
    *,
    steps: Mapping[str, Tensor],
) -> PackedTensors:
    """Return the network coded coarser by ``amount`` (0 … 1), or finer (−1 … 0).

    A network is used to the very values that its numbers are rounded to, and other steps move them all. At
    first, therefore, the steps stay, and numbers are drawn towards zero before they are rounded: those move
    that lay between two symbols anyway.
    """
    factor = FINEST**amount if amount < 0 else COARSEST ** max(2 * amount - 1, 0.0)
    draw = LARGEST_DRAW * min(max(2 * amount, 0.0), 1.0)
    drawn = {
        name: replace(item, value=_drawn(item.value.detach(), draw * steps[name])) if name in steps else item
        for name, item in stored.items()
    }
    return pack_tensors(drawn, settings, steps={name: step * factor for name, step in steps.items()})


def _drawn(value: Tensor, distance: Tensor) -> Tensor:
    distance = distance.to(value).view(-1, *[1] * (value.ndim - 1)) if value.ndim else distance[0].to(value)
    return torch.sign(value) * (value.abs() - distance).clamp_min(0)


def coarsest_within(is_good: Callable[[float], bool], *, low: float, num_trials: int) -> float:
    """Return the greatest amount in ``low`` … 1 that is good, found by halving; ``low`` is taken to be."""
    high = 1.0
    for _ in range(num_trials):
        middle = (low + high) / 2
        if is_good(middle):
            low = middle
        else:
            high = middle
    return low


def pack_to_size(
    stored: Mapping[str, StoredTensor],
    settings: CompressSettings,
    num_bytes: int,
    *,
    steps: Mapping[str, Tensor],
) -> PackedTensors:
    """Return the network coded in at most ``num_bytes``, index included, 97.5 % of them where possible.

    Raises
    ------
    FitError
        If even the coarsest coding takes more.
    """
    packed = pack_at(stored, settings, 0.0, steps=steps)
    low, high = (0.0, 1.0) if packed.file_bytes > num_bytes else (-1.0, 0.0)
    best = None if packed.file_bytes > num_bytes else packed
    for _ in range(MOST_TRIALS):
        if best is not None and best.file_bytes >= LEAST_SHARE * num_bytes:
            break
        middle = (low + high) / 2
        packed = pack_at(stored, settings, middle, steps=steps)
        if packed.file_bytes > num_bytes:
            low = middle
            continue
        high = middle
        if best is None or packed.file_bytes > best.file_bytes:
            best = packed
    if best is None:
        raise FitError(
            f"the network takes {packed.file_bytes:,} bytes at the least, {num_bytes:,} are asked for; "
            f"ask for more, or for fewer numbers with --params"
        )
    return best
