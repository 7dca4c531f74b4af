"""Whether this process is one of several that ``torchrun`` has started, and whether they work together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# What torchrun tells each process. WORLD_SIZE alone, or RANK, is set by other programs, too.
VARIABLES: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def is_one_of_several() -> bool:
    """Return whether others were started with this process."""
    return all(map(os.environ.__contains__, VARIABLES)) and os.environ["WORLD_SIZE"] != "1"


_num_together = 1


def num_together() -> int:
    """Return how many processes work together in which this one is: 1 if it is alone."""
    return _num_together


@contextmanager
def working_together(count: int) -> Iterator[None]:
    """Be one of ``count`` processes that work together while the body runs."""
    global _num_together
    before, _num_together = _num_together, count
    try:
        yield
    finally:
        _num_together = before
