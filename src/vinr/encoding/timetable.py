"""How a time is shared by networks, fitted one after another or by several workers at once.

::

    began                                                          began + seconds
      |-- opening, trying --|-- 0 --|-- 2 --|---------- 4 ----------|      worker 1
                            |-- 1 --|-- 3 --|                              worker 2

Each network takes time by its share of the pixels; the worker with the most of them takes all that is left.
"""

from __future__ import annotations

import heapq
import time as clock
from dataclasses import replace
from typing import Final

from vinr.encoding.foresee import Foreseen
from vinr.encoding.segment_work import Allowance
from vinr.encoding.splitting import busiest_worker
from vinr.fit import Reserve

LEAST_SECONDS: Final = 1.0


class Timetable:
    """Says of each network, when its turn comes, how long it may take.

    Parameters
    ----------
    foreseen
        The plan with its time, and what was tried.
    num_slots
        How many networks are fitted at a time.
    began
        The reading of ``time.monotonic()`` from which the time of the plan counts.
    """

    def __init__(self, foreseen: Foreseen, num_slots: int, began: float) -> None:
        self._work, self._jobs = foreseen.work, foreseen.plan.jobs
        now = clock.monotonic()
        self._load, _ = busiest_worker([job.share for job in self._jobs], num_slots)
        self._seconds = max(foreseen.seconds - (now - began), LEAST_SECONDS)
        self._ends = [now] * num_slots

    def allowance(self, number: int) -> Allowance:
        """Return the time of network ``number``, whose turn is now.

        A network that took too long is paid for by the next.
        """
        began = min(heapq.heappop(self._ends), clock.monotonic())
        costs, share = self._work.costs, self._jobs[number].share / self._load
        # The last step ends within the time, too.
        after = self._work.after * share + costs.step
        reserve = Reserve(after, costs.step * costs.steps_per_epoch)
        allowance = Allowance(self._seconds * share, began, reserve)
        heapq.heappush(self._ends, began + allowance.seconds)
        return allowance


def sent(allowance: Allowance) -> Allowance:
    """Return what is left of ``allowance``, to be sent to where another clock runs."""
    passed = clock.monotonic() - allowance.began
    return replace(allowance, seconds=max(allowance.seconds - passed, LEAST_SECONDS), began=0.0)
