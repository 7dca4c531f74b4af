"""Interleaved measurement: what is compared runs in turns, so that other work slows all of it alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, final

import torch


@final
class Clock:
    """Reads seconds: CPU time where one thread works on a CPU, wall-clock time otherwise.

    CPU time leaves out what other programs take. On GPUs a reading waits until all work handed to the device
    is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.is_cpu_time = device.type == "cpu" and torch.get_num_threads() == 1

    def __call__(self) -> float:
        """Return seconds since some moment."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.process_time() if self.is_cpu_time else time.perf_counter()

    def of(self, work: Callable[[], Any]) -> float:
        """Return the seconds that ``work`` takes."""
        started = self()
        work()
        return self() - started


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of what the turns gave."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise ``values``, at least one."""
        return cls(median(values), min(values), max(values))


def take_turns(
    works: Mapping[str, Callable[[], float]], *, turns: int, seconds: float = 0.0
) -> dict[str, list[float]]:
    """Call every work once a turn, at least ``turns`` turns and ``seconds`` long; return what each gave."""
    readings: dict[str, list[float]] = {name: [] for name in works}
    started = time.perf_counter()
    turn = 0
    while turn < turns or time.perf_counter() - started < seconds:
        for name, work in works.items():
            readings[name].append(work())
        turn += 1
    return readings


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Return the ratios of what was measured in the same turn."""
    return Spread.of([over / under for over, under in zip(numerators, denominators, strict=True)])
