"""Which arithmetic a network is fitted in: float32, or bfloat16 where the machine is faster at it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vinr.errors import UsageError

__all__ = ["Precision", "resolve_precision"]

NAMES = ("auto", "fp32", "bf16")
WORTHWHILE_SPEEDUP = 1.2
# A processor without bfloat16 instructions can be hundreds of times slower at it. Each probe is several times
# larger than the one before; the first ratio this low ends the probing.
HOPELESS_SPEEDUP = 0.25
PROBE_REPEATS = 3


class Precision(NamedTuple):
    """Type for ``torch.autocast`` (None: float32 throughout), and why, as text for a log."""

    dtype: torch.dtype | None
    reason: str


def resolve_precision(name: str, device: torch.device | str) -> Precision:
    """Return the arithmetic that ``name`` ("auto", "fp32" or "bf16") means on ``device``.

    "auto" is bfloat16 on CUDA devices that have it, and on processors where a matrix product and a
    convolution are measured (once a process, a few milliseconds) to be at least 1.2 times as fast in it.

    Raises
    ------
    UsageError
        If the name is unknown, or bf16 is asked of a CUDA device without it.
    """
    device = torch.device(device)
    if name not in NAMES:
        raise UsageError(f"unknown precision {name!r}; there are {', '.join(NAMES)}")
    if name == "fp32":
        return Precision(None, "fp32: as set")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision(torch.bfloat16, f"bf16: {'as set' if name == 'bf16' else 'the GPU has it'}")
        if name == "bf16":
            raise UsageError("precision bf16: this GPU has no bfloat16 arithmetic; use auto or fp32")
        return Precision(None, "fp32: the GPU has no bfloat16 arithmetic")
    if name == "bf16":
        return Precision(torch.bfloat16, "bf16: as set")
    if device.type != "cpu":
        return Precision(None, f"fp32: bf16 is not tried on {device.type} devices")
    return _measured_on_cpu()


@lru_cache(maxsize=1)
def _measured_on_cpu() -> Precision:
    speedup = bf16_speedup(_cpu_seconds)
    if speedup >= WORTHWHILE_SPEEDUP:
        return Precision(
            torch.bfloat16, f"bf16: measured {speedup:.1f} times as fast as fp32 on this processor"
        )
    return Precision(None, f"fp32: bf16 measured {speedup:.2g} times as fast on this processor")


def bf16_speedup(seconds: Callable[[str, int, torch.dtype], float]) -> float:
    """Return how many times as fast bfloat16 is, by ``seconds(operation, size, dtype)`` of growing probes.

    The result is that of the largest matrix product and convolution together, or of the first hopeless one.
    """
    total = {torch.float32: 0.0, torch.bfloat16: 0.0}
    for operation, size, counts in (
        ("matmul", 64, False),
        ("conv", 16, False),
        ("matmul", 128, False),
        ("conv", 32, False),
        ("matmul", 256, True),
        ("conv", 64, True),
    ):
        taken = {dtype: seconds(operation, size, dtype) for dtype in total}
        speedup = taken[torch.float32] / taken[torch.bfloat16]
        if speedup < HOPELESS_SPEEDUP:
            return speedup
        if counts:
            total = {dtype: total[dtype] + taken[dtype] for dtype in total}
    return total[torch.float32] / total[torch.bfloat16]


@torch.no_grad()
def _cpu_seconds(operation: str, size: int, dtype: torch.dtype) -> float:
    """Return the shortest time of a matrix product (size³) or a 3×3 convolution (size², 32 channels)."""
    run: Callable[[], Tensor]
    if operation == "matmul":
        matrix = torch.ones(size, size, dtype=dtype)
        run = lambda: matrix @ matrix  # noqa: E731 - a two-way choice of what to time
    else:
        feature_NCHW = torch.ones(1, 32, size, size, dtype=dtype)
        kernel = torch.ones(32, 32, 3, 3, dtype=dtype)
        run = lambda: F.conv2d(feature_NCHW, kernel, padding=1)  # noqa: E731
    best = float("inf")
    for _ in range(1 + PROBE_REPEATS):  # the first one also sets things up
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return best
