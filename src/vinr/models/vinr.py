"""vinr's own network: HiNeRV whose first stage runs one block four times.

A file stores that block once, and all stages can be wider for it. The first stage has the fewest pixels, where
more arithmetic costs little time. docs/models/vinr.md has what this is worth, and what was tried and left
out. The rest is HiNeRV's (``hinerv.py``).

::

    base grid ──> 3×3 conv ──> first stage: upsampling ──> + local grid ──> block ──┐ ──> stages of HiNeRV
                                                                              ^ 4 times
                                                                              └─────┘
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from vinr.models.hinerv import HiNeRV, HiNeRVConfig


class VinrConfig(HiNeRVConfig):
    """Architecture of vinr's own network; the defaults are what measured best."""

    first_depth: ClassVar[int] = 4

    shared_stages: int = Field(
        1, ge=0, le=8, description="stages, from the first, whose blocks of one width are one block"
    )


class Vinr(HiNeRV):
    """vinr's own network (no paper): HiNeRV whose first stage runs one block four times."""

    Config = VinrConfig
