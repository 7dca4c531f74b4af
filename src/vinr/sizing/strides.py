"""Strides for any frame size, and widths for any value of one dial, C0.

::

    frame size ──> choose_strides ──┐
    dial C0 ──> taper, shrink ──────┴──> settings of a model, as its `Scaling` says
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any

from vinr.video.spec import VideoSpec

if TYPE_CHECKING:
    from vinr.models.base import ModelConfig, Scaling

STRIDES = (5, 4, 3, 2)
MAX_STAGES = 6
# What models accept at most: the product of the strides, and the cells of the first grid.
MAX_MULTIPLE = 1024
MAX_CELLS = 4096
MAX_WIDTH = 4096
# The thinnest stage of any network.
MIN_WIDTH = 4
# Padding beyond this share of the frame counts double.
FREE_PADDING = 0.06
# Latents of a frame take at most this share of all parameters.
LATENT_SHARE = 0.35


def taper(width: float, count: int, *, reduction: float, lower: float) -> tuple[int, ...]:
    """Return ``count`` widths that shrink by ``reduction`` from ``width``, rounded, within ``lower`` … 4096.

    Each width is rounded by itself, so that a rising ``width`` raises them one after another.
    """
    widths = []
    for number in range(count):
        exact = max(width / reduction**number, lower)
        widths.append(min(max(round(exact), 1), MAX_WIDTH))
    return tuple(widths)


@lru_cache(maxsize=512)
def choose_strides(
    height: int, width: int, *, target_grid: tuple[int, int] = (2, 4), grid_cost: float = 0.004
) -> tuple[int, ...]:
    """Return falling strides out of 5, 4, 3, 2, the last one 2, for frames of any size.

    The product P of the strides fixes the padding (each side is rounded up to a multiple of P) and the latent
    grid (the padded frame divided by P). Chosen is the least sum of the share of padded pixels (twice what
    exceeds 6 %) and ``grid_cost`` · n², where the grid has 2ⁿ times or 2⁻ⁿ times the cells of
    ``target_grid``; then the fewest stages. P is at most 1024, and the grid has at most 4096 cells, or as few
    as there can be. 640×1280 gives 5, 4, 4, 2, 2 as in HNeRV.
    """
    target_cells = math.prod(target_grid)

    def cost(strides: tuple[int, ...]) -> tuple[int, float, int, int]:
        multiple = math.prod(strides)
        cells = -(-height // multiple) * -(-width // multiple)
        padding = cells * multiple**2 / (height * width) - 1
        padding += max(padding - FREE_PADDING, 0)
        # More cells cost latents, fewer cost detail: doublings off the target, squared.
        distance = math.log2(cells / target_cells) ** 2
        return max(cells - MAX_CELLS, 0), round(padding + grid_cost * distance, 12), len(strides), -multiple

    return min(_stride_lists(), key=cost)


@lru_cache(maxsize=1)
def _stride_lists() -> list[tuple[int, ...]]:
    # Of each multiset one list, falling: the order of strides moves parameters, not the size of the grid.
    lists: list[tuple[int, ...]] = []
    for count in range(1, MAX_STAGES + 1):
        lists += combinations_with_replacement(STRIDES, count)
    return [strides for strides in lists if strides[-1] == 2 and math.prod(strides) <= MAX_MULTIPLE]


def scale_settings(
    scaling: Scaling,
    config_class: type[ModelConfig],
    video: VideoSpec,
    dial: float,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return ``settings`` with strides, widths and shrinking settings chosen where they are left open.

    ``dial`` is C0 before rounding; see :class:`vinr.models.base.Scaling`.
    """
    chosen = dict(settings)
    if "strides" not in chosen:
        chosen["strides"] = choose_strides(
            video.height, video.width, target_grid=scaling.grid, grid_cost=scaling.grid_cost
        )
    if "widths" not in chosen:
        chosen["widths"] = stage_widths(scaling, dial, len(chosen["strides"]))
    for name, (full_dial, lowest) in scaling.shrinks.items():
        default = config_class.model_fields[name].default
        if isinstance(default, tuple):
            value: Any = tuple(shrink(full, dial / full_dial, lowest) for full in default)
        else:
            value = shrink(default, dial / full_dial, lowest)
        chosen.setdefault(name, value)
    return chosen


def stage_widths(scaling: Scaling, dial: float, num_stages: int) -> tuple[int, ...]:
    """Return C0 and the channels after each stage for C0 = ``dial`` before rounding."""
    lower = min(max(scaling.lower_share * dial, MIN_WIDTH), scaling.lower)
    after_first = dial / scaling.reduction if scaling.expansion is None else dial * scaling.expansion
    stem = taper(dial, 1, reduction=1, lower=scaling.lowest_stem)
    return (*stem, *taper(after_first, num_stages, reduction=scaling.reduction, lower=lower))


def shrink(full: int, share: float, lowest: int) -> int:
    """Return ``share`` of ``full``, rounded, within ``lowest`` … ``full``."""
    return min(max(round(full * share), lowest), full)


def affordable_latents(num_others: int, share: float = LATENT_SHARE) -> float:
    """Return how many latents keep to ``share`` of a total whose other parameters are ``num_others``."""
    # latents = share · (latents + others), solved for latents
    return num_others * share / (1 - share)
