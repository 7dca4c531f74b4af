"""A fitted network coded a little coarser or finer than it was fitted for, to meet a size or a quality.

::

    −1 finer                     0 as fitted                                          1 coarser
     └── smaller steps, ×1/50 ────┴──────────────── larger steps, ×16 ─────────────────┘

A network is trained for the very values that its parameters are rounded to: any other steps cost 0.1 to 1 dB
at once. Drawing values towards zero instead, so that only those move that lie between two symbols, costs
several times more for the same bytes (docs/results/quality-target.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from vinr.compress.pipeline import PackedTensors, pack_tensors
from vinr.config import CompressSettings
from vinr.errors import FitError, argument
from vinr.models import StoredTensor

# A file of this share of the target size counts as a hit.
MIN_SHARE = 0.975
FINEST, COARSEST = 50.0, 16.0
MAX_TRIALS = 20


def pack_at(
    stored: Mapping[str, StoredTensor],
    settings: CompressSettings,
    amount: float,
    *,
    steps: Mapping[str, Tensor],
) -> PackedTensors:
    """Return the network coded coarser by ``amount`` (0 … 1), or finer (−1 … 0)."""
    factor = FINEST**amount if amount < 0 else COARSEST**amount
    return pack_tensors(stored, settings, steps={name: step * factor for name, step in steps.items()})


def bisect_largest(
    is_good: Callable[[float], bool], *, low: float, high: float = 1.0, num_trials: int
) -> float:
    """Return the largest amount in ``low`` … ``high`` for which ``is_good`` holds, by bisection.

    ``is_good`` must hold up to some amount and for none beyond it; at ``low`` it is taken to hold.
    """
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
    may_refine: bool = True,
) -> PackedTensors:
    """Return the network coded in at most ``num_bytes``, index included, 97.5 % of them where possible.

    ``may_refine`` = False leaves a network that takes less as it is: finer steps tell nothing more about
    symbols that are fixed.

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
    if best is not None and not may_refine:
        return best
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
