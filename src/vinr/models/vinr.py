"""vinr's own network: HiNeRV with fewer, deeper weights.

The blocks of a stage that keep its width are one block, run several times: what a file stores of a stage is
two blocks at most, however deep the stage is, and so each can be wider. docs/models/vinr.md has what each
choice is worth, and what was tried and left out. The rest is HiNeRV's (``hinerv.py``).

::

    stage:  LayerNorm ──> bilinear ×s ──> + local grid ──> block to the stage's width ──> block, as often as
                                                                                      └───────<──┘  depth says
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from vinr.models.hinerv import HiNeRV, HiNeRVConfig


class VinrConfig(HiNeRVConfig):
    """Architecture of vinr's own network; the defaults are what measured best."""

    usual_depth: ClassVar[int] = 4

    shared_stages: int = Field(
        8,
        ge=0,
        le=8,
        description="stages, from the first, whose blocks of one width are one block, run as often",
    )


class Vinr(HiNeRV):
    """vinr's own network (no paper): HiNeRV whose stages run one block again and again."""

    Config = VinrConfig
