"""A fitted network coded a little coarser or finer than it was fitted for, to meet a size or a quality.

::

    −1 finer                     0 as fitted                 ½                        1 coarser
     └── smaller steps, ×1/50 ────┴── values drawn to zero ───┴── larger steps, ×16 ───┘
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from vinr.compress.pipeline import PackedTensors, pack_tensors
from vinr.config import CompressSettings
from vinr.errors import FitError, argument
from vinr.models import StoredTensor

# A file of this share of the target size counts as a hit.
MIN_SHARE = 0.975
FINEST, COARSEST = 50.0, 16.0
# In steps: a value just above half a step still survives, one just below does not.
MAX_DRAW = 0.49
MAX_TRIALS = 20


def pack_at(
    stored: Mapping[str, StoredTensor],
    settings: CompressSettings,
    amount: float,
    *,
    steps: Mapping[str, Tensor],
) -> PackedTensors:
    """Return the network coded coarser by ``amount`` (0 … 1), or finer (−1 … 0).

    A network is trained for the very values that its parameters are rounded to, and other steps move them
    all. At first, therefore, the steps stay, and values are drawn towards zero before they are rounded: only
    those move that lay between two symbols anyway.
    """
    factor = FINEST**amount if amount < 0 else COARSEST ** max(2 * amount - 1, 0.0)
    draw = MAX_DRAW * min(max(2 * amount, 0.0), 1.0)
    drawn, scaled = dict(stored), {}
    for name, step in steps.items():
        value = stored[name].value.detach()
        distance = (draw * step).to(value)
        # One step, or one per index of the first axis: (R, 1, …, 1).
        distance = distance.view(-1, *[1] * (value.ndim - 1)) if value.ndim else distance[0]
        drawn[name] = replace(stored[name], value=value.sign() * (value.abs() - distance).clamp_min(0))
        scaled[name] = step * factor
    return pack_tensors(drawn, settings, steps=scaled)


def bisect_largest(is_good: Callable[[float], bool], *, low: float, num_trials: int) -> float:
    """Return the largest amount in ``low`` … 1 for which ``is_good`` holds, by bisection.

    ``is_good`` must hold up to some amount and for none beyond it; at ``low`` it is taken to hold.
    """
    high = 1.0
    for _ in range(num_trials):
        middle = (low + high) / 2
        low, high = (middle, high) if is_good(middle) else (low, middle)
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
    # Bytes fall as the amount rises. If the network as it is fits, look for a finer one (−1 … 0), else for a
    # coarser one (0 … 1); `best` is the largest that fits so far.
    packed = pack_at(stored, settings, 0.0, steps=steps)
    low, high = (0.0, 1.0) if packed.file_bytes > num_bytes else (-1.0, 0.0)
    best = None if packed.file_bytes > num_bytes else packed
    for _ in range(MAX_TRIALS):
        if best is not None and best.file_bytes >= MIN_SHARE * num_bytes:
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
            f"the network takes at least {packed.file_bytes:,} bytes, more than the {num_bytes:,} of the "
            f"target; raise the target, or use fewer parameters ({argument('params')})"
        )
    return best
