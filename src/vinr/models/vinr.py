"""vinr's own network: HiNeRV whose first stage runs one block four times.

A file stores that block once, and all stages can be wider for it. The first stage has the fewest pixels, so
that its arithmetic costs little time. docs/models/vinr.md has what this is worth, and what was tried and left
out. The rest is HiNeRV's (``layers/hierarchical.py``).

::

    base grid ──> 3×3 conv ──> first stage: upsampling ──> + local grid ──> block ──┐ ──> stages of HiNeRV
                                                                              ^ 4 times
                                                                              └─────┘
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from vinr.models.layers.hierarchical import HierarchicalConfig, HierarchicalModel


class VinrConfig(HierarchicalConfig):
    """Architecture of vinr's own network; the defaults are what measured best."""

    first_depth: ClassVar[int] = 4

    shared_stages: int = Field(
        1, ge=0, le=8, description="stages, from the first, whose blocks of one width are one block"
    )


class Vinr(HierarchicalModel):
    """vinr's own network (2026): HiNeRV (NeurIPS 2023) whose first stage runs one block four times."""

    Config = VinrConfig
