"""What a program of its own does first: it notes when it began, and lets threads wait without computing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Final

# Place of the starting time among the values of /proc/self/stat that follow the program's name.
START_FIELD: Final = 19

# The libraries of GNU, LLVM and Intel.
PASSIVE: Final = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}

_began: ContextVar[float | None] = ContextVar("began", default=None)


def remember_start() -> None:
    """Count times from the start of this process; for a process that does nothing but one command."""
    _began.set(process_start())


def command_start() -> float:
    """Return the reading of ``time.monotonic()`` from which a command's time counts; now if unknown."""
    began = _began.get()
    return time.monotonic() if began is None else began


def process_start(
    read: Callable[[], str] = lambda: Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace"),
) -> float:
    """Return the reading of ``time.monotonic()`` when this process began; now where no system tells."""
    now = time.monotonic()
    if sys.platform != "linux":
        return now
    try:
        # 1234 (a name (of any kind)) S 1 …: a name may hold spaces and parentheses.
        ticks = int(read().rpartition(")")[2].split()[START_FIELD])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return now
    return now - max(age, 0.0)


def wait_passively() -> None:
    """Let threads that wait for others give the CPU away; before PyTorch is loaded, which reads this once.

    They compute on otherwise while they wait: on two busy cores a step of a small network then takes 15 to
    100 times as long (docs/results/threads.md).
    """
    for name, value in PASSIVE.items():
        os.environ.setdefault(name, value)
