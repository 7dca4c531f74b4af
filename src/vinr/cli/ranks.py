"""The command line where ``torchrun`` has started it several times."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

# All of these are set by torchrun; WORLD_SIZE alone, or RANK, by other programs too.
VARIABLES: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def run_once(run: Callable[[], object]) -> None:
    """Run a command in the first of the processes that torchrun has started; the others help it to fit."""
    if not all(map(os.environ.__contains__, VARIABLES)) or os.environ["WORLD_SIZE"] == "1":
        run()
        return
    from vinr.fit.follow import work_together
    from vinr.fit.ranks import joined

    with joined() as ranks:
        work_together(ranks, run)
