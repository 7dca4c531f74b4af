"""vinr's own network: HiNeRV whose first stage runs one block three times, with parameters elsewhere.

A file stores that block once, and all stages can be wider for it. The first stage has the fewest pixels, so
that its arithmetic costs little time. Its block has fewer hidden channels than HiNeRV's, that of the last
stage more; the second stage has two blocks, not three. There are two base grids: a fine one of few steps of
time, for what stands still, and a coarse one of many, for what moves. docs/models/vinr.md has what this is
worth, and what was tried. The rest is HiNeRV's (``layers/hierarchical.py``).

::

    base grids ──> 3×3 conv ──> first stage: upsampling ──> + local grid ──> block ──┐ ──> stages of HiNeRV
                                                                               ^ 3 times
                                                                               └─────┘
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from vinr.models.layers.hierarchical import HierarchicalConfig, HierarchicalModel
from vinr.video.spec import VideoSpec


class VinrConfig(HierarchicalConfig):
    """Architecture of vinr's own network; the defaults are what measured best."""

    size_fields: ClassVar[tuple[str, ...]] = (*HierarchicalConfig.size_fields, "coarse_grid_frames")
    # Of files that state no depths; new networks do.
    first_depth: ClassVar[int] = 4

    shared_stages: int = Field(
        1, ge=0, le=8, description="stages, from the first, whose blocks of one width are one block"
    )


class Vinr(HierarchicalModel):
    """vinr's own network (2026): HiNeRV (NeurIPS 2023) whose first stage runs one block three times."""

    Config = VinrConfig
    base_share = 0.31
    least_base_channels = 1
    coarse_share = 0.12
    new_depths = (3, 2, 1)
    new_expansions = (3.0, 4.0, 3.0)

    @classmethod
    def new_strides(cls, video: VideoSpec) -> tuple[int, ...]:
        """Return HiNeRV's strides, but 2 in the first stage: a finer base grid, of fewer steps of time."""
        return (2, *super().new_strides(video)[1:])
