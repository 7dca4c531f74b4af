"""What the machine can do at most: multiply-accumulates per second, and bytes copied per second.

A multiply-accumulate (MAC) is two floating-point operations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import torch

from benchmarks.speed.turns import Clock

# Names of the limits; the first is filled in with a type.
MATMUL: Final = "matrix product {}, GMAC/s"
COPY: Final = "copy, GB/s"
TYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Larger products and copies would give the same rates.
LARGEST_SIDE, LARGEST_COPY = 8192, 2**28
SMALLEST_SIDE, SMALLEST_COPY = 256, 2**24

Work = Callable[[], object]


def limit_works(device: torch.device, clock: Clock, *, seconds: float) -> dict[str, Callable[[], float]]:
    """Return what measures each limit for about ``seconds``, by name: GMAC/s of square products, GB/s copied.

    Bytes read and bytes written both count. Sizes are chosen now, so that one call fills a quarter of the
    time: what emulates bfloat16 gets small products.
    """
    works: dict[str, Callable[[], float]] = {}
    for name, dtype in TYPES.items():
        work, side = _grown(partial(_product, device, dtype), SMALLEST_SIDE, LARGEST_SIDE, clock, seconds)
        works[MATMUL.format(name)] = partial(_rate, work, side**3 / 1e9, clock, seconds)
    work, size = _grown(partial(_copy, device), SMALLEST_COPY, LARGEST_COPY, clock, seconds)
    works[COPY] = partial(_rate, work, 2 * size / 1e9, clock, seconds)
    return works


def _grown(
    build: Callable[[int], Work], smallest: int, largest: int, clock: Clock, seconds: float
) -> tuple[Work, int]:
    """Return the first work, of sizes that double, that takes a quarter of ``seconds``; and its size."""
    size = smallest
    while True:
        work = build(size)
        work()  # sets things up
        if size >= largest or clock.of(work) >= seconds / 4:
            return work, size
        size *= 2


def _rate(work: Work, amount: float, clock: Clock, seconds: float) -> float:
    """Return ``amount`` per second of the fastest of all calls, since it is a limit."""
    best, total = float("inf"), 0.0
    while total < seconds:
        taken = clock.of(work)
        best, total = min(best, taken), total + taken
    return amount / best


def _product(device: torch.device, dtype: torch.dtype, side: int) -> Work:
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    return partial(torch.mm, matrix, matrix, out=torch.empty_like(matrix))


def _copy(device: torch.device, num_bytes: int) -> Work:
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    return partial(torch.empty_like(source).copy_, source)
