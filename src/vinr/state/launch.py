"""Whether this process is one of several that ``torchrun`` has started."""

from __future__ import annotations

import os
from typing import Final

# What torchrun tells each process. WORLD_SIZE alone, or RANK, is set by other programs, too.
VARIABLES: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def is_one_of_several() -> bool:
    """Return whether others were started with this process."""
    return all(map(os.environ.__contains__, VARIABLES)) and os.environ["WORLD_SIZE"] != "1"
